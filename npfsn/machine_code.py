"""Machine code of kernels: found on disk, or compiled and kept there; then called by its address.

Nobody should wait twice, nor for the compiler where it is not needed: importing Numba takes longer
than everything else in a start. So this is not Numba's own cache. It differs in further points that
a program that runs unattended cannot do without:

* What was compiled from other sources, by another version or for another CPU is never run: each
  file names all of these, and *every* file of `npfsn.kernels` counts (numba#1833).
* A file carries a checksum. A truncated, corrupt or unreadable one is a miss, not a crash.
* A folder that cannot be written (read-only disk, no home, disk full) costs time, no more.
* A folder that can only be read is read, such as that of a container image that was warmed up when
  it was built; but no code of strangers is run.
* The first kernel that has to be compiled says so on stderr, once, since it takes seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from .kernels.cpu import CPU, FEATURES_OF_CPU

if TYPE_CHECKING:  # for those who pack programs: `_compile` imports these by their names
    from .kernels import calls, layers, products, program  # noqa: F401

#: Whether a cold start says on stderr what it is doing.
announce = os.environ.get("NPFSN_QUIET", "") in ("", "0")

#: Ending of the files that hold a kernel each.
SUFFIX = ".kernel"

_compiles = [False]
# Folders that kernels of this process were loaded from or kept in; how many could not be kept.
_folders: set[str] = set()
_unkept = [0]
# Kernels in use: address, number of arguments.
_loaded: dict[str, tuple[int, int]] = {}
_lock = threading.RLock()
_first_byte: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_RELEASE = "NRT_MemInfo_call_dtor"
# What Numba would return and raise goes here: always null, so threads may share it.
_nothing = (ctypes.c_int64 * 2)()
_RESULT, _ERROR = (ctypes.addressof(_nothing) + 8 * i for i in range(2))


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


# The thread that holds the lock in the parent does not exist in a forked child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _Code(NamedTuple):
    """A kernel's machine code."""

    symbol: str  # its name in there
    n_argument: int
    needs: list[str]  # functions of the C library that it calls
    code: bytes  # an object file


class _Wait(threading.local):
    """For how many seconds this thread has waited for kernels so far."""

    seconds = 0.0


_wait = _Wait()


def seconds_compiling() -> float:
    """Return how long this thread has waited for kernels, compiled or loaded, so far."""
    return _wait.seconds


def has_compiled() -> bool:
    """Whether this process has had to compile a kernel so far: no cache held it."""
    return _compiles[0]


def cache_folders() -> list[str]:
    """Return the folders that hold the kernels of this process so far."""
    return sorted(_folders)


def n_unkept() -> int:
    """Return how many kernels this process has had to compile and could not keep so far."""
    return _unkept[0]


def address(kernel: str) -> int:
    """Return the address of the machine code of a kernel, loaded or compiled when first needed.

    Parameters
    ----------
    kernel : str
        Its module in `npfsn.kernels` and its name, "layers.go_on". All its arguments are int64.
        Other kernels call it by its address (`npfsn.kernels.arrays.call`) without containing it. A
        kernel that is called by name is copied into its caller, and the copy compiled once more.
    """
    return _load(kernel)[0]


@functools.cache
def function(kernel: str) -> Callable[..., None]:
    """Return a kernel (`address`) as a function of integers that does not hold the GIL."""
    address, n_argument = _load(kernel)
    kinds = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * n_argument
    return functools.partial(ctypes.CFUNCTYPE(None, *kinds)(address), _RESULT, _ERROR)


def place(array: np.ndarray) -> int:
    """Return the address of an array's first element, for a `function`.

    Raises
    ------
    TypeError
        The array is not contiguous, or not writable: a kernel would not notice.
    """
    try:
        return ctypes.addressof(_first_byte(array))  # a quarter of the time of the other way
    except ValueError:  # empty
        return array.ctypes.data


def _load(kernel: str) -> tuple[int, int]:
    """Return address and number of arguments of a kernel."""
    found = _loaded.get(kernel)
    if found is None:
        started = time.perf_counter()
        with _lock:
            found = _loaded.get(kernel)
            if found is None:
                found = _loaded[kernel] = _link(_kept(kernel) or _compile(kernel))
        _wait.seconds += time.perf_counter() - started
    return found


@functools.cache
def _engine() -> Any:
    """Return what links object files into this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    nothing = llvm.parse_assembly(f'target triple = "{triple}"')
    machine = llvm.Target.from_triple(triple).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(nothing, machine)
    # For arrays with an owner, which Numba would release; those at an address have none.
    if llvm.address_of_symbol(_RELEASE) is None:
        llvm.add_symbol(_RELEASE, llvm.address_of_symbol("abort") or _RESULT)
    return engine


def _can_link(needs: list[str]) -> bool:
    """Whether this process has all functions that some code calls."""
    _engine()  # LLVM knows the symbols of this process from then on
    return all(llvm.address_of_symbol(name) is not None for name in needs)


def _link(found: _Code) -> tuple[int, int]:
    """Load the code of a kernel; return its address and number of arguments."""
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(found.code))
    engine.finalize_object()
    return engine.get_function_address(found.symbol), found.n_argument


def _compile(kernel: str) -> _Code:
    """Compile a kernel and keep it, if it can be."""
    folder = next(filter(_can_write, _places()), None)
    _say_compiling(kept=folder is not None)
    from . import jit  # not above: it imports Numba

    module, name = kernel.split(".")
    compiled = getattr(importlib.import_module(f".kernels.{module}", __package__), name)
    symbol, n_argument, needs, code, lasting = jit.compiled(compiled)
    found = _Code(symbol, n_argument, needs, code)
    kept = False
    if folder is not None and lasting:
        with contextlib.suppress(Exception):  # a full disk, say: the next start compiles again
            _keep(folder, kernel, found)
            kept = True
    _unkept[0] += not kept
    return found


# ---------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------


def _key(kernel: str) -> list[str]:
    """Return all that the code of a kernel depends on."""
    versions = [sys.version.split()[0], llvmlite.__version__, _version_of_numba()]
    return [kernel, _source_digest(), *versions, llvm.get_process_triple(), CPU, FEATURES_OF_CPU]


@functools.cache
def _version_of_numba() -> str:
    """Return what tells versions of Numba apart, without importing it."""
    found = importlib.util.find_spec("numba")
    place = Path((found and found.origin) or "numba")
    for path in (place.with_name(f"_version.{suffix}") for suffix in ("py", "pyc")):
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""  # packed into one program: `_source_digest`


@functools.cache
def _source_digest() -> str:
    """Digest of all code that kernels are made of."""
    here, digest = Path(__file__), hashlib.sha256()
    if not here.is_file():  # in an archive, or packed into one program
        packed = _archive()
        found = packed.stat()
        digest.update(f"{packed.name} {found.st_size} {found.st_mtime_ns}".encode())
        return digest.hexdigest()
    files = [here, *here.parent.glob("jit.py*"), *(here.parent / "kernels").iterdir()]
    for path in sorted(path for path in files if path.suffix in (".py", ".pyc")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _program() -> Path:
    """Return the running executable: Python, or a program that it is packed into."""
    return Path(sys.executable or sys.argv[0]).resolve()


def _archive() -> Path:
    """Return the file that this package is packed into: an archive or a program."""
    return next((path for path in Path(__file__).parents if path.is_file()), _program())


def _file(kernel: str) -> str:
    """Return the name of a kernel's file, which a new version replaces.

    There is one for each CPU, and one for each Python, as they may share a checkout.
    """
    python = sys.implementation.cache_tag
    target = json.dumps([python, llvm.get_process_triple(), CPU, FEATURES_OF_CPU])
    return f"{kernel}-{hashlib.sha256(target.encode()).hexdigest()[:12]}{SUFFIX}"


def _kept(kernel: str) -> _Code | None:
    """Return the code of a kernel from a folder that has it, or None."""
    for folder in _places():
        if (_is_trusted(folder) or _can_write(folder)) and (found := _read(folder, kernel)):
            return found
        if _can_write(folder):  # those after it are not for this user
            break
    return None


def _read(folder: Path, kernel: str) -> _Code | None:
    """Return the code of a kernel; None if its file is missing, damaged or out of date."""
    with contextlib.suppress(Exception):
        data = (folder / _file(kernel)).read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        header, _, code = data[32:].partition(b"\n")
        key, symbol, n_argument, needs = json.loads(header)
        if key == _key(kernel) and _can_link(needs):
            _folders.add(str(folder))
            return _Code(symbol, n_argument, needs, code)
    return None


def _keep(folder: Path, kernel: str, found: _Code) -> None:
    """Write a kernel's file, whole or not at all."""
    header = json.dumps([_key(kernel), found.symbol, found.n_argument, found.needs])
    data = header.encode() + b"\n" + found.code
    with _temporary(folder) as file:
        file.write(hashlib.sha256(data).digest() + data)
        file.close()
        os.replace(file.name, folder / _file(kernel))
    _folders.add(str(folder))


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which is gone afterwards unless it has been renamed.

    Whoever may read the folder may read it. Those of `tempfile` are for their owner alone, and on
    Windows it looks for a name forever in a folder that cannot be written.
    """
    file = open(folder / f"{os.urandom(8).hex()}.tmp", "xb")
    try:
        with file:
            yield file
    finally:
        with contextlib.suppress(OSError):
            os.unlink(file.name)


def _places() -> Iterator[Path]:
    """Yield the folders that may hold kernels, the preferred ones first.

    The one of NUMBA_CACHE_DIR, one beside the source files, one of the user's. A folder holds the
    kernels of one installation.
    """
    here = Path(__file__)
    # A packed program may say that its code is in a folder that it makes anew at each start.
    kernels = here.parent / "kernels" if here.is_file() else _program() / _archive() / "npfsn"
    own = f"npfsn_{hashlib.sha256(os.fsencode(kernels)).hexdigest()[:16]}"
    if told := os.environ.get("NUMBA_CACHE_DIR"):
        with contextlib.suppress(OSError):  # relative to a folder that is gone
            yield Path(told).absolute() / own
    if here.suffix == ".py" and here.is_file():
        yield kernels / "__pycache__"
    with contextlib.suppress(RuntimeError):  # no home
        yield _caches_of_user() / own


def _caches_of_user() -> Path:
    """Return the folder in which this user's programs keep what they can make again."""
    if sys.platform == "win32":
        told, place = os.environ.get("LOCALAPPDATA"), ("AppData", "Local")
    elif sys.platform == "darwin":
        told, place = None, ("Library", "Caches")
    else:
        told, place = os.environ.get("XDG_CACHE_HOME"), (".cache",)
    return Path(told) if told and os.path.isabs(told) else Path.home().joinpath(*place)


@functools.cache
def _can_write(folder: Path) -> bool:
    """Whether files can be written to a folder, which is made if there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder):
            return True
    except OSError:
        return False


def _is_trusted(folder: Path) -> bool:
    """Whether this user, root or the owner of this package owns a folder: code is loaded from it.

    If the package is packed into a program, the owner of the program counts.
    """
    try:
        here = __file__ if os.path.exists(__file__) else _program()
        owner = os.stat(folder).st_uid
        return owner in (0, getattr(os, "geteuid", int)(), os.stat(here).st_uid)
    except OSError:
        return False


def _say_compiling(kept: bool) -> None:
    """Report on stderr, once, that this start is slow, and whether the next one will be too."""
    if _compiles[0]:
        return
    _compiles[0] = True
    if not announce or sys.stderr is None:  # closed: print would take stdout, with sound perhaps
        return
    hope = (
        "kept for later starts"
        if kept
        else "no cache can be written here, so every start will: set NUMBA_CACHE_DIR to a writable "
        "folder to avoid that"
    )
    line = f"npfsn: compiling kernels, up to half a minute ({hope}) ..."
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        if sys.stderr.isatty():  # where the command line may have begun to show its progress
            line = "\r" + line
        print(line, file=sys.stderr, flush=True)
