"""The disk cache of kernels: never stale, never fatal, never in the way.

The tests run a package of two kernels that has the `jit.py` of npfsn, each time in a new process.
"""

from __future__ import annotations

import compileall
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import posix

import npfsn
import npfsn.convert
from npfsn import jit

CALLER = """
from ..jit import kernel
from .callee import increase


@kernel
def twice(x):
    increase(x)
    increase(x)
"""

CALLEE = """
import numpy as np
from ..jit import kernel
from .constants import STEP


@kernel
def increase(x):
    for i in range(x.shape[0]):
        x[i] += STEP
"""

# Prints the result, and how many kernels came from the cache and how many did not.
MAIN = """
import numpy as np
from tiny.kernels.caller import twice
x = np.zeros(3, np.float32)
twice(x)
stats = twice.stats
print(int(x.sum()), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""

COLD = [6, 0, 1]  # result, hits, misses
WARM = [6, 1, 0]


class Tiny:
    """A package of two kernels in a folder, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernels = folder / "tiny" / "kernels"
        self.cache = folder / "cache"
        self.said = ""  # on stderr, by the first start
        self.kernels.mkdir(parents=True)
        for package in (self.kernels.parent, self.kernels):
            (package / "__init__.py").touch()
        shutil.copy(Path(npfsn.__path__[0]) / "jit.py", self.kernels.parent)
        (self.kernels / "caller.py").write_text(CALLER)
        (self.kernels / "callee.py").write_text(CALLEE)
        (self.kernels / "constants.py").write_text("STEP = 1\n")

    def start(self, code: str = MAIN, **environment: str | None) -> subprocess.Popen[str]:
        """Start a process with the package; a variable of None is unset."""
        variables: dict[str, str | None] = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            # Else Python might run its own stale copies of files written within a second.
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": str(self.cache),
            "NPFSN_QUIET": None,
            **environment,
        }
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={name: value for name, value in variables.items() if value is not None},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str = MAIN, **environment: str | None) -> tuple[list[int], str]:
        """Return what a process printed, and what it said on stderr."""
        process = self.start(code, **environment)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return [int(word) for word in out.split()], err


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Make a package whose cache is full."""
    tiny = Tiny(tmp_path_factory.mktemp("warm"))
    result, tiny.said = tiny.run()
    assert result == COLD
    return tiny


# ---------------------------------------------------------------------------------------------
# Never stale
# ---------------------------------------------------------------------------------------------


def test_an_upgrade_runs_its_own_code(tiny: Tiny) -> None:
    """Whichever file changed, and though the new one looks as old as the one before.

    Numba's own cache looks at the caller's file alone: neither the kernel it calls, nor a constant,
    nor the options in `jit.py` would be noticed.
    """
    assert tiny.run()[0] == COLD
    for file, old, new, result in (
        ("kernels/callee.py", "+= STEP", "-= STEP", -6),
        ("kernels/constants.py", "STEP = 1", "STEP = 5", -30),
        ("kernels/caller.py", "    increase(x)\n    increase(x)", "    increase(x)", -15),
        ("jit.py", 'error_model="numpy"', 'error_model="python"', -15),
    ):
        path = tiny.kernels.parent / file
        before, text = path.stat(), path.read_text()
        assert old in text
        path.write_text(text.replace(old, new).ljust(len(text)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert tiny.run()[0] == [result, 0, 1], file
    assert tiny.run()[0] == [-15, 1, 0]


# ---------------------------------------------------------------------------------------------
# Never fatal
# ---------------------------------------------------------------------------------------------


@posix  # elsewhere no variable tells where the home is
def test_no_cache_can_be_written(tiny: Tiny) -> None:
    """Read-only package, no home, no NUMBA_CACHE_DIR: slow, but it runs, and says why."""
    # A file in the place of each folder: that stops the superuser, too.
    for path in (tiny.kernels / "__pycache__", tiny.folder / "home", tiny.cache):
        path.write_text("")
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(tiny.folder / "home"))
    for cache_dir in (None, str(tiny.cache)):
        result, said = tiny.run(NUMBA_CACHE_DIR=cache_dir, **homes)
        assert result[0] == 6
        assert said.count("no cache can be written") == 1
        assert "NUMBA_CACHE_DIR" in said


def test_the_cache_goes_away_while_running(tiny: Tiny) -> None:
    """As on a disk that fills up between import and first call."""
    vanish = f"""
import pathlib, shutil
shutil.rmtree({str(tiny.cache)!r})
pathlib.Path({str(tiny.cache)!r}).write_text("")
"""
    lines = MAIN.split("\n")
    code = "\n".join([*lines[:3], vanish, *lines[3:]])
    assert tiny.run(code)[0] == COLD
    assert tiny.cache.is_file()


# What Numba may not write on Windows it leaves unwritten without a word.
AS_ON_WINDOWS = """
import contextlib
def save(*_):
    raise PermissionError(13, "")
jit._CacheFile.save = save
jit._KernelCache._guard_against_spurious_io_errors = lambda _: contextlib.suppress(PermissionError)
"""


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ("", True),
        ("jit._Places.check_cachable = lambda *_: False", False),
        (AS_ON_WINDOWS, False),
    ],
)
def test_a_kernel_that_is_not_saved_counts_as_not_kept(tiny: Tiny, how: str, kept: bool) -> None:
    code = f"from tiny import jit\n{how}\n{MAIN}\nprint(jit.n_unkept(), len(jit.cache_folders()))"
    n_unkept, n_folder = tiny.run(code)[0][len(COLD) :]
    assert (n_unkept, n_folder) == (0, 1) if kept else n_unkept > 0 and n_folder == 0


def test_a_warm_start_leaves_numba_s_compiler_alone(warm: Tiny) -> None:
    """It fills none of the compiler's tables, and whoever compiles afterwards finds them filled."""
    code = (
        MAIN
        + """
import sys
print("numba.np.arraymath" in sys.modules, "scipy.linalg" in sys.modules)
from numba import njit
@njit
def compiled_by_the_user(a):
    return np.dot(a, a).sum() + np.sort(a.ravel())[0]
print(compiled_by_the_user(np.eye(3)))
"""
    )
    process = warm.start(code)
    said = process.communicate()[0].split("\n")
    assert said[:3] == [" ".join(map(str, WARM)), "False False", "3.0"]


# ---------------------------------------------------------------------------------------------
# Never in the way
# ---------------------------------------------------------------------------------------------


# Two threads need a kernel each; the second asks while the first is being compiled.
THREADS = """
import threading
import numpy as np
from tiny import jit

def mean(x):
    x[0] = np.mean(x)

def total(x):
    x[0] = np.sum(x)

def call(kernel):
    x = np.arange(3.0)
    kernel(x)
    results.append(x[0])

results = []
first, second = jit.kernel(mean), jit.kernel(total)
other = threading.Thread(target=call, args=(second,))
load = first._cache.load_overload

def load_slowly(*args):
    other.start()
    other.join(1.0)
    return load(*args)

first._cache.load_overload = load_slowly
call(first)
own = jit.seconds_compiling()
other.join()
print(*results, jit.seconds_compiling() == own > 0)
"""


def test_threads_may_need_kernels_at_once(tiny: Tiny) -> None:
    """Also under NUMBA_DISABLE_JIT; each is told of its own waiting alone."""
    process = tiny.start(THREADS, NUMBA_DISABLE_JIT="1", NPFSN_QUIET="1")
    out, err = process.communicate()
    assert (out, err) == ("1.0 3.0 True\n", "")


def test_a_cold_start_is_announced_once(warm: Tiny) -> None:
    """One line on stderr, however many kernels; none when nothing is compiled."""
    assert warm.said.startswith("npfsn: compiling")
    assert warm.said.count("\n") == 1
    assert warm.run()[1] == ""


@pytest.mark.parametrize(("value", "lines"), [("1", 0), ("0", 1), ("", 1)])
def test_npfsn_quiet_silences_the_announcement(tiny: Tiny, value: str, lines: int) -> None:
    """NPFSN_QUIET silences it."""
    assert tiny.run(NPFSN_QUIET=value)[1].count("\n") == lines


@pytest.mark.parametrize(("terminal", "start"), [(True, "\r"), (False, "")])
def test_a_terminal_may_show_progress_already(
    terminal: bool, start: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The announcement is written over it; a file gets the line alone."""
    monkeypatch.setattr(jit, "_compiles", [False])
    monkeypatch.setattr(jit, "announce", True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    jit._say_compiling(cached=True)
    assert capsys.readouterr().err.startswith(f"{start}npfsn: compiling")


def test_a_stderr_that_has_been_closed_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_compiles", [False])
    monkeypatch.setattr(jit, "announce", True)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    jit._say_compiling(cached=True)
    assert jit.has_compiled()


def packed(tiny: Tiny, how: str) -> str:
    """Leave nothing of its source where its files say it is; return where it is."""
    package = tiny.kernels.parent
    if how == "zip":
        shutil.make_archive(str(tiny.folder / "packed"), "zip", tiny.folder, "tiny")
        shutil.rmtree(package)
        (tiny.folder / "packed.zip").rename(tiny.folder / "tiny.zip")
    else:
        assert compileall.compile_dir(package, quiet=1, legacy=True, force=True)
        for path in package.rglob("*.py"):
            path.unlink()
        (package.parent / "gone").mkdir()
        package.rename(package.parent / "gone" / "tiny")
    return str(tiny.folder / ("tiny.zip" if how == "zip" else "gone"))


@pytest.mark.parametrize("home", [False, pytest.param(True, marks=posix)])
@pytest.mark.parametrize("how", ["zip", "bytecode"])
def test_code_without_source_files_is_cached(tmp_path: Path, how: str, home: bool) -> None:
    """In the folder of NUMBA_CACHE_DIR or the user's, and never after a change."""
    tiny = Tiny(tmp_path)
    source = {path: path.read_bytes() for path in tiny.kernels.parent.rglob("*.py")}
    where = {"PYTHONPATH": packed(tiny, how)}
    if home:
        cache = str(tmp_path / "home")
        where |= {"NUMBA_CACHE_DIR": None, "HOME": cache, "XDG_CACHE_HOME": cache}
    for expected, lines in ((COLD, 1), (WARM, 0)):
        found, said = tiny.run(**where)
        assert (found, said.count("\n")) == (expected, lines), said
    assert "kept for later starts" in tiny.run(**where, NUMBA_CPU_NAME="generic")[1]
    assert [*(tmp_path / ("home" if home else "cache")).rglob("*.nbc")]

    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    for path, text in source.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    (tiny.kernels / "constants.py").write_text("STEP = 2\n")
    (tmp_path / "tiny.zip").unlink(missing_ok=True)
    packed(tiny, how)
    assert tiny.run(**where)[0] == [12, 0, 1]


def test_each_packed_program_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is started; its code is as old as it is."""
    monkeypatch.setattr(jit, "__file__", "npfsn/jit.pyc")  # as PyInstaller says
    monkeypatch.setattr(jit.numba_config, "CACHE_DIR", str(tmp_path / "cache"))
    place = next(each for each in jit._WRITABLE if "UserProvided" in each.__name__)
    found = {}
    for program in ("one", "two"):
        (tmp_path / program).write_bytes(b"a program" + program.encode())
        monkeypatch.setattr(sys, "executable", str(tmp_path / program))
        for folder in (tmp_path, Path(npfsn.__path__[0]).parent):
            monkeypatch.chdir(folder)
            locator = place.from_function(npfsn.convert.convert, "npfsn/kernels/other.py")
            path, stamp = locator.get_cache_path(), jit._source_digest.__wrapped__()
            assert found.setdefault(program, (path, stamp)) == (path, stamp)
    assert len({path for path, _ in found.values()}) == 2
    (tmp_path / "two").write_bytes(b"another one")
    assert jit._source_digest.__wrapped__() != found["two"][1]


@posix
@pytest.mark.parametrize("packed_in", ["zip", "bytecode"])
def test_where_no_cache_can_be_written_is_said(tmp_path: Path, packed_in: str) -> None:
    """Also of code that has no source file."""
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "home")
    tiny = Tiny(tmp_path)
    where = {"PYTHONPATH": packed(tiny, packed_in)}
    where |= {"NUMBA_CACHE_DIR": None, "HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    for _ in range(2):
        assert "no cache can be written here" in tiny.run(**where)[1]


@pytest.mark.parametrize("name", [".callee.py.swp", "callee.py~", "callee.py.orig", "old.py.d"])
def test_what_editors_leave_is_no_code(warm: Tiny, name: str) -> None:
    """It changes nothing, and does not turn the cache off."""
    path = warm.kernels / name
    if name.endswith(".d"):
        path.mkdir()
    else:
        path.write_text("no code")
    try:
        assert warm.run()[0] == WARM
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
