"""House rules, checked mechanically: how code is compiled, what imports what, who may speak."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, environment

import npfsn
from npfsn.kernels.cpu import (
    AHEAD_BYTES,
    HAS_F16,
    PREFETCH,
    STRASSEN,
    STRASSEN_ROWS,
)
from npfsn.report import FileReport

PACKAGE = Path(npfsn.__path__[0])
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
KERNEL_MODULES = [name for name in MODULES if name.startswith("kernels.")]


def decorators(node: ast.AST) -> set[str]:
    """Names of the decorators of a function, called or not."""
    found = set()
    for decorator in getattr(node, "decorator_list", []):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        found.add(ast.unparse(called))
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Every function of a module, methods and inner ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def imported(name: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything a module imports anywhere, relative names resolved."""
    package = ["npfsn", *name.split(".")][:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def own_imports(name: str) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for module, what in imported(name):
        places = (f"{module}.{what}", f"{module}.{what}.__init__", module, f"{module}.__init__")
        for place in places:
            name = place.removeprefix("npfsn.")
            if name in MODULES and name != "__init__":  # which imports what it gives when asked
                found.add(name)
                break
    return found


# ---------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------

KERNELS = {"kernel", "inlined"}
COMPILERS = {"njit", "jit", "vectorize", "guvectorize", "jitclass", "cfunc", "stencil"}


def test_kernel_is_the_only_way_to_compile() -> None:
    """One decorator, in one folder: the options and the cache are decided in one place."""
    n_kernel = 0
    for name, tree in TREES.items():
        names = {what for module, what in imported(name) if module.startswith("numba")}
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        forbidden = (names | used) & COMPILERS
        assert forbidden == ({"njit"} if name == "jit" else set()), name
        for function in functions(tree):
            if decorators(function) & KERNELS:
                n_kernel += 1
                assert name in KERNEL_MODULES, f"{function.name} in {name}"
    assert n_kernel > 15


def test_kernels_compile_with_the_same_options() -> None:
    """No thread pool, no reordered sums, no object mode, no option but in `jit.py`."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword):
                assert node.arg not in ("parallel", "fastmath", "forceobj", "locals"), name
            if isinstance(node, (ast.Name, ast.Attribute)):
                found = node.id if isinstance(node, ast.Name) else node.attr
                assert found not in ("prange", "objmode"), name
            if isinstance(node, ast.keyword) and name in KERNEL_MODULES:
                assert node.arg not in ("nogil", "error_model", "cache"), name


def test_kernels_return_and_raise_nothing() -> None:
    """Outputs are arguments; an exception would leave a state half updated.

    A kernel that only kernels call may return a number, named with an underscore, or a view, which
    is all that those of `arrays.py` do.
    """
    for name in KERNEL_MODULES:
        for function in functions(TREES[name]):
            if not decorators(function) & KERNELS:
                continue
            for node in ast.walk(function):
                assert not isinstance(node, (ast.Raise, ast.Assert, ast.Try)), function.name
                inner = function.name.startswith("_") or name == "kernels.arrays"
                if isinstance(node, ast.Return) and not inner:
                    assert node.value is None, function.name


#: What llvm makes vectors of only where it sees no loop around it.
SEEN_ALONE = {"_apply_row"}


def test_what_one_kernel_calls_is_inlined() -> None:
    """A kernel that another calls by name is compiled on its own and once more in the other."""
    callers: dict[str, set[str]] = {}
    compiled = {}
    for name in KERNEL_MODULES:
        for function in functions(TREES[name]):
            for found in decorators(function) & KERNELS:
                compiled[function.name] = found
                for node in ast.walk(function):
                    if isinstance(node, ast.Call):
                        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                        callers.setdefault(called, set()).add(function.name)
    assert len(callers.keys() & compiled.keys()) > 15
    for name, found in compiled.items():
        once = len(callers.get(name, ())) == 1
        assert (found == "kernel") if name in SEEN_ALONE else (found == "inlined" or not once), name


def test_compiled_code_comes_from_files_that_the_cache_looks_at() -> None:
    """Those of `kernels` and `jit.py`: a change anywhere else would not be noticed."""
    for name in KERNEL_MODULES:
        others = {
            what
            for module, what in imported(name)
            if module.startswith("npfsn") and not re.fullmatch(r"npfsn\.(jit|kernels\b.*)", module)
        }
        for function in functions(TREES[name]):
            if decorators(function) & (KERNELS | {"intrinsic"}):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                assert not used & others, f"{name}.{function.name}"


ONE_SIGNATURE = """
import sys
import numpy as np
import npfsn
from drawn_models import identity_model, noise, small_model
from npfsn import machine_code
from npfsn.kernels import calls, features, layers, products, program, spectrum
from npfsn.models import ARCHITECTURES

norms = ("cumulative_laplace_norm", "cumulative_layer_norm", "forgetting_norm",
         "offline_laplace_norm", "offline_gaussian_norm")
x = noise(20000)
npfsn.enhance(x, 16000)  # weights in halves
npfsn.enhance(x, 44100)
for architecture in ARCHITECTURES:
    for cell in ("LSTM", "GRU"):
        model = small_model(architecture, cell)
        for norm in norms:
            npfsn.enhance(x, 16000, model, norm=norm)
            npfsn.enhance(np.stack([x, x], axis=1).astype("d"), 16000, model, norm=norm)
        npfsn.Enhancer(model, norm=norms[0], precision="int8").process(x)
        enhancer = npfsn.Enhancer(model, norm=norms[0], atten_lim_db=10, norm_horizon=1)
        for at in range(0, 2560, 256):
            enhancer.step(x[at : at + enhancer.frame_length], out=x[: enhancer.frame_length].copy())
        read_only = np.frombuffer(x.tobytes(), np.float32)
        enhancer.step(read_only[: enhancer.frame_length])
        enhancer.process(x[::2].astype("d"))
        enhancer.process(read_only)
        enhancer.set_state(enhancer.get_state())
        enhancer.copy().flush()
        npfsn.EnhancerGroup([enhancer, enhancer.copy()])
        enhancer.reset()
        enhancer.process(x[:100])
        enhancer.flush()
    npfsn.enhance(x, 16000, small_model(architecture, fdrc=0.3) if "improved" in architecture
                  else small_model(architecture, look_ahead=0), norm=norms[0])
for module in (calls, features, layers, products, program, spectrum):
    for name, kernel in vars(module).items():
        signatures = getattr(kernel, "nopython_signatures", None)
        if signatures is not None:
            loaded = f"{module.__name__.rpartition('.')[2]}.{name}" in machine_code._loaded
            print(name, len(signatures), loaded, kernel.targetoptions["inline"], signatures)
"""

# Where an instruction widens halves; used by `npfsn bench` alone.
OTHER_SIGNATURES = {"product_f16": HAS_F16, "matmul": 0}
# Matrices as small as these suit no tile registers.
OTHER_SIGNATURES["product_tiles"] = 0
# Where tiles have room for more.
OTHER_SIGNATURES |= dict.fromkeys(("go_on", "finish_queue"), int(bool(PREFETCH)))
OTHER_SIGNATURES["_begin_queue"] = int(bool(AHEAD_BYTES))
# The built-in model has 64 units and weights of halves.
SUMMED = STRASSEN and STRASSEN_ROWS <= 64
OTHER_SIGNATURES |= {"product_summed": 0}
OTHER_SIGNATURES |= dict.fromkeys(("product_summed_f16", "sum_inputs"), int(SUMMED))


@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    """And no kernel is there that nothing needs."""
    result = subprocess.run(
        [sys.executable, "-c", ONE_SIGNATURE],
        # A cold cache: what comes from a warm one was compiled with all that it calls.
        env=environment(NUMBA_CACHE_DIR=str(tmp_path), NPFSN_QUIET="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    found = {}
    for line in result.stdout.splitlines():
        name, count, loaded, inline, signatures = line.split(maxsplit=4)
        # What is inlined is compiled where it is called, what has an address on its own.
        times = max(int(count), loaded == "True")
        if times != (OTHER_SIGNATURES.get(name, 1) if inline == "never" else 0):
            found[name] = signatures
    assert result.stdout.count("\n") > 15
    assert not found


# ---------------------------------------------------------------------------------------------
# Imports
# ---------------------------------------------------------------------------------------------


def test_imports_point_downwards() -> None:
    """No module needs one that needs it, not even inside a function."""
    below = {name: own_imports(name) - {name} for name in MODULES if name != "__init__"}
    order: list[str] = []
    while below:
        free = sorted(name for name, needs in below.items() if not needs - set(order))
        assert free, f"these import each other: {below}"
        order += free
        for name in free:
            del below[name]


# What an engine inside another program does not need.
TOOLS = set(
    "audio batch bench checkpoint chunks cli containers convert describe intact live mp3 pickles "
    "pipe plan recipe report stopping terminal toml torch_file warmup".split()
)


def test_the_engine_knows_no_files_and_no_terminal() -> None:
    """A frame's way from `enhancer.py` down leads past neither."""
    reached, todo = set(), ["enhancer", "whole"]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += own_imports(name)
    assert len(reached) > 15
    assert not {name.split(".")[0] for name in reached} & TOOLS


def test_nothing_imports_from_outside() -> None:
    """Neither tests nor tools; and only the packages that are declared."""
    allowed = {"numpy", "numba", "llvmlite", "soundfile", "npfsn"}
    optional = {"bench.picture": {"matplotlib"}, "live": {"sounddevice"}}  # on request
    for name in MODULES:
        roots = {module.split(".")[0] for module, _ in imported(name)}
        assert roots - sys.stdlib_module_names <= allowed | optional.get(name, set()), name


def loaded_after(code: str) -> set[str]:
    """Return the modules that a process has loaded after some code."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


FOREIGN = {"torch", "onnx", "onnxruntime", "matplotlib", "pesq", "pystoi", "pytest", "IPython"}


def test_type_checkers_know_the_public_names() -> None:
    """And no others: a `__getattr__` that they see would let misspelt names pass."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    checked = [node for node in tree.body if isinstance(node, ast.If)]
    (seen,) = (node for node in checked if ast.unparse(node.test) == "TYPE_CHECKING")
    names = {alias.name for node in seen.body for alias in node.names}  # type: ignore[attr-defined]
    assert names | {"__version__"} == set(npfsn.__all__)
    assert "__getattr__" not in [getattr(node, "name", "") for node in tree.body]


def test_types_of_what_is_public_resolve() -> None:
    """As programs ask for them that make a command line or a check of arguments of a function."""
    public = [getattr(npfsn, name) for name in npfsn.__all__]
    public.append(importlib.import_module("npfsn.convert").convert)
    for each in filter(inspect.isclass, public[:]):
        public += [value for value in vars(each).values() if inspect.isfunction(value)]
    functions = list(filter(inspect.isfunction, public))
    assert npfsn.enhance_file in functions and npfsn.Enhancer.step in functions
    for function in functions:
        typing.get_type_hints(function)


def test_import_is_light() -> None:
    """Nothing heavy comes with the name alone."""
    assert not loaded_after("import npfsn") & (FOREIGN | {"numba", "numpy", "scipy", "soundfile"})


def test_running_needs_the_run_time_packages_only() -> None:
    """A stream takes numpy, llvmlite and, to compile, numba; the rest is for files."""
    code = """
import numpy as np
import npfsn
from npfsn.config import Sequence
from npfsn.models import ARCHITECTURES
config = ARCHITECTURES["fullband"].Config(
    "forgetting_norm", fullband_model=Sequence("GRU", 257, 3, 1, 514))
tensors = {name: np.ones(shape, np.float32) for name, shape in config.tensor_shapes().items()}
enhancer = npfsn.Enhancer(npfsn.Model("fullband", config, tensors))
enhancer.step(np.ones(256, np.float32))
enhancer.process(np.ones(1000, np.float32))
enhancer.flush()
npfsn.enhance(np.ones(1000, np.float32), 16000, enhancer.model)
npfsn.LiveStream(44100, 441, enhancer.model).process(np.ones(441, np.float32))
"""
    loaded = loaded_after(code)
    assert {"numpy", "llvmlite"} <= loaded
    assert not loaded & (FOREIGN | {"scipy.signal", "scipy.fft", "scipy.special", "soundfile"})


def test_run_time_dependencies_are_three() -> None:
    """In the order of `pyproject.toml`, each with the oldest version that does."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^dependencies = \[(.*)\]$", text, re.MULTILINE)
    names = [re.split("[<>=!~ ]", word.strip(' "'))[0] for word in listed.split(",")]
    assert names == ["numpy", "numba", "soundfile"]
    assert all(">=" in word and "<" not in word for word in listed.split(","))


# ---------------------------------------------------------------------------------------------
# Speech and examples
# ---------------------------------------------------------------------------------------------

# The command line and its terminal, and the one line about a cold start.
SPEAKERS = {"cli", "machine_code", "pipe", "terminal"}


def test_the_library_is_silent() -> None:
    """A library that prints spoils a pipe that carries sound."""
    for name, tree in TREES.items():
        voices = {
            ast.unparse(node)
            for node in ast.walk(tree)
            if (isinstance(node, ast.Name) and node.id == "print")
            or (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) in ("sys.stdout", "sys.stderr")
            )
        }
        assert not voices or name in SPEAKERS, (name, voices)


def test_there_is_no_debugger_and_no_module_for_odds_and_ends() -> None:
    """No debugger, no file that holds whatever fits nowhere else."""
    for name, tree in TREES.items():
        assert name.rpartition(".")[2] not in ("utils", "helpers", "common", "misc")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("breakpoint", "exec", "eval"), name


EXAMPLES = [
    name
    for name, tree in TREES.items()
    if any(">>>" in (ast.get_docstring(node) or "") for node in ast.walk(tree)
           if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
]  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples_run(name: str) -> None:
    """What the documentation shows is what happens."""
    result = doctest.testmod(importlib.import_module(f"npfsn.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", ["how-to", "streaming"])
def test_examples_of_the_pages_run(page: str) -> None:
    result = doctest.testfile(str(ROOT / "docs" / f"{page}.md"), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*.md"),
         *ROOT.glob("tools/**/*.md")]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    """To a file, and where they name a section, to one that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, section = target.partition("#")
        if re.match(r"\w+:", name):
            continue  # elsewhere
        place = page.parent / name if name else page
        assert place.exists(), target
        if section:
            text = place.read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert section in known, target


def test_the_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream is what it says: hop by hop the same as at once."""
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    np.testing.assert_array_equal(names["same"], names["clean"])
    assert names["heard"].shape == names["block"].shape


def test_there_are_examples() -> None:
    """Of all that is public, but for exceptions and types, and of what README names besides."""
    types = ("OnNonfinite", "Precision")
    public = {name: getattr(npfsn, name) for name in npfsn.__all__ if name not in types}
    public["convert"] = importlib.import_module("npfsn.convert").convert
    for name, value in public.items():
        if not isinstance(value, str) and not (
            isinstance(value, type) and issubclass(value, (Exception, FileReport))
        ):
            tests = doctest.DocTestFinder(recurse=False).find(value, name)
            assert any(test.examples for test in tests), name
