"""How kernels are compiled.

`kernel` and `inlined` are the only ways this package compiles anything: they fix the options in one
place. `compiled` returns the machine code, which `npfsn.machine_code` keeps on disk. Only a start
that does not find it there imports this module and Numba.

NUMBA_DISABLE_JIT=1, which debuggers and coverage tools set for Python code, is not obeyed: some
kernels are LLVM code and have no Python to fall back to.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from numba import int64, njit
from numba.core import config
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.types.misc import unliteral

from .kernels.cpu import CPU, FEATURES_OF_CPU

# New objects after which a look for garbage pays. Without any, a start that compiles would take as
# long, and 14 MB more.
_ALLOCATIONS = 100_000


def kernel(py_func: Callable[..., None]) -> Any:
    """Compile `py_func` when it is needed: no GIL, IEEE arithmetic.

    Kernels allocate nothing and raise nothing; outputs and state are arguments. Those that only
    other kernels call may return a number or a view.
    They trust their arguments: callers have checked them.
    """
    return _dispatcher(py_func, inline="never")


def inlined(py_func: Callable[..., None]) -> Any:
    """Make `py_func` a part of each kernel that calls it, compiled there and not on its own.

    For functions that one kernel calls, or that each kernel calls with other types of arguments: as
    a `kernel`, they would be compiled on their own and again in each caller. Python can still call
    them. The rules of `kernel` apply.
    """
    return _dispatcher(py_func, inline="always")


def compiled(kernel: Any) -> tuple[str, int, list[str], bytes, bool]:
    """Compile a kernel whose arguments are all int64.

    Returns
    -------
    symbol : str
        Its name in the code. There it has two arguments more, before the others: pointers to where
        Numba would write a result and an error. They must be valid: a null is written as result.
    n_argument : int
        How many int64.
    needs : list of str
        Functions of the C library that it calls, but for those that LLVM makes of its own, such as
        memset and pow.
    code : bytes
        An object file.
    lasting : bool
        Whether the code can be used by other processes.
    """
    n_argument = kernel.py_func.__code__.co_argcount
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, kernel.targetoptions)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    with _enabled(), _collecting_less():
        contexts = cpu_target.typing_context, cpu_target.target_context
        found = compile_extra(*contexts, kernel.py_func, (int64,) * n_argument, None, flags, {})
        library = found.library
        names = [each.name for each in library._final_module.functions if each.is_declaration]
        ours = library.codegen.magic_tuple()[1:] == (CPU, FEATURES_OF_CPU)
        return (
            found.fndesc.mangled_name,
            n_argument,
            [name for name in names if not name.startswith("llvm.")],
            library._get_compiled_object(),
            ours and not library.has_dynamic_globals,
        )


@contextlib.contextmanager
def _collecting_less() -> Iterator[None]:
    """Let garbage be looked for less often, which takes a tenth of the time otherwise."""
    first, *others = gc.get_threshold()
    if first:  # 0: never
        gc.set_threshold(max(first, _ALLOCATIONS), *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)


@contextlib.contextmanager
def _enabled() -> Iterator[None]:
    """Compile, for the CPU of `npfsn.kernels.cpu`, whatever else Numba has been told.

    One thread at a time, as it concerns them all.
    """
    ours = {"DISABLE_JIT": 0, "CPU_NAME": CPU, "CPU_FEATURES": FEATURES_OF_CPU}
    with global_compiler_lock:
        before = {name: getattr(config, name) for name in ours}
        vars(config).update(ours)
        try:
            yield
        finally:
            vars(config).update(before)


def _dispatcher(py_func: Callable[..., None], inline: str) -> Any:
    """Return what Numba calls when `py_func` is called."""
    with _enabled():
        dispatcher = njit(nogil=True, error_model="numpy", inline=inline)(py_func)
    compile_for = dispatcher.compile

    def compile_unliteral(signature: Any) -> Any:
        # A literal that one kernel passes to another has a type of its own in Numba, which would
        # compile the inner kernel, and all that it calls, once more for it.
        with _enabled():
            return compile_for(tuple(unliteral(each) for each in signature))

    dispatcher.compile = compile_unliteral
    return dispatcher
