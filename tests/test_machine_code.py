"""Machine code on disk: never stale, never fatal, never in the way.

The tests run a package of a few kernels that has the `machine_code.py` and the `jit.py` of npfsn,
each time in a new process.
"""

from __future__ import annotations

import compileall
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import posix

import npfsn
from npfsn import machine_code
from npfsn.kernels.cpu import FEATURES

CALLER = """
import numpy as np
from ..jit import kernel
from .arrays import array_at
from .callee import increase


@kernel
def twice(x, n):
    numbers = array_at(x, n, np.float32)
    increase(numbers)
    increase(numbers)


@kernel
def once(x, n):
    increase(array_at(x, n, np.float32))
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

# Prints the result, and whether something was compiled.
MAIN = """
import numpy as np
from tiny.machine_code import function, has_compiled, place
x = np.zeros(3, np.float32)
function("caller.twice")(place(x), x.size)
print(int(x.sum()), int(has_compiled()))
"""

COLD = [6, 1]  # result, compiled
WARM = [6, 0]


class Tiny:
    """A package of a few kernels in a folder, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernels = folder / "tiny" / "kernels"
        self.cache = folder / "cache"
        self.said = ""  # on stderr, by the first start
        self.kernels.mkdir(parents=True)
        for package in (self.kernels.parent, self.kernels):
            (package / "__init__.py").touch()
        for file in ("jit.py", "machine_code.py", "kernels/arrays.py", "kernels/cpu.py"):
            shutil.copy(Path(npfsn.__path__[0]) / file, self.kernels.parent / file)
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

    def kept(self) -> list[str]:
        """Return the names of all files in the cache."""
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())


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
        ("kernels/caller.py", "    increase(numbers)\n" * 2, "    increase(numbers)\n", -15),
        ("kernels/cpu.py", "TILE = 16", "TILE = 32", -15),
        ("jit.py", 'error_model="numpy"', 'error_model="python"', -15),
    ):
        path = tiny.kernels.parent / file
        before, text = path.stat(), path.read_text()
        assert old in text
        path.write_text(text.replace(old, new).ljust(len(text)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert tiny.run()[0] == [result, 1], file
    assert tiny.run()[0] == [-15, 0]
    assert len(tiny.kept()) == 1  # each has replaced the one before
    (tiny.kernels / "constants.py").rename(tiny.kernels / "numbers.py")
    callee = tiny.kernels / "callee.py"
    callee.write_text(callee.read_text().replace("constants", "numbers"))
    assert tiny.run()[0] == [-15, 1]


def test_another_cpu_has_its_own_code(tiny: Tiny) -> None:
    """Beside that of this one, as on a disk that several machines share."""
    assert tiny.run()[0] == COLD
    for settings in (
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_FEATURES": ""},
        {"NUMBA_ENABLE_AVX": "0"} if "avx" in FEATURES else {"NUMBA_CPU_FEATURES": "-sse"},
    ):
        n_before = len(tiny.kept())
        assert tiny.run(**settings)[0] == COLD, settings
        assert len(tiny.kept()) == n_before + 1
        assert tiny.run(**settings)[0] == WARM, settings
    assert tiny.run()[0] == WARM


def test_another_python_has_its_own_code(tiny: Tiny) -> None:
    """Beside that of this one, as in a checkout that several use by turns."""
    another = """
import sys
from types import SimpleNamespace
from tiny import machine_code
told = {"version": "3.99.0 (another)", "implementation": SimpleNamespace(cache_tag="another-399")}
machine_code.sys = SimpleNamespace(**{**vars(sys), **told})
"""
    update = another.replace("3.99.0", "3.99.1")
    for code in (MAIN, another + MAIN):
        assert tiny.run(code)[0] == COLD
    for code in (MAIN, another + MAIN):
        assert tiny.run(code)[0] == WARM
    for expected in (COLD, WARM):
        assert tiny.run(update + MAIN)[0] == expected
    assert len(tiny.kept()) == 2  # the update has replaced the one before


def test_all_kernels_have_files_of_their_own_everywhere() -> None:
    """Also where names differ in more than capitals, and lack some characters."""
    package = Path(npfsn.__path__[0])
    found = [
        f"{path.stem}.{name}"
        for path in (package / "kernels").glob("*.py")
        for name in re.findall(r"^@kernel\ndef (\w+)", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(found) > 30
    names = [machine_code._file(kernel) for kernel in found]
    assert len({name.lower() for name in names}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_.-]{1,100}\.kernel", name) for name in names)


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


@pytest.mark.parametrize("when", ["before the first", "before the second"])
def test_the_cache_goes_away_while_running(tiny: Tiny, when: str) -> None:
    """As on a disk that fills up between kernels."""
    first = 'from tiny.machine_code import address\naddress("caller.once")\n'
    # That it can be written is found out once.
    asked = "from tiny.machine_code import _can_write, _places\n_can_write(next(_places()))\n"
    vanish = f"""
import pathlib, shutil
shutil.rmtree({str(tiny.cache)!r})
pathlib.Path({str(tiny.cache)!r}).write_text("")
"""
    unkept = "from tiny.machine_code import n_unkept\nprint(n_unkept())\n"
    code = (first if when == "before the second" else asked) + vanish + MAIN + unkept
    assert tiny.run(code)[0] == [*COLD, 1]
    assert tiny.cache.is_file()


# Files that are in use cannot be replaced there.
AS_ON_WINDOWS = """
import os
def replace(*_):
    raise PermissionError(13, "")
os.replace = replace
"""

NOT_LASTING = """
from tiny import jit
compiled = jit.compiled
jit.compiled = lambda kernel: (*compiled(kernel)[:-1], False)
"""

# What Numba was told when it compiled first holds for all that it compiles.
FOR_ANOTHER_CPU = """
import os
from numba import njit
@njit
def compiled_by_the_user():
    return 1
compiled_by_the_user()
os.environ["NUMBA_CPU_NAME"] = "generic"
"""


@pytest.mark.parametrize(
    ("how", "kept"),
    [("", True), (NOT_LASTING, False), (FOR_ANOTHER_CPU, False), (AS_ON_WINDOWS, False)],
    ids=["kept", "not lasting", "for another CPU", "as on Windows"],
)
def test_a_kernel_that_is_not_saved_counts_as_not_kept(tiny: Tiny, how: str, kept: bool) -> None:
    """And works; the next start compiles it again."""
    told = "from tiny import machine_code as m\nprint(m.n_unkept(), len(m.cache_folders()))"
    for expected in (COLD, WARM if kept else COLD):
        found = tiny.run(f"{how}\n{MAIN}\n{told}")[0]
        assert found == [*expected, *((0, 1) if kept else (1, 0))]
        assert len(tiny.kept()) == kept  # no temporary file either


@posix
@pytest.mark.parametrize("where", ["jit.compiled", "os.replace"])
def test_an_interrupt_while_a_kernel_is_compiled_or_kept(tiny: Tiny, where: str) -> None:
    """It gets through, leaves nothing behind, and the kernel can be had afterwards."""
    code = f"""
import os
from tiny import jit, machine_code
original = {where}
def interrupted(*arguments):
    {where} = original
    raise KeyboardInterrupt
{where} = interrupted
try:
    machine_code.address("caller.twice")
except KeyboardInterrupt:
    (folder,) = os.scandir(os.environ["NUMBA_CACHE_DIR"])
    print(len(os.listdir(folder)))
"""
    told = "print(machine_code.n_unkept())\n"
    assert tiny.run(code + MAIN + told)[0] == [0, *COLD, 0]
    assert tiny.run()[0] == WARM


@pytest.mark.parametrize(("before", "meanwhile"), [(700, 100000), (200000, 200000), (0, 0)])
def test_garbage_is_collected_as_before(tiny: Tiny, before: int, meanwhile: int) -> None:
    """Less often while a kernel is compiled, also where that fails; never if it never was."""
    code = f"""
import gc
from tiny import jit, machine_code
gc.set_threshold({before}, 9, 8)
found = []
original = jit.compile_extra
def compiling(*arguments):
    found.append(gc.get_threshold())
    if len(found) == 1:
        raise MemoryError
    return original(*arguments)
jit.compile_extra = compiling
try:
    machine_code.address("caller.twice")
except MemoryError:
    found.append(gc.get_threshold())
machine_code.address("caller.twice")
for each in [*found, gc.get_threshold()]:
    print(*each)
"""
    assert tiny.run(code)[0] == 2 * [meanwhile, 9, 8, before, 9, 8]


def test_code_that_needs_functions_which_are_not_there_is_not_run(tiny: Tiny) -> None:
    """LLVM would end the process; so it is compiled again."""
    assert tiny.run()[0] == COLD
    (file,) = tiny.cache.rglob(f"*{machine_code.SUFFIX}")
    header, _, code = file.read_bytes()[32:].partition(b"\n")
    key, symbol, n_argument, needs = json.loads(header)
    for more in ([], ["no_such_function_anywhere"]):
        data = json.dumps([key, symbol, n_argument, needs + more]).encode() + b"\n" + code
        file.write_bytes(hashlib.sha256(data).digest() + data)
        assert tiny.run()[0] == (COLD if more else WARM)
    assert tiny.run()[0] == WARM


def test_a_warm_start_leaves_numba_s_compiler_alone(warm: Tiny) -> None:
    """It does not even import it, and whoever compiles afterwards finds its tables filled."""
    code = (
        MAIN
        + """
import sys
print(*(name in sys.modules for name in ("numba", "scipy", "numba.np.arraymath", "scipy.linalg")))
from numba import njit
@njit
def compiled_by_the_user(a):
    return np.dot(a, a).sum() + np.sort(a.ravel())[0]
print(compiled_by_the_user(np.eye(3)))
x[:] = 0
function("caller.twice")(place(x), x.size)
print(int(x.sum()))
"""
    )
    process = warm.start(code)
    said = process.communicate()[0].split("\n")
    assert said[:4] == [" ".join(map(str, WARM)), "False False False False", "3.0", "6"]
    assert process.returncode == 0


# ---------------------------------------------------------------------------------------------
# Never in the way
# ---------------------------------------------------------------------------------------------


STATISTICS = """
import numpy as np
from ..jit import kernel
from .arrays import array_at


@kernel
def mean(x, n):
    numbers = array_at(x, n, np.float64)
    numbers[0] = np.mean(numbers)


@kernel
def total(x, n):
    numbers = array_at(x, n, np.float64)
    numbers[0] = np.sum(numbers)
"""

# Two threads need a kernel each; the second asks while the first is being compiled.
THREADS = """
import threading
import numpy as np
from tiny import machine_code
from tiny.machine_code import function, place, seconds_compiling

def call(kernel):
    x = np.arange(3.0)
    function(f"statistics.{kernel}")(place(x), 3)
    results[kernel] = x[0]
    waited[kernel] = seconds_compiling()

results, waited = {}, {}
other = threading.Thread(target=call, args=("total",))
kept = machine_code._kept

def kept_slowly(kernel):
    if kernel == "statistics.mean":
        other.start()
        other.join(1.0)
    return kept(kernel)

machine_code._kept = kept_slowly
call("mean")
own = seconds_compiling()
other.join()
print(results["mean"], results["total"], seconds_compiling() == own == waited["mean"] > 1)
print(0 < waited["total"] != own)
"""


def test_threads_may_need_kernels_at_once(tiny: Tiny) -> None:
    """Also under NUMBA_DISABLE_JIT; each is told of its own waiting alone."""
    (tiny.kernels / "statistics.py").write_text(STATISTICS)
    for _ in range(2):  # compiled, loaded
        process = tiny.start(THREADS, NUMBA_DISABLE_JIT="1", NPFSN_QUIET="1")
        out, err = process.communicate()
        assert (out, err) == ("1.0 3.0 True\nTrue\n", "")
    assert len(tiny.kept()) == 2


# One thread holds the lock for good; the other starts two children, which need one kernel that is
# loaded and one that is not.
FORKS = """
import os
import signal
import threading
import numpy as np
from tiny import machine_code
from tiny.machine_code import address, function, place

def held():
    with machine_code._lock:
        taken.set()
        release.wait()

def right():
    x = np.zeros(3, np.float32)
    function("caller.twice")(place(x), x.size)
    function("caller.once")(place(x), x.size)
    return x.sum() == 9

if __name__ == "__main__":
    function("caller.twice")
    taken, release = threading.Event(), threading.Event()
    threading.Thread(target=held, daemon=True).start()
    taken.wait()
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            signal.alarm(60)  # rather than wait for the lock for good
            code = 2
            try:
                code = 0 if right() else 1
            finally:
                os._exit(code)
        children.append(child)
    release.set()
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), int(right()))
"""


@posix
@pytest.mark.parametrize("cold", [True, False])
def test_forked_children_use_and_load_kernels(tiny: Tiny, cold: bool) -> None:
    """Whatever the threads of their parent were doing."""
    if not cold:
        tiny.run(f'{MAIN}\nfunction("caller.once")')
    assert tiny.run(FORKS)[0] == [0, 0, 1]


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
    monkeypatch.setattr(machine_code, "_compiles", [False])
    monkeypatch.setattr(machine_code, "announce", True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    machine_code._say_compiling(kept=True)
    assert capsys.readouterr().err.startswith(f"{start}npfsn: compiling")


def test_a_stderr_that_has_been_closed_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "_compiles", [False])
    monkeypatch.setattr(machine_code, "announce", True)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    machine_code._say_compiling(kept=True)
    assert machine_code.has_compiled()


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
    assert [*(tmp_path / ("home" if home else "cache")).rglob(f"*{machine_code.SUFFIX}")]

    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    for path, text in source.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    (tiny.kernels / "constants.py").write_text("STEP = 2\n")
    (tmp_path / "tiny.zip").unlink(missing_ok=True)
    packed(tiny, how)
    assert tiny.run(**where)[0] == [12, 1]


@pytest.mark.parametrize("says", ["relative", "made anew at each start"])
def test_each_packed_program_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    """Wherever it is started and unpacked; its code is as old as it is."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    found = {}
    for program in ("one", "two"):
        (tmp_path / program).write_bytes(b"a program" + program.encode())
        monkeypatch.setattr(sys, "executable", str(tmp_path / program))
        for start, folder in enumerate((tmp_path, Path(npfsn.__path__[0]).parent)):
            # As PyInstaller says of programs in a folder and of those in one file.
            unpacked = tmp_path / f"unpacked {start}" / "npfsn" / "machine_code.py"
            file = str(unpacked) if says != "relative" else "npfsn/machine_code.pyc"
            monkeypatch.setattr(machine_code, "__file__", file)
            monkeypatch.chdir(folder)
            path, *others = machine_code._places()
            assert path.parent == tmp_path / "cache"
            assert {other.name for other in others} <= {path.name}  # the user's, if there is one
            stamp = machine_code._source_digest.__wrapped__()
            assert found.setdefault(program, (path, stamp)) == (path, stamp)
    assert len({path for path, _ in found.values()}) == 2
    (tmp_path / "two").write_bytes(b"another one")
    assert machine_code._source_digest.__wrapped__() != found["two"][1]


def test_what_packs_programs_finds_all_modules_of_kernels() -> None:
    """They are imported by name, when something is compiled: nothing else would mention them."""
    package = Path(npfsn.__path__[0])
    used = {
        module
        for path in package.glob("*.py")
        for module in re.findall(r'\b(?:address|function)\(f?"(\w+)\.', path.read_text("utf-8"))
    }
    source = (package / "machine_code.py").read_text("utf-8")
    (mentioned,) = re.findall(r"    from \.kernels import (.*)  # noqa", source)
    assert used == set(mentioned.split(", ")) >= {"calls", "layers", "program"}


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
