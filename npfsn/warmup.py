"""Compile ahead of time: run every kernel once, so that the disk cache holds all of them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from .config import CAUSAL_NORMS, OFFLINE_NORMS
from .enhancer import Enhancer
from .group import EnhancerGroup
from .kernels.cpu import PANEL, STRASSEN
from .layers import PRODUCTS
from .machine_code import address
from .models import ARCHITECTURES
from .resample import Resampler
from .weights import Model, load_model
from .whole import enhance


def warm_up(
    model: str | os.PathLike[str] | Model | None = None,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Compile every kernel that a model needs, or that any model needs.

    Parameters
    ----------
    model : path or Model, optional
        None: all architectures and norms. All precisions are compiled in either case.
    progress : callable, optional
        Called after each architecture with its name and the seconds it took.
    """
    models = smallest_models() if model is None else [load_model(model)]
    # Half-precision weights, and rows long enough for tile registers, which no small model has; and
    # `matmul`, which only `npfsn bench` calls.
    one, long = np.ones((1, PANEL), np.float32), np.ones((1, 8 * PANEL), np.float32)
    for precision, weight in (
        ("float32", one), ("float32", one.astype("e")), ("int8", one), ("int8", long),
    ):  # fmt: skip
        product = PRODUCTS[precision](weight, one[0, :1]).bind(*weight.shape)
        product(weight.astype("f"), np.zeros((1, PANEL), np.float32), 1)
    # No small model has enough units and inputs for these.
    if STRASSEN:
        for kernel in ("product_summed", "product_summed_f16", "sum_inputs"):
            address(f"products.{kernel}")
    Resampler(48_000, 16_000)
    for architecture, alike in itertools.groupby(models, lambda each: each.architecture):
        started = time.perf_counter()
        for each in alike:
            config = each.config
            n = config.n_fft + 100 * config.hop_length
            noise = np.random.default_rng(0).normal(0.0, 0.1, n)
            enhance(noise, config.sample_rate, each)
            if config.streams:
                enhancer = Enhancer(each)
                enhancer.process(noise)
                EnhancerGroup([enhancer, enhancer.copy()])
        if progress is not None:
            progress(architecture, time.perf_counter() - started)


def smallest_models() -> Iterator[Model]:
    """Yield tiny models that need every kernel: few bins, few units, weights of zero.

    Yields
    ------
    Model
        Every architecture with every norm.
    """
    for architecture, module in ARCHITECTURES.items():
        for norm in (*CAUSAL_NORMS, *OFFLINE_NORMS):
            config = module.Config.smallest(norm)
            shapes = config.tensor_shapes()
            tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            yield Model(architecture, config, tensors)
