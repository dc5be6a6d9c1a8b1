"""How kernels are compiled and where the machine code is kept.

`kernel` and `inlined` are the only ways this package compiles anything. They fix the options in one
place and keep the result on disk so that nobody waits twice. Numba's own cache has six habits that
a program that runs unattended cannot afford, so ours differs in six points:

* The freshness stamp covers *every* file of `npfsn.kernels` and this one, not only the file of the
  function: an upgrade can never run old code (numba#1833).
* A cache file carries a checksum. A truncated, corrupt or unreadable one is a miss, not a crash.
* A cache that cannot be written (read-only disk, no home, disk full) costs time, never the program.
* A read-only cache is read, such as that of a container image that was warmed up when it was built.
* Loading machine code does not fill the compiler's tables, which would take most of a start.
* The first function that has to be compiled says so on stderr, once, since it takes seconds.

NUMBA_DISABLE_JIT=1, which debuggers and coverage tools set for Python code, is not obeyed: some
kernels are LLVM code and have no Python to fall back to.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import int64, njit
from numba.core import caching
from numba.core import config as numba_config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.types.misc import unliteral

#: Whether a cold start says on stderr what it is doing.
announce = os.environ.get("NPFSN_QUIET", "") in ("", "0")

_compiles = [False]
# Folders that kernels of this process were loaded from or kept in; how many could not be kept.
_folders: set[str] = set()
_unkept = [0]


class _Wait(threading.local):
    """Whether this thread waits for a kernel now, and for how many seconds it has so far."""

    now = False
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


@functools.cache
def host_features() -> frozenset[str]:
    """Names of the CPU features that Numba generates code for, e.g. "avx2", "fma", "neon".

    These are the features of the target, not of the machine: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
    are obeyed. They are part of the cache's key, so constants derived from them are safe.
    """
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    found = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if "arm64" in _MACHINE or "aarch64" in _MACHINE:
        found.add("neon")  # part of every 64-bit ARM
    return frozenset(found)


_MACHINE = platform.machine().lower()


@functools.cache
def _source_digest() -> str:
    """Digest of all code that kernels are made of."""
    here, digest = Path(__file__), hashlib.sha256()
    if not here.is_file():  # in an archive, or packed into one program
        packed = next((path for path in here.parents if path.is_file()), _program())
        found = packed.stat()
        digest.update(f"{packed.name} {found.st_size} {found.st_mtime_ns}".encode())
        return digest.hexdigest()
    kernels = sorted((here.parent / "kernels").iterdir())
    for path in (here, *(path for path in kernels if path.suffix in (".py", ".pyc"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _program() -> Path:
    """Return the running executable: Python, or a program that it is packed into."""
    return Path(sys.executable or sys.argv[0]).resolve()


def _say_compiling(cached: bool) -> None:
    """Report on stderr, once, that this start is slow, and whether the next one will be too."""
    if _compiles[0]:
        return
    _compiles[0] = True
    if not announce:
        return
    hope = (
        "kept for later starts"
        if cached
        else "no cache can be written here, so every start will: set NUMBA_CACHE_DIR to a writable "
        "folder to avoid that"
    )
    if sys.stderr is None:  # closed: print would take stdout, which may carry sound
        return
    line = f"npfsn: compiling kernels, up to half a minute ({hope}) ..."
    try:
        if sys.stderr.isatty():  # where the command line may have begun to show its progress
            line = "\r" + line
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # nobody reads it any more
        pass


class _CacheFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data files, each behind a SHA-256 of what follows."""

    def save(self, key: Any, data: Any) -> None:
        # Index and data are two files. Processes that start cold at once in a shared folder, for
        # different CPUs or versions, can leave the index of one with the code of the other.
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        if found is None or found[:2] != (self._source_stamp, key):
            return None
        return found[2]

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return hashlib.sha256(data).digest() + data

    @staticmethod
    def _checked(data: bytes) -> Any:
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise ValueError("corrupt cache file")
        return pickle.loads(data[32:])

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                if pickle.load(file) != self._version:
                    return {}
                stamp, overloads = self._checked(file.read())
        except Exception:  # missing, truncated, corrupt, forbidden: all mean "nothing cached"
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            return self._checked(file.read())


class _Sourceless:
    """A cache folder outside the package, also for code without a source file (packed, or .pyc)."""

    @classmethod
    def from_function(cls, py_func: Callable[..., None], py_file: str) -> Any:
        if "UserProvided" in cls.__name__ and not numba_config.CACHE_DIR:
            return None
        if not os.path.isabs(py_file):  # packed: one folder per program, wherever it is started
            py_file = str(_program() / py_file)
        place: Any = cls(py_func, py_file)  # type: ignore[call-arg]
        try:
            place.ensure_cache_path()
        except OSError:
            return None
        return place

    def get_source_stamp(self) -> str:
        return _source_digest()


# The places where Numba looks for a folder to write to, in its order. A folder that it refuses as
# not writable may still hold code that another user has written.
_WRITABLE: list[Any] = [
    type(place.__name__, (_Sourceless, place), {}) if "User" in place.__name__ else place
    for place in caching.CompileResultCacheImpl._locator_classes
    if "Zip" not in place.__name__  # it does not check whether it can write
]
_READABLE: list[Any] = [
    type(place.__name__, (place,), {"ensure_cache_path": lambda self: None}) for place in _WRITABLE
]


def _is_trusted(folder: str) -> bool:
    """Whether this user, root or the owner of this package owns a folder: code is loaded from it.

    If the package is packed into a program, the owner of the program counts.
    """
    try:
        here = __file__ if os.path.exists(__file__) else _program()
        owner = os.stat(folder).st_uid
        return owner in (0, getattr(os, "geteuid", int)(), os.stat(here).st_uid)
    except OSError:
        return False


class _Places(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """The first place that can be written or, if there is none, the first that could be read."""

    _locator_classes = _WRITABLE + _READABLE


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's function cache, never stale and never fatal."""

    _impl_class = _Places

    def __init__(self, py_func: Callable[..., None]) -> None:
        super().__init__(py_func)
        self._writable = type(self._impl.locator) not in _READABLE
        own, folders = self._cache_path, []
        for place in _READABLE:  # up to the first that can be written, if any
            locator = place.from_function(py_func, py_func.__code__.co_filename)
            folder = locator.get_cache_path() if locator else None
            if folder == own and self._writable:
                break
            if folder and _is_trusted(folder):
                folders.append(folder)
        if self._writable:
            folders.append(own)
        name, stamp = self._impl.filename_base, _source_digest()
        self._files = [_CacheFile(folder, name, stamp) for folder in folders]
        self._cache_file = self._files[-1] if self._writable else None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        for file in self._files:
            try:
                # Numba would first fill its tables of everything that it can compile, SciPy's
                # linear algebra included, which takes two thirds of a start. Machine code needs
                # only the run time; the tables are filled once something is compiled.
                rtsys.initialize(target_context)
                data = file.load(self._index_key(sig, target_context.codegen()))
                if data is not None:
                    found = self._impl.rebuild(target_context, data)
                    _folders.add(file._cache_path)
                    return found
            except Exception:  # damaged: as if it were not there
                pass
        _say_compiling(cached=self._writable)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if self._writable and self._impl.check_cachable(data):
            # A full disk, say: the next start compiles again. Not `super().save_overload`, which
            # does not tell whether it has saved.
            with contextlib.suppress(Exception):
                self._save_overload(sig, data)
                _folders.add(self._cache_path)
                return
        _unkept[0] += 1


class _NoCache(caching.NullCache):  # type: ignore[misc]
    """The cache where there is no place for code, not even one to read from."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        _say_compiling(cached=False)

    def save_overload(self, sig: Any, data: Any) -> None:
        _unkept[0] += 1


@functools.cache
def address(compiled: Any) -> int:
    """Compile a kernel whose arguments are all int64, and return the address of its machine code.

    Other kernels call it there (`npfsn.kernels.arrays.call`) without containing it. A kernel that
    is called by name is copied into its caller, and the copy compiled once more.
    """
    signature = (int64,) * compiled.py_func.__code__.co_argcount
    compiled.compile(signature)
    found = compiled.overloads[signature]
    return int(found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name))


def kernel(py_func: Callable[..., None]) -> Any:
    """Compile `py_func` on its first call: no GIL, IEEE arithmetic, cached on disk.

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


@contextlib.contextmanager
def _enabled() -> Iterator[None]:
    """Compile whatever NUMBA_DISABLE_JIT says; one thread at a time, as it concerns them all."""
    with global_compiler_lock:
        disabled, numba_config.DISABLE_JIT = numba_config.DISABLE_JIT, 0
        try:
            yield
        finally:
            numba_config.DISABLE_JIT = disabled


def _dispatcher(py_func: Callable[..., None], inline: str) -> Any:
    """Return what Numba calls when `py_func` is called."""
    with _enabled():
        dispatcher = njit(nogil=True, error_model="numpy", inline=inline)(py_func)
    compile_for = dispatcher.compile

    def compile_unliteral(signature: Any) -> Any:
        # A literal that one kernel passes to another has a type of its own in Numba, which would
        # compile the inner kernel, and all that it calls, once more for it.
        signature = tuple(unliteral(each) for each in signature)
        if _wait.now:  # for a kernel that needs this one
            return compile_for(signature)
        _wait.now, started = True, time.perf_counter()
        try:
            with _enabled():
                return compile_for(signature)
        finally:
            _wait.seconds += time.perf_counter() - started
            _wait.now = False

    dispatcher.compile = compile_unliteral
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    except (RuntimeError, OSError):  # there is no place for one
        dispatcher._cache = _NoCache()
    return dispatcher
