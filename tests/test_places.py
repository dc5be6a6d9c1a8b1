"""Wherever it runs: read-only, homeless, out of space, with damaged caches, twelve times at once.

Compiling everything takes half a minute, so the cold starts here compile two small kernels.
"""

from __future__ import annotations

import hashlib
import json
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
from npfsn import machine_code, weights
from npfsn.machine_code import SUFFIX

PACKAGE = Path(npfsn.__file__).parent
TESTS = Path(__file__).parent

# Two kernels, cold: what a first start does, in little.
COLD = """
import numpy as np
from npfsn.machine_code import function, place
x = np.linspace(-1, 1, 256, dtype="f4")
x[3] = np.nan
out, bad = np.empty_like(x), np.zeros(1, np.int64)
function("calls.check_samples")(place(x), x.size, place(out), place(bad))
wide, taps, half = out.astype("f8"), np.array([[0.5, 0, 0, 0]]), np.zeros(253)
function("calls.filtered")(place(wide), 256, place(taps), 1, 4, 1, 1, 0, place(half), 253)
assert out.tobytes() == np.where(np.isnan(x), np.float32(0), x).tobytes()
assert half.tobytes() == (0.5 * wide[:253] + 0.0).tobytes()
print("right", int(bad[0]))
"""

# What of it could not be kept, and where the rest is.
KEPT = "from npfsn import machine_code as m; print(m.n_unkept(), *m.cache_folders())"

# Where the kernels of the tests themselves are kept: those of the checkout, if nothing is told.
CACHE = {k: os.environ[k] for k in ("NUMBA_CACHE_DIR",) if k in os.environ}

# A whole stream; its kernels are in that cache once the tests have run.
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
        env=environment(**CACHE) if env is None else env,
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
    assert not list(package.rglob(f"*{SUFFIX}"))


@posix
def test_a_read_only_installation_uses_a_home_or_a_folder_it_is_given(read_only, tmp_path):
    package, prefix = read_only
    for name in ("HOME", "NUMBA_CACHE_DIR"):
        folder = tmp_path / name
        folder.mkdir()
        env = environment(package, **{"XDG_CACHE_HOME": str(folder / ".cache"), name: str(folder)})
        kept, err = python(COLD + KEPT, before=prefix, env=env)
        assert "kept for later starts" in err and len(last_lines(err)) == 1
        place = {path.parent for path in folder.rglob(f"*{SUFFIX}")}.pop()
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
    kernels = [path for path in made if path.suffix == SUFFIX]
    # As whoever made them would have all of their files: they may be of another user.
    probe = tmp_path / "probe"
    probe.touch()
    assert {path.stat().st_mode for path in kernels} == {probe.stat().st_mode}
    for path in made:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert python(COLD, before=prefix, env=env) == ("right 1\n", "")
    assert not list(tmp_path.rglob(f"*{SUFFIX}"))
    for path in made:
        path.chmod(0o755)


def test_only_code_of_trusted_owners_is_read(monkeypatch):
    owners = {
        "mine": 7,
        "root's": 0,
        "the installer's": 8,
        machine_code.__file__: 8,
        "another's": 9,
    }
    monkeypatch.setattr(os, "geteuid", lambda: 7, raising=False)
    monkeypatch.setattr(os, "stat", lambda path: types.SimpleNamespace(st_uid=owners[str(path)]))
    found = {n: machine_code._is_trusted(Path(n)) for n in owners if n != machine_code.__file__}
    assert found == {"mine": True, "root's": True, "the installer's": True, "another's": False}
    monkeypatch.undo()
    assert not machine_code._is_trusted(Path("/nowhere/at/all"))


def test_a_packed_program_trusts_its_user(monkeypatch, tmp_path):
    """No file of its code has an owner: the program itself has."""
    monkeypatch.setattr(machine_code, "__file__", "npfsn/machine_code.pyc")  # as PyInstaller says
    assert machine_code._is_trusted(tmp_path)


def test_code_of_others_is_left_alone(cache, filled, monkeypatch):
    """In a folder that can only be read, whoever may have filled it."""
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    monkeypatch.setattr(machine_code, "_can_write", lambda folder: False)
    assert not compile_one()
    monkeypatch.setattr(machine_code, "_is_trusted", lambda folder: False)
    assert compile_one()
    assert machine_code.n_unkept() == 1


def test_a_folder_of_another_owner_is_used_where_it_can_be_written(cache, monkeypatch):
    """Such as one that a group shares."""
    monkeypatch.setattr(machine_code, "_is_trusted", lambda folder: False)
    assert compile_one()
    assert list(cache.rglob(f"*{SUFFIX}"))
    assert not compile_one()


@pytest.mark.parametrize("first", ["empty", "outdated", "damaged", "not trusted"])
def test_a_folder_that_can_only_be_read_does_not_keep_others_from_serving(
    first, cache, filled, monkeypatch
):
    """As after an upgrade of an image's npfsn: the user's own folder is next."""
    folders = cache / "read", cache / "written", cache / "never"
    for folder in folders:
        folder.mkdir()
    (name,) = (path.name for path in filled.rglob(f"*{SUFFIX}"))
    (data,) = (path.read_bytes() for path in filled.rglob(f"*{SUFFIX}"))
    if first == "outdated":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine_code, "_places", lambda: folders[:1])
            patch.setattr(machine_code, "_source_digest", lambda: "older")
            compile_one()
        assert [path.name for path in folders[0].iterdir()] == [name]
    elif first != "empty":
        (folders[0] / name).write_bytes(data[:-1] if first == "damaged" else data)
    (folders[2] / name).write_bytes(data)
    monkeypatch.setattr(machine_code, "_places", lambda: folders)
    monkeypatch.setattr(machine_code, "_can_write", lambda folder: folder != folders[0])
    if first == "not trusted":
        monkeypatch.setattr(machine_code, "_is_trusted", lambda folder: folder != folders[0])
    there = [path.read_bytes() for path in folders[0].iterdir()]
    machine_code._folders.clear()
    assert compile_one()  # nothing after the first that can be written is read
    assert not compile_one()
    assert machine_code.cache_folders() == [str(folders[1])]
    assert [path.read_bytes() for path in folders[0].iterdir()] == there
    assert [path.name for path in folders[1].iterdir()] == [name]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@posix
def test_whoever_may_read_files_of_this_user_may_read_its_kernels(cache, umask):
    before = os.umask(umask)
    try:
        compile_one()
    finally:
        os.umask(before)
    (file,) = cache.rglob(f"*{SUFFIX}")
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask


@posix
def test_without_a_home_there_are_other_folders(cache, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    n_place = len(list(machine_code._places()))
    assert compile_one()
    monkeypatch.undo()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    assert len(list(machine_code._places())) == n_place + 1


@posix
def test_a_cache_folder_may_be_relative(tmp_path):
    """And the working directory may change, or be gone."""
    env = environment(NUMBA_CACHE_DIR="cache")
    (tmp_path / "elsewhere").mkdir()
    out, err = python(COLD + KEPT, env=env, cwd=tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    assert out == f"right 1\n0 {folder}\n" and len(last_lines(err)) == 1
    assert python(COLD + KEPT, env=env, cwd=tmp_path) == (out, "")
    moved = COLD.replace(
        'function("calls.filt', 'import os\nos.chdir("elsewhere")\nfunction("calls.filt'
    )
    out, err = python(moved + KEPT, env=env, cwd=tmp_path)
    other = tmp_path / "elsewhere" / "cache" / folder.name
    assert out == f"right 1\n0 {folder} {other}\n"
    gone = (
        "import os\nfrom npfsn.machine_code import _places\nprint(len([*_places()]))\n"
        "os.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\nprint(len([*_places()]))\n"
    )
    assert python(gone, env=env, cwd=tmp_path)[0] == "3\n2\n"


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
    sizes = f"import pathlib\nfor p in pathlib.Path({str(tmp_path)!r}).rglob('*.kernel'):\n"
    sizes += "    print(p.stat().st_size)\n"

    def unkept(free: int) -> tuple[str, list[int]]:
        """Return how many kernels are not kept on a disk with `free` pages, and sizes of others."""
        program = fill.replace("FILL", str(65536 - 4096 * free)) + COLD + KEPT + "\n" + sizes
        out, err = python(program, before=before, env=environment(NUMBA_CACHE_DIR=str(tmp_path)))
        assert len(last_lines(err)) == 1
        first, *others = out.removeprefix("right 1\n").splitlines()
        return first.split()[0], [int(size) for size in others]

    none, kept = unkept(16)
    assert none == "0" and len(kept) == 2
    pages = [-(-size // 4096) for size in kept]
    assert unkept(min(pages) - 1) == ("2", [])
    one, left = unkept(sum(pages) - 1)  # the second would need one page more
    assert one == "1" and len(left) == 1
    assert unkept(sum(pages))[0] == "0"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Begin with an empty folder, as a new process would."""
    begin_anew(monkeypatch, tmp_path)
    return tmp_path


def begin_anew(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("NUMBA_CACHE_DIR", str(folder))
    patch.setattr(machine_code, "announce", False)
    patch.setattr(machine_code, "_unkept", [0])
    patch.setattr(machine_code, "_folders", set())
    patch.setattr(machine_code, "_compiles", [False])
    patch.setattr(machine_code, "_loaded", {})


def compile_one(kernel: str = "calls.check_samples") -> bool:
    """Load a kernel from the cache or compile it, as a new process would; tell which."""
    machine_code._loaded.clear()
    machine_code._compiles[0] = False
    found = machine_code.function.__wrapped__(kernel)
    if kernel == "calls.check_samples":
        x = np.linspace(-1, 1, 300, dtype=np.float32)
        out, bad = np.empty_like(x), np.zeros(1, np.int64)
        found(*map(int, (x.ctypes.data, x.size, out.ctypes.data, bad.ctypes.data)))
        assert np.array_equal(x, out)
    return machine_code.has_compiled()


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Return a cache folder with one kernel in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        begin_anew(patch, folder)
        assert compile_one()
    return folder


def flipped(data: bytes, at: float) -> bytes:
    place = min(int(at * len(data)), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def sealed(data: bytes) -> bytes:
    """Return a file whose checksum is right."""
    return hashlib.sha256(data).digest() + data


def with_header(data: bytes, change) -> bytes:
    header, _, code = data[32:].partition(b"\n")
    return sealed(json.dumps(change(*json.loads(header))).encode() + b"\n" + code)


DAMAGE = {
    "empty": lambda data: b"",
    **{f"cut to {n}": (lambda data, n=n: data[:n]) for n in (1, 31, 32, 33, 40)},
    "cut in half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    **{f"flipped at {f}": (lambda d, f=f: flipped(d, f)) for f in (0, 0.01, 0.1, 0.3, 0.5, 0.9, 1)},
    "garbage": lambda data: np.random.default_rng(0).bytes(len(data)),
    "a huge pickle": lambda data: b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00",
    "a checksum alone": lambda data: sealed(b""),
    "no header": lambda data: sealed(data[32:].partition(b"\n")[2]),
    "another checksum": lambda data: bytes(32) + data[32:],
    **{
        f"a header of {header[:9]!r}": lambda data, header=header: sealed(header + b"\n")
        for header in (b"null", b"{}", b"[]", b"[1,2,3,4]", b"[" * 100_000, b"1" * 10_000, b"\xff")
    },
    "no key": lambda data: with_header(data, lambda key, *rest: [None, *rest]),
    "more in the key": lambda data: with_header(data, lambda key, *rest: [[*key, ""], *rest]),
    "more in the header": lambda data: with_header(data, lambda *all: [*all, 0]),
    "no list of needs": lambda data: with_header(data, lambda *most: [*most[:-1], 7]),
    "needs of numbers": lambda data: with_header(data, lambda *most: [*most[:-1], [7]]),
    "unknown needs": lambda data: with_header(data, lambda *most: [*most[:-1], ["no_such_one"]]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_file_is_made_anew(cache, filled, kind):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    assert not compile_one()
    (file,) = cache.rglob(f"*{SUFFIX}")
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    assert compile_one()
    assert not compile_one()


def test_no_kernel_is_led_to_other_numbers():
    """Strides are none of its arguments, and what must not be written it might write."""
    x = np.zeros((4, 4), np.float32)
    for array in (x, x[1:], x[:0]):
        assert machine_code.place(array) == array.ctypes.data
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    for array in (x[:, 1], x.T, x[::2], read_only):
        with pytest.raises(TypeError):
            machine_code.place(array)


def test_waits_for_kernels_add_up(cache, monkeypatch):
    monkeypatch.setattr(machine_code._wait, "seconds", 100.0)
    assert compile_one()
    compiled = machine_code.seconds_compiling()
    assert compiled > 100.0
    assert not compile_one()
    assert machine_code.seconds_compiling() > compiled


@posix
@pytest.mark.parametrize(
    "kind", ["folder", "dangling link", "gone", "unreadable", "link to itself"]
)
def test_a_cache_file_that_is_no_file_costs_only_time(cache, filled, kind, monkeypatch):
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    (file,) = cache.rglob(f"*{SUFFIX}")
    if kind == "unreadable":  # for root there is no such file
        read = Path.read_bytes

        def read_bytes(path):
            if path.stat().st_mode & 0o777 == 0:
                raise PermissionError(13, "")
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        file.chmod(0)
    else:
        file.unlink()
    if kind == "folder":
        (file / "full").mkdir(parents=True)
    elif kind == "dangling link":
        file.symlink_to(cache / "nowhere")
    elif kind == "link to itself":
        file.symlink_to(file)
    assert compile_one()
    assert compile_one() == (kind == "folder")  # which cannot be replaced
    assert machine_code.n_unkept() == 2 * (kind == "folder")
    assert not list(cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    "whose", ["older sources", "another kernel", "another CPU", "other features", "other llvmlite"]
)
def test_a_file_with_the_wrong_code_is_not_run(cache, monkeypatch, whose):
    """As when somebody copies a cache, or two processes write at once."""
    with pytest.MonkeyPatch.context() as patch:
        if whose == "older sources":
            patch.setattr(machine_code, "_source_digest", lambda: "an older version")
        elif whose == "another CPU":
            patch.setattr(machine_code, "CPU", "another")
        elif whose == "other features":
            patch.setattr(machine_code, "FEATURES_OF_CPU", "+all")
        elif whose == "other llvmlite":
            patch.setattr(machine_code.llvmlite, "__version__", "0.1")
        assert compile_one("calls." + ("find_start" if "kernel" in whose else "check_samples"))
    (code,) = cache.rglob(f"*{SUFFIX}")
    old = code.read_bytes()
    code.unlink()
    assert compile_one()
    (code,) = cache.rglob(f"*{SUFFIX}")
    assert code.read_bytes() != old
    code.write_bytes(old)
    assert compile_one()
    assert not compile_one()


@pytest.mark.parametrize("suffix", ["py", "pyc"])
def test_an_upgrade_of_numba_runs_its_own_code(cache, filled, monkeypatch, suffix):
    """Numba itself is not asked: importing it takes longer than all the rest."""
    shutil.copytree(filled, cache, dirs_exist_ok=True)
    assert not compile_one()
    package = cache / "another" / "numba"
    package.mkdir(parents=True)
    (package / f"__init__.{suffix}").touch()
    found = types.SimpleNamespace(origin=str(package / f"__init__.{suffix}"))
    monkeypatch.setattr(machine_code.importlib.util, "find_spec", lambda name: found)
    version = machine_code._version_of_numba.__wrapped__
    monkeypatch.setattr(machine_code, "_version_of_numba", version)
    for number in ("0.99.0", "0.99.1"):
        (package / f"_version.{suffix}").write_text(f"version = {number!r}")
        assert compile_one()
        assert not compile_one()


def test_the_version_of_numba_is_known_without_it():
    """By the file that it takes its own from."""
    place = Path(numba.__file__).with_name("_version.py")
    assert numba.__version__ in place.read_text()
    expected = hashlib.sha256(place.read_bytes()).hexdigest()
    assert machine_code._version_of_numba() == expected


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
    # And they left a cache that is whole.
    (folder,) = tmp_path.iterdir()
    assert python(COLD + KEPT, env=env) == (f"right 1\n0 {folder}\n", "")
    assert len([*folder.glob(f"*{SUFFIX}")]) == 2
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
    out, err = python(WARM, env=environment(**CACHE, **settings))
    assert out == expected


def test_kernels_are_compiled_where_that_is_disabled(tmp_path):
    """Numba's own helpers, which a first compilation loads, must not be Python then."""
    program = (
        "import numpy as np\n"
        "from npfsn.machine_code import function, place\n"
        "x, bad = np.array([1.0, np.nan], np.float32), np.zeros(1, np.int64)\n"
        "function('calls.check_samples')(place(x), 2, place(x), place(bad))\n"
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
    told = {"DISABLE_JIT": 1, "CPU_NAME": "generic", "CPU_FEATURES": "-sse4.2"}
    for name, value in told.items():
        monkeypatch.setattr(numba.core.config, name, value)
    assert compile_one()
    assert {name: getattr(numba.core.config, name) for name in told} == told
    assert not compile_one()


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


@pytest.mark.parametrize(
    "name", ["Für Elise – 说话 %s {}", b"caf\xe9"], ids=["letters", "no letter"]
)
def test_a_path_with_spaces_and_other_letters(tmp_path, name):
    if isinstance(name, bytes) and sys.platform != "linux":
        pytest.skip("names of files are Unicode here")
    package = copy_package(tmp_path / os.fsdecode(name))
    env = environment(package, PYTHONUTF8="1")
    out, err = python(COLD, env=env)
    assert out == "right 1\n" and len(last_lines(err)) == 1
    assert list(package.rglob(f"*{SUFFIX}"))
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
    assert list(tmp_path.rglob(f"*{SUFFIX}"))


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
import hashlib, sys
import numpy as np, npfsn
from drawn_models import noise, small_model
from npfsn.machine_code import has_compiled, seconds_compiling
enhancer = npfsn.Enhancer(small_model("fast_fullsubnet"))
before = seconds_compiling()
parts = [enhancer.process(noise(n)) for n in (100, 25_600, 5_000)]
print(before > 0, seconds_compiling() - before)
print(has_compiled(), "numba" in sys.modules)
print(hashlib.sha256(np.concatenate(parts).tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def cold_and_warm(tmp_path_factory) -> list[list[str]]:
    """Return what two processes print, of which the first compiles and the second loads."""
    env = environment(NUMBA_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))
    return [python(BLOCKS, env=env)[0].splitlines() for _ in range(2)]


def test_nothing_compiles_in_mid_stream(cold_and_warm):
    assert [said[0] for said in cold_and_warm] == ["True 0.0", "True 0.0"]


def test_what_is_compiled_and_what_is_loaded_give_the_same_bits(cold_and_warm):
    cold, warm = cold_and_warm
    assert (cold[1], warm[1]) == ("True True", "False False")
    assert cold[2] == warm[2]


# A built-in model's first step; what it has imported. Then the user compiles, too.
STEP = """
import sys
import llvmlite.binding
own = "llvmlite.ir" in sys.modules  # some versions import it themselves
import numpy as np, npfsn
enhancer = npfsn.Enhancer()
enhancer.step(np.zeros(enhancer.frame_length, np.float32))
compilers = {"numba", "scipy", *([] if own else ["llvmlite.ir"])}
print(sorted(compilers & {name for name in sys.modules}), npfsn.machine_code.has_compiled())
from numba import njit
@njit
def compiled_by_the_user(a):
    return np.dot(a, a).sum() + np.sort(a.ravel())[0]
print(compiled_by_the_user(np.eye(3)))
first = npfsn.Enhancer(enhancer.model)
print(np.abs(first.step(np.zeros(first.frame_length, np.float32))).max())
"""


def test_a_warm_start_imports_no_compiler():
    """It takes longer than all the rest; whoever compiles afterwards can."""
    python(STEP.partition("from numba")[0])  # after this one the cache holds what is needed
    assert python(STEP)[0] == "[] False\n3.0\n0.0\n"


# Makes and frees arrays, for which Numba's run time must be there.
USERS = """
import numpy as np
from numba import njit
@njit
def total(a):
    return [a + 1.0, 2.0 * a + 1.0][1].sum()
assert total(np.ones(3)) == 9.0
"""
USERS_AGAIN = """
assert total(np.ones(4, np.float32)) == 12.0  # compiled anew
@njit
def sorted_copy(a):
    return np.sort(np.concatenate((a, a)))[::2].copy()
assert sorted_copy(np.arange(3.0)).tolist() == [0.0, 1.0, 2.0]
"""


@pytest.mark.parametrize("order", ["Numba first", "npfsn first", "imported first"])
def test_a_program_may_compile_functions_of_its_own(tmp_path, order):
    """Before and after npfsn compiles or loads its own."""
    env = environment(NUMBA_CACHE_DIR=str(tmp_path), NPFSN_QUIET="1")
    told = "from npfsn.machine_code import has_compiled\nprint(has_compiled())\n"
    program = {
        "Numba first": USERS + COLD + USERS_AGAIN,
        "npfsn first": COLD + USERS + USERS_AGAIN + COLD,
        "imported first": "import numba\n" + COLD + USERS + COLD + USERS_AGAIN,
    }[order] + told
    for cold in (True, False):
        out, err = python(program, env=env)
        assert (out.split("\n")[-2], err) == (str(cold), "")
        assert set(out.split("\n")[:-2]) == {"right 1"}


def test_the_weights_are_found_in_an_archive(tmp_path):
    """They lie in it as in a wheel, beside the code; nothing of them is unpacked into a folder."""
    (copy_package(tmp_path / "all") / "weights").mkdir()
    shutil.copy(weights.default_path(), tmp_path / "all" / "npfsn" / "weights")
    shutil.make_archive(str(tmp_path / "npfsn"), "zip", tmp_path / "all")
    (tmp_path / "temporary").mkdir()
    path = os.pathsep.join([str(tmp_path / "npfsn.zip"), *filter(None, sys.path)])
    env = environment(PYTHONPATH=path, TMPDIR=str(tmp_path / "temporary"))
    program = "import npfsn; print(npfsn.__file__, npfsn.load_model().n_parameters)"
    out, err = python(program, env=env)
    assert out.split() == [
        str(tmp_path / "npfsn.zip" / "npfsn" / "__init__.py"),
        str(npfsn.load_model().n_parameters),
    ]
    assert err == "" and not any((tmp_path / "temporary").iterdir())
    program = "import sys; from npfsn import cli; sys.exit(cli.main(['info']))"
    inside = tmp_path / "npfsn.zip" / "npfsn" / "weights" / weights.DEFAULT_FILE
    assert f" {inside}\n" in python(program, env=env)[0]
    shutil.rmtree(tmp_path / "all" / "npfsn" / "weights")
    shutil.make_archive(str(tmp_path / "npfsn"), "zip", tmp_path / "all")
    _, err = python(program, env=env, codes=(1,))
    assert err.startswith("npfsn: error: npfsn's own weights are missing")
