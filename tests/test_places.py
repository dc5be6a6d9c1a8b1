"""Wherever it runs: read-only, homeless, out of space, with damaged caches, twelve times at once.

Compiling everything takes half a minute, so the cold starts here compile two small kernels.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import numba.core.config
import numpy as np
import pytest
from needs import posix

import npfsn
from npfsn import jit
from npfsn.kernels import spectrum

PACKAGE = Path(npfsn.__file__).parent
TESTS = Path(__file__).parent

# Two kernels, cold: what a first start does, in little.
COLD = """
import numpy as np
from npfsn.kernels import spectrum
x = np.linspace(-1, 1, 256, dtype="f4")
x[3] = np.nan
out, bad = np.empty_like(x), np.zeros(1, np.int64)
spectrum.check_samples(x, out, bad)
spectrum.mix_dry(out.copy(), np.float32(0.5), np.ones(7, "f4"), 256, np.empty(3), out)
assert out.tobytes() == (lambda d: np.float32(0.5) * d + np.float32(0.5) * np.where(
    np.isnan(x), np.float32(0), x))(np.r_[np.ones(7, "f4"), np.where(np.isnan(x), 0, x)[:-7]]
    .astype("f4")).astype("f4").tobytes()
print("right", int(bad[0]))
"""

# What of it could not be kept, and where the rest is.
KEPT = "from npfsn import jit; print(jit.n_unkept(), *jit.cache_folders())"

# A whole stream; its kernels are in the cache of the checkout once the tests have run.
WARM = """
import hashlib, numpy as np, npfsn, drawn_models
e = npfsn.Enhancer(drawn_models.small_model("fast_fullsubnet"))
x = drawn_models.noise(5000)
print(hashlib.sha256(np.concatenate([e.process(x), e.flush()]).tobytes()).hexdigest())
"""


def environment(package: Path = PACKAGE, **more: str) -> dict[str, str]:
    kept = {k: os.environ[k] for k in ("PATH", "SYSTEMROOT", "HOME", "TMPDIR") if k in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(package.parent), str(TESTS)]), **more}


def python(program: str, *flags: str, before=(), env=None, codes=(0,), **options):
    """Run a program in a process of its own and return what it printed; it must succeed."""
    options = {"stderr": subprocess.PIPE, "cwd": "/", **options}  # the cwd is on Python's path
    done = subprocess.run(
        [*before, sys.executable, *flags, "-c", program],
        env=environment() if env is None else env,
        stdout=subprocess.PIPE, timeout=120, text=True, encoding="utf-8", **options,
    )  # fmt: skip
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in (done.stderr or "")
    return done.stdout, done.stderr or ""


def copy_package(to: Path) -> Path:
    shutil.copytree(PACKAGE, to / "npfsn", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    return to / "npfsn"


@pytest.fixture
def read_only() -> Iterator[tuple[Path, list[str]]]:
    """Make an installation that nobody can write to, and a prefix that makes root a nobody."""
    folder = Path(tempfile.mkdtemp())
    package = copy_package(folder)
    home = folder / "home"
    home.mkdir()
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    prefix: list[str] = []
    if os.geteuid() == 0:
        # Without capabilities root obeys permissions, and can still read its own interpreter.
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to make it obey permissions")
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"]
    yield package, prefix
    for path in paths:
        path.chmod(0o755)
    shutil.rmtree(folder)


def last_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("npfsn:")]


@posix
def test_a_read_only_installation_without_a_home_works_and_says_so_once(read_only):
    package, prefix = read_only
    home = package.parent / "home"
    probe = f"open({str(home / 'x')!r}, 'w')"
    denied = subprocess.run([*prefix, sys.executable, "-c", probe], stderr=subprocess.PIPE)
    assert b"PermissionError" in denied.stderr  # or this test would show nothing
    env = environment(package, HOME=str(home / "none"), XDG_CACHE_HOME=str(home / "none"))
    homeless = {k: v for k, v in env.items() if k != "HOME"}
    for each in (env, homeless):
        out, err = python(COLD + KEPT, before=prefix, env=each)
        assert out == "right 1\n2\n"
        assert len(last_lines(err)) == 1
        assert "no cache can be written here" in err and "NUMBA_CACHE_DIR" in err
    out, err = python(COLD, before=prefix, env={**env, "NPFSN_QUIET": "1"})
    assert (out, err) == ("right 1\n", "")
    assert not list(package.rglob("*.nb?"))


@posix
def test_a_read_only_installation_uses_a_home_or_a_folder_it_is_given(read_only, tmp_path):
    package, prefix = read_only
    for name in ("HOME", "NUMBA_CACHE_DIR"):
        folder = tmp_path / name
        folder.mkdir()
        env = environment(package, **{"XDG_CACHE_HOME": str(folder / ".cache"), name: str(folder)})
        kept, err = python(COLD + KEPT, before=prefix, env=env)
        assert "kept for later starts" in err and len(last_lines(err)) == 1
        place = {path.parent for path in folder.rglob("*.nbc")}.pop()
        assert kept == f"right 1\n0 {place}\n"
        assert python(COLD + KEPT, before=prefix, env=env) == (kept, "")


@posix
def test_a_folder_that_cannot_be_written_does_not_stand_in_for_the_home(read_only, tmp_path):
    """Such as the one beside the kernels where Python keeps its own code."""
    package, prefix = read_only
    kernels = package / "kernels"
    kernels.chmod(0o755)
    (kernels / "__pycache__").mkdir(mode=0o555)
    kernels.chmod(0o555)
    env = environment(package, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / ".cache"))
    assert len(last_lines(python(COLD, before=prefix, env=env)[1])) == 1
    assert python(COLD, before=prefix, env=env) == ("right 1\n", "")


@posix
@pytest.mark.parametrize(
    ("where", "home"),
    [
        ("beside the kernels", True),
        ("beside the kernels", False),
        ("NUMBA_CACHE_DIR", True),
        ("NUMBA_CACHE_DIR", False),
        ("HOME", False),
    ],
)
def test_what_was_warmed_up_serves_those_who_cannot_write(where, home, read_only, tmp_path):
    """As in an image whose kernels were compiled while it was built."""
    package, prefix = read_only
    folder, nowhere = package.parent / "home", package.parent / "none"
    place = tmp_path if home else folder if where == "HOME" else nowhere
    env = environment(package, HOME=str(place), XDG_CACHE_HOME=str(place / ".cache"))
    if where == "NUMBA_CACHE_DIR":
        env[where] = str(folder)
    opened = package / "kernels" if where == "beside the kernels" else folder
    opened.chmod(0o755)
    _, err = python(COLD, before=prefix, env=env)
    assert "kept for later starts" in err
    made = [opened, *opened.rglob("*")]
    assert [path for path in made if path.suffix == ".nbc"]
    for path in made:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert python(COLD, before=prefix, env=env) == ("right 1\n", "")
    assert not list(tmp_path.rglob("*.nb?"))
    for path in made:
        path.chmod(0o755)


def test_only_code_of_trusted_owners_is_read(monkeypatch):
    owners = {"mine": 7, "root's": 0, "the installer's": 8, jit.__file__: 8, "another's": 9}
    monkeypatch.setattr(jit.os, "geteuid", lambda: 7, raising=False)
    monkeypatch.setattr(jit.os, "stat", lambda path: types.SimpleNamespace(st_uid=owners[path]))
    found = {name: jit._is_trusted(name) for name in owners if name != jit.__file__}
    assert found == {"mine": True, "root's": True, "the installer's": True, "another's": False}
    monkeypatch.undo()
    assert not jit._is_trusted("/nowhere/at/all")


def test_a_packed_program_trusts_its_user(monkeypatch, tmp_path):
    """No file of its code has an owner: the program itself has."""
    monkeypatch.setattr(jit, "__file__", "npfsn/jit.pyc")  # as PyInstaller says
    assert jit._is_trusted(str(tmp_path))


def test_code_of_others_is_left_alone(cache, filled, monkeypatch):
    """In a folder that can only be read, whoever may have filled it."""
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    monkeypatch.setattr(jit._Places, "_locator_classes", jit._READABLE)
    assert compile_one() == (1, 0)
    monkeypatch.setattr(jit, "_is_trusted", lambda folder: False)
    assert compile_one() == (0, 1)


@posix
@pytest.mark.parametrize("kind", ["file", "inside a file", "forbidden"])
def test_a_cache_folder_that_is_none_costs_only_time(kind, read_only, tmp_path):
    package, prefix = read_only
    (tmp_path / "file").write_text("")
    place = {
        "file": tmp_path / "file",
        "inside a file": tmp_path / "file" / "cache",
        "forbidden": package.parent / "cache",
    }[kind]
    nowhere = str(package.parent / "home")
    env = environment(package, NUMBA_CACHE_DIR=str(place), HOME=nowhere, XDG_CACHE_HOME=nowhere)
    out, err = python(COLD, before=prefix, env=env)
    assert out == "right 1\n"
    assert len(last_lines(err)) == 1


@posix
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no mount namespaces")
def test_a_full_disk_costs_only_time(tmp_path):
    script = f'mount -t tmpfs -o size=64k none {shlex.quote(str(tmp_path))} && exec "$0" "$@"'
    before = ["unshare", "-m", "sh", "-c", script]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("may not mount")
    fill = f"open({str(tmp_path / 'fill')!r}, 'wb').write(bytes(FILL))\n"
    for room in (0, 8192, 65536):  # for nothing, for the index, for some files
        program = fill.replace("FILL", str(max(65536 - 4096 - room, 0))) + COLD
        program += KEPT
        out, err = python(program, before=before, env=environment(NUMBA_CACHE_DIR=str(tmp_path)))
        n_unkept = out.removeprefix("right 1\n").split()[0]
        assert n_unkept == "2" if room < 65536 else n_unkept in "01"
        assert len(last_lines(err)) == 1


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "announce", False)
    return tmp_path


def compile_one() -> tuple[int, int]:
    """Compile `check_samples` or take it from the cache; return hits and misses."""
    fresh = jit.kernel(spectrum.check_samples.py_func)
    x = np.linspace(-1, 1, 300, dtype=np.float32)
    out, bad = np.empty_like(x), np.zeros(1, np.int64)
    fresh(x, out, bad)
    assert np.array_equal(x, out)
    stats = fresh.stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Return a cache folder with one kernel in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.core.config, "CACHE_DIR", str(folder))
        compile_one()
    return folder


def flipped(data: bytes, at: float) -> bytes:
    place = min(int(at * len(data)), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    **{f"cut to {n}": (lambda data, n=n: data[:n]) for n in (1, 40)},
    "cut in half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    **{f"flipped at {f}": (lambda d, f=f: flipped(d, f)) for f in (0, 0.1, 0.5, 1)},
    "garbage": lambda data: np.random.default_rng(0).bytes(len(data)),
    "a huge pickle": lambda data: b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00",
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_file_is_made_anew(cache, filled, suffix, kind):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    assert compile_one() == (1, 0)
    (file,) = cache.rglob(f"*{suffix}")
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    assert compile_one() == (0, 1)
    assert compile_one() == (1, 0)


def test_waits_for_kernels_add_up(cache, monkeypatch):
    monkeypatch.setattr(jit._wait, "seconds", 100.0)
    compile_one()
    assert jit.seconds_compiling() > 100.0


@posix
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kind", ["folder", "dangling link", "gone"])
def test_a_cache_file_that_is_no_file_costs_only_time(cache, filled, suffix, kind):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    (file,) = cache.rglob(f"*{suffix}")
    file.unlink()
    if kind == "folder":
        (file / "full").mkdir(parents=True)
    elif kind == "dangling link":
        file.symlink_to(cache / "nowhere")
    assert compile_one() == (0, 1)
    compile_one()


@pytest.mark.parametrize("whose", ["older sources", "another signature"])
def test_an_index_that_leads_to_the_wrong_code_is_not_followed(cache, monkeypatch, whose):
    """As when the disk fills between index and code, or two processes write at once."""
    if whose == "older sources":
        monkeypatch.setattr(jit, "_source_digest", lambda: "an older version")
        compile_one()
        monkeypatch.undo()
        monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(cache))
    else:
        fresh = jit.kernel(spectrum.check_samples.py_func)
        fresh(np.zeros(3), np.zeros(3), np.zeros(1, np.int64))  # float64
    (code,) = cache.rglob("*.nbc")
    old = code.read_bytes()
    for file in cache.rglob("*.nb?"):
        file.unlink()
    assert compile_one() == (0, 1)
    (code,) = cache.rglob("*.nbc")
    code.write_bytes(old)
    assert compile_one() == (0, 1)
    assert compile_one() == (1, 0)


def test_an_upgrade_of_numba_runs_its_own_code(cache, filled, monkeypatch):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    assert compile_one() == (1, 0)
    monkeypatch.setattr(numba, "__version__", "another")
    assert compile_one() == (0, 1)
    assert compile_one() == (1, 0)


def test_twelve_cold_starts_at_once(tmp_path):
    env = environment(NUMBA_CACHE_DIR=str(tmp_path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COLD],
            env=env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(12)
    ]  # fmt: skip
    results = [(*p.communicate(timeout=180), p.returncode) for p in processes]
    assert all(out == "right 1\n" and code == 0 for out, _, code in results), results
    assert python(COLD, env=env) == ("right 1\n", "")  # and left a cache that is whole
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


# --- environments ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected() -> str:
    return python(WARM)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"PYTHONHASHSEED": "1"},
        {"LC_ALL": "C", "PYTHONHASHSEED": "2", "PYTHONUTF8": "0", "LANG": "C"},
        {"LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "0", "TZ": "Asia/Kathmandu"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_environment_changes_no_bit(expected, settings):
    out, err = python(WARM, env=environment(**settings))
    assert out == expected


def test_kernels_are_compiled_where_that_is_disabled(tmp_path):
    """Numba's own helpers, which a first compilation loads, must not be Python then."""
    program = (
        "import numpy as np\n"
        "from npfsn.kernels.spectrum import check_samples\n"
        "x, bad = np.array([1.0, np.nan], np.float32), np.zeros(1, np.int64)\n"
        "check_samples(x, x, bad)\n"
        "print(bad[0], x)\n"
    )
    settings = {"NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert python(program, env=environment(**settings))[0] == "1 [1. 0.]\n"


@posix
def test_a_folder_that_is_gone_can_be_worked_in(expected):
    leave = "import os, tempfile\nd = tempfile.mkdtemp()\nos.chdir(d)\nos.rmdir(d)\n"
    numpy = subprocess.run([sys.executable, "-c", leave + "import numpy"], capture_output=True)
    if numpy.returncode:
        pytest.skip("NumPy cannot be imported in such a folder, as with Python 3.13.0")
    assert python(leave + WARM)[0] == expected


def test_what_numba_was_told_holds_for_all_others(cache, monkeypatch):
    monkeypatch.setattr(numba.core.config, "DISABLE_JIT", 1)
    assert compile_one() == (0, 1)
    assert numba.core.config.DISABLE_JIT == 1


def test_without_docstrings_and_assertions(tmp_path):
    env = environment(PYTHONOPTIMIZE="2", NUMBA_CACHE_DIR=str(tmp_path))
    program = COLD.replace("assert out.tobytes() ==", "right = out.tobytes() ==")
    assert python(program + "print(right, __debug__)", env=env)[0] == "right 1\nTrue False\n"
    for module in ("npfsn", "npfsn.convert"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], env=env, cwd="/", capture_output=True
        )
        assert done.returncode == 0 and b"usage" in done.stdout and not done.stderr


def test_import_warns_of_nothing_and_says_nothing():
    out, err = python("import npfsn, npfsn.cli, npfsn.convert", "-W", "error")
    assert (out, err) == ("", "")


def test_isolated_mode_works():
    insert = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    out, _ = python(insert + "import npfsn; print(npfsn.__version__)", "-I")
    assert out == f"{npfsn.__version__}\n"


def test_a_path_with_spaces_and_other_letters(tmp_path):
    package = copy_package(tmp_path / "Für Elise – 说话 %s {}")
    env = environment(package, PYTHONUTF8="1")
    out, err = python(COLD, env=env)
    assert out == "right 1\n" and len(last_lines(err)) == 1
    assert list(package.rglob("*.nbc"))
    assert python(COLD, env=env) == ("right 1\n", "")


@posix
@pytest.mark.parametrize("way", ["closed", "full", "unread"])
def test_stderr_that_takes_nothing_stops_nothing(tmp_path, way):
    env = environment(NUMBA_CACHE_DIR=str(tmp_path))  # cold, so it wants to say something
    if way == "closed":
        out, _ = python(COLD, before=["sh", "-c", 'exec "$0" "$@" 2>&-'], env=env, stderr=None)
    elif way == "full":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        with open("/dev/full", "w") as full:
            # 120 is Python's own word for an stderr that could not be flushed.
            out, _ = python(COLD, env=env, stderr=full, codes=(0, 120))
    else:
        read, write = os.pipe()
        os.close(read)
        out, _ = python(COLD, env=env, stderr=write, codes=(0, 120))
        os.close(write)
    assert out == "right 1\n"  # and nothing else: stdout may carry sound
    assert list(tmp_path.rglob("*.nbc"))


@posix
def test_too_little_memory_is_a_memory_error_and_the_stream_goes_on():
    pytest.importorskip("resource")
    program = """
import resource, numpy as np, npfsn, drawn_models
e = npfsn.Enhancer(drawn_models.small_model("fullband"))
f = e.copy()
x = drawn_models.noise(40_000)
big = np.zeros(50_000_000, np.float32)
e.process(x[:1000])
f.process(x[:1000])
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for _ in range(3):
    try:
        e.process(big)
    except MemoryError:
        print("MemoryError")
print(e.process(x[1000:]).tobytes() == f.process(x[1000:]).tobytes())
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    assert python(program)[0].split() == ["MemoryError"] * 3 + ["True"]


BLOCKS = """
import npfsn
from drawn_models import noise, small_model
from npfsn.jit import seconds_compiling
enhancer = npfsn.Enhancer(small_model("fast_fullsubnet"))
before = seconds_compiling()
for n in (100, 25_600, 5_000):
    enhancer.process(noise(n))
print(before > 0, seconds_compiling() - before)
"""


def test_nothing_compiles_in_mid_stream(tmp_path):
    out, _ = python(BLOCKS, env=environment(NUMBA_CACHE_DIR=str(tmp_path)))
    assert out == "True 0.0\n"
