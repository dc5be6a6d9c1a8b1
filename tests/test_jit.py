"""The disk cache of kernels: never stale, never fatal, never in the way.

The tests run a package of two kernels that has the `jit.py` of npfsn, each time in a new process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import npfsn

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
        return self.finish(self.start(code, **environment))

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> tuple[list[int], str]:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return [int(word) for word in out.split()], err

    def files(self, suffix: str) -> list[Path]:
        """Return the files of the cache, those of the caller first."""
        return sorted(self.cache.rglob(f"*.{suffix}"), key=lambda path: "caller" not in path.name)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Make a package whose cache is full; a test that changes the cache works on a copy."""
    tiny = Tiny(tmp_path_factory.mktemp("warm"))
    result, tiny.said = tiny.run()
    assert result == COLD
    return tiny


@pytest.fixture
def copied(warm: Tiny, tmp_path: Path) -> Tiny:
    """Give the same package a cache of its own."""
    tiny = object.__new__(Tiny)
    tiny.__dict__ |= warm.__dict__
    tiny.cache = tmp_path / "cache"
    shutil.copytree(warm.cache, tiny.cache)
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


def test_code_of_another_kernel_is_not_run(copied: Tiny) -> None:
    """As two processes leave it that start at once for different CPUs or versions."""
    both = MAIN.replace("print", "y = np.zeros(3)\ntwice(y)\nprint")
    copied.run(both)  # now there is code for float32 and for float64
    first, second = (path for path in copied.files("nbc") if "caller" in path.name)
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    assert copied.run()[0] == COLD


# ---------------------------------------------------------------------------------------------
# Never fatal
# ---------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Change one bit, near the end: it would still unpickle."""
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def fill(path: Path) -> None:
    path.write_bytes(b"\x80" * 100)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# Kernel k0 has its first file damaged in the first way, and so on.
DAMAGES = [
    (suffix, damage)
    for suffix in ("nbi", "nbc")
    for damage in (truncate, empty, flip, fill, Path.unlink, replace_by_folder)
]
# Prints a kernel's number, its result, hits and misses, kernel after kernel.
RUN_ALL = f"""
import numpy as np
from tiny.kernels import many
for i in range({len(DAMAGES)}):
    x = np.zeros(1, np.float32)
    kernel = getattr(many, f"k{{i}}")
    kernel(x)
    stats = kernel.stats
    print(int(x[0]), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_damaged_cache_files_are_misses(tiny: Tiny) -> None:
    """They cost a compilation, once: after it the cache is whole again, where it can be mended."""
    kernels = [f"@kernel\ndef k{i}(x):\n    x[0] += {i}\n" for i in range(len(DAMAGES))]
    (tiny.kernels / "many.py").write_text("\n".join(["from ..jit import kernel\n", *kernels]))
    cold = [value for i in range(len(DAMAGES)) for value in (i, 0, 1)]
    warm = [value for i in range(len(DAMAGES)) for value in (i, 1, 0)]
    assert tiny.run(RUN_ALL)[0] == cold
    assert tiny.run(RUN_ALL)[0] == warm
    for i, (suffix, damage) in enumerate(DAMAGES):
        (path,) = tiny.cache.rglob(f"many.k{i}-*.{suffix}")
        damage(path)
    assert tiny.run(RUN_ALL)[0] == cold
    for i, (_, damage) in enumerate(DAMAGES):
        if damage is replace_by_folder:
            warm[3 * i + 1 : 3 * i + 3] = [0, 1]
    assert tiny.run(RUN_ALL)[0] == warm


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


def test_several_cold_starts_at_once(tiny: Tiny) -> None:
    """All of them are right, and leave a whole cache behind."""
    processes = [tiny.start() for _ in range(3)]
    for result, _ in [tiny.finish(process) for process in processes]:
        assert result[0] == 6
        assert sum(result[1:]) == 1
    assert tiny.run()[0] == WARM
    assert not list(tiny.cache.rglob("*.tmp.*"))


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


def test_disable_jit_is_not_obeyed(warm: Tiny) -> None:
    """Kernels of LLVM code have no Python to fall back to."""
    assert warm.run(NUMBA_DISABLE_JIT="1")[0] == WARM


# ---------------------------------------------------------------------------------------------
# Never in the way
# ---------------------------------------------------------------------------------------------


def test_a_cold_start_is_announced_once(warm: Tiny) -> None:
    """One line on stderr, however many kernels; none when nothing is compiled."""
    assert warm.said.startswith("npfsn: compiling")
    assert warm.said.count("\n") == 1
    assert warm.run()[1] == ""


@pytest.mark.parametrize(("value", "lines"), [("1", 0), ("0", 1)])
def test_quiet(tiny: Tiny, value: str, lines: int) -> None:
    """NPFSN_QUIET silences it."""
    assert tiny.run(NPFSN_QUIET=value)[1].count("\n") == lines


def test_a_closed_stderr_does_no_harm(tiny: Tiny) -> None:
    """And nothing goes to stdout instead, which may carry sound."""
    code = f"import os, sys\nos.close(2)\nsys.stderr = None\n{MAIN}"
    assert tiny.run(code) == (COLD, "")
