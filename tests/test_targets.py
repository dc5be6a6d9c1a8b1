"""The kernels as compiled for other machines: other tiles, other instructions, the same results.

Each target is a process with a cache of its own. The caches are kept between runs of the tests,
where pytest keeps what it keeps: compiling for a target takes half a minute.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from commands import environment
from drawn_models import golden_case, golden_model

import npfsn
from npfsn.kernels.cpu import FEATURES
from npfsn.weights import Model

# Halves first: what blocks of them need must be there before floats have fetched it.
CASES = (
    "fast_lstm_cum float16", "fast_lstm_cum float32", "fast_lstm_cum int8", "full_gru_cum float32",
)  # fmt: skip
# Without fused multiply-adds every sum rounds twice as often.
TOLERANCE = 3e-6
# One input quantised to the neighbouring integer moves a mask by about this much.
INT8_TOLERANCE = 5e-4

X86 = platform.machine().lower() in ("x86_64", "amd64")

# Enhances the cases hop by hop, at once and whole; says what the kernels were compiled for.
MAIN = """
import sys
import numpy as np
import npfsn
from drawn_models import golden_case
from npfsn.kernels.cpu import FEATURES
from npfsn.machine_code import seconds_compiling
from test_targets import model_and_precision

results = {}
for case in sys.argv[2:]:
    x = golden_case(case.split()[0]).x
    model, precision = model_and_precision(case)
    enhancer = npfsn.Enhancer(model, precision=precision)
    before = seconds_compiling()
    hops = [enhancer.step(x[at : at + 256]) for at in range(0, len(x) // 256 * 256, 256)]
    rest = [enhancer.process(x[len(x) // 256 * 256 :]), enhancer.flush()]
    results[case] = np.concatenate(hops + rest)[enhancer.latency_samples :]
    enhancer.reset()
    at_once = np.concatenate([enhancer.process(x), enhancer.flush()])
    np.testing.assert_array_equal(at_once[enhancer.latency_samples :], results[case])
    assert seconds_compiling() == before, "kernels came in the middle of a stream"
    whole = npfsn.enhance(x, 16000, model, precision=precision)
    np.testing.assert_array_equal(whole, results[case])
np.savez(sys.argv[1], features=sorted(FEATURES), **results)
"""


def model_and_precision(case: str) -> tuple[Model, str]:
    """Return what a case is run with: float16 is a file's, which is computed in float32."""
    name, kind = case.split()
    model = golden_model(name)
    if kind != "float16":
        return model, kind
    half = {key: tensor.astype(np.float16) for key, tensor in model.tensors.items()}
    return Model(model.architecture, model.config, half), "float32"


def run(folder: Path, **settings: str) -> dict[str, np.ndarray]:
    """Enhance the cases in a process that compiles for another machine."""
    subprocess.run(
        [sys.executable, "-c", MAIN, str(folder / "results.npz"), *CASES],
        env=environment(NUMBA_CACHE_DIR=str(folder), **settings),
        check=True,
        timeout=900,
    )
    with np.load(folder / "results.npz") as results:
        return dict(results)


# CPU name, and its features that kernels are chosen by: Numba would add all of this machine's.
TARGETS = {
    "oldest": ("generic", ""),
    "AVX2": ("haswell", "avx avx2 fma bmi bmi2 f16c"),
    "AVX-512": ("skylake-avx512", "avx avx2 fma bmi bmi2 avx512f avx512bw avx512dq avx512vl"),
    "Zen 4": ("znver3", "avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512vnni sse4a"),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_for_another_cpu_give_the_same_results(
    target: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Recorded outputs within the tolerance, hop by hop and whole to the bit."""
    cpu, features = TARGETS[target]
    host = llvm.get_host_cpu_features()
    if features and not (X86 and all(host.get(name, False) for name in features.split())):
        pytest.skip(f"this machine cannot run code for {cpu}")
    wanted = ",".join(f"+{name}" for name in features.split())
    cache = getattr(request.config, "cache", None)
    folder = tmp_path if cache is None else Path(cache.mkdir(f"npfsn-{cpu}"))
    results = run(folder, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=wanted)
    assert set(results["features"]) - {"neon"} == set(features.split())
    for case in CASES:
        name, kind = case.split()
        want, tolerance = golden_case(name).y, TOLERANCE
        model, precision = model_and_precision(case)
        here = npfsn.enhance(golden_case(name).x, 16000, model, precision=precision)
        if kind == "float16":  # what was recorded had all bits of the weights
            want = here
        if kind == "int8":
            # The integers are this machine's; what they are made of may round the other way.
            tolerance = INT8_TOLERANCE
            if "fma" not in features:  # it will, and then both are as far apart as from float32
                tolerance = 1.5 * float(np.abs(here - want).max())
            want = here
        tolerance *= max(1.0, float(np.abs(want).max()))
        error = np.abs(results[case] - want).max()
        assert error < tolerance, (case, error)


def test_features_are_those_of_this_machine() -> None:
    """Kernels are chosen by what Numba generates code for, which here is what the machine has."""
    if "NUMBA_CPU_NAME" in os.environ or "NUMBA_CPU_FEATURES" in os.environ:
        pytest.skip("told to compile for another machine")
    if X86:
        host = llvm.get_host_cpu_features()
        for feature in ("avx2", "fma", "avx512vnni"):
            assert (feature in FEATURES) == host.get(feature, False)
    else:
        assert "avx2" not in FEATURES
    assert ("neon" in FEATURES) == (platform.machine().lower() in ("aarch64", "arm64"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"NUMBA_ENABLE_AVX": "0"},
        {"NUMBA_CPU_NAME": "sandybridge"},
        {"NUMBA_CPU_NAME": "nocona", "NUMBA_ENABLE_AVX": "1"},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2"},
    ],
    ids=lambda settings: " ".join(f"{k[6:]}={v}" for k, v in settings.items()) or "none",
)
def test_the_target_is_the_one_that_numba_would_choose(settings: dict[str, str]) -> None:
    """Kernels are kept under its name without asking Numba."""
    code = (
        "from numba.core.registry import cpu_target\n"
        "from npfsn.kernels import cpu\n"
        "print(cpu_target.target_context.codegen().magic_tuple()[1:] == cpu._target())"
    )
    told = {key: value for key, value in environment().items() if not key.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told | settings, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr
