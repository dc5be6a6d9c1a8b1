"""Memory of a running stream: what a hop takes, it gives back, and it takes next to nothing."""

from __future__ import annotations

import gc
import sys
import tracemalloc

import numpy as np
import pytest
from drawn_models import golden_model, noise, small_model

import npfsn
from npfsn.models import ARCHITECTURES

# Views of arrays and tuples of them for a call: Python objects, gone when it is over. In the
# networks with long hops below, a temporary array for one hop would take eight times as much.
TEMPORARY = 2000
LONG = {"n_fft": 8192, "hop_length": 4096}
STEPS = 1000
# Python 3.10 gives a function that has run 1,024 times a cache; NumPy 1 fills lists for as long.
WARM_UP = 20 if sys.version_info >= (3, 11) and np.__version__ >= "2" else 3000


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fast_fullsubnet", {"atten_lim_db": 12.0, "norm_horizon": 2.0}),
        ("fullsubnet", {"norm": "forgetting_norm"}),
        ("fullband", {"norm": "cumulative_layer_norm", "on_nonfinite": "zero"}),
        ("fast_lstm_cum", {}),
        ("fast_shrink3_nolook", {}),
        ("full_gru_cum", {}),
        ("improved_48k", {"norm": "cumulative_laplace_norm"}),
    ],
)
def test_steps_allocate_nothing(name: str, options: dict, precision: str) -> None:
    """A thousand hops into the same array: not a byte more at the end, hardly one in between."""
    model = small_model(name, **LONG) if name in ARCHITECTURES else golden_model(name)
    assert_nothing_is_allocated(npfsn.Enhancer(model, precision=precision, **options))


def test_steps_after_part_of_a_hop_allocate_nothing() -> None:
    """What `process` left is completed in place."""
    enhancer = npfsn.Enhancer(small_model("fast_fullsubnet", **LONG))
    enhancer.process(noise(5))
    assert_nothing_is_allocated(enhancer)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_steps_of_a_group_allocate_nothing(precision: str) -> None:
    """Not for one stream, and not for more."""
    model = small_model("fast_fullsubnet", **LONG)
    for n in (1, 3):
        streams = [npfsn.Enhancer(model, precision=precision) for _ in range(n)]
        group = npfsn.EnhancerGroup(streams)
        assert_nothing_is_allocated(group, noise(n * group.frame_length).reshape(n, -1))


def assert_nothing_is_allocated(
    enhancer: npfsn.Enhancer | npfsn.EnhancerGroup, x: np.ndarray | None = None
) -> None:
    """Measure a thousand steps after a few."""
    x = noise(enhancer.frame_length) if x is None else x
    out = x.copy()

    def run(n: int) -> tuple[int, int]:
        """Take `n` hops; return the memory held before and after them, and their peak."""
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(n):
            enhancer.step(x, out=out)
        after, peak = tracemalloc.get_traced_memory()
        return after - before, peak - before

    gc.collect()
    tracemalloc.start()
    try:
        run(WARM_UP)
        growth, peak = run(STEPS)
    finally:
        tracemalloc.stop()
    assert growth <= 64  # the integers that hold the numbers
    assert peak < TEMPORARY
