"""Compile ahead of time: run every kernel once, so that the disk cache holds all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import fast_fullsubnet, fullband, fullsubnet, improved_fullsubnet
from .config import CAUSAL_NORMS, OFFLINE_NORMS, Sequence
from .enhancer import Enhancer
from .kernels.spectrum import check_samples
from .kernels.vector import PANEL
from .layers import PRODUCTS
from .resample import Resampler
from .weights import Model, load_model
from .whole import enhance

_N_FFT = 16
_N_FREQ = _N_FFT // 2 + 1


def warm_up(
    model: str | os.PathLike[str] | Model | None = None,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Compile every kernel that a model needs, or that any model needs.

    Parameters
    ----------
    model : path or Model, optional
        None: all architectures and norms. Every precision comes with each.
    progress : callable, optional
        Called after each model with its name and the seconds it took.
    """
    models = smallest_models() if model is None else iter([load_model(model)])
    # Halves, and rows long enough for tile registers, which no small model has; and `matmul`, which
    # only `npfsn bench` calls.
    one, long = np.ones((1, PANEL), np.float32), np.ones((1, 8 * PANEL), np.float32)
    for precision, weight in (
        ("float32", one), ("float32", one.astype("e")), ("int8", one), ("int8", long),
    ):  # fmt: skip
        product = PRODUCTS[precision](weight, one[0, :1]).bind(*weight.shape)
        product(weight.astype("f"), np.zeros((1, PANEL), np.float32), 1)
    Resampler(48_000, 16_000)
    for each in models:
        started = time.perf_counter()
        config = each.config
        noise = np.random.default_rng(0).normal(0.0, 0.1, config.n_fft + 100 * config.hop_length)
        enhance(noise, config.sample_rate, each)
        if config.streams:
            Enhancer(each).process(noise)
        if progress is not None:
            progress(each.architecture, time.perf_counter() - started)


def cache_folder() -> str | None:
    """Tell where compiled kernels are kept; None where nothing can be written."""
    folder = check_samples._cache.cache_path
    return None if folder is None else str(folder)


def smallest_models() -> Iterator[Model]:
    """Give models that need every kernel and take no time: few bins, few units, weights of zero.

    Yields
    ------
    Model
        Every architecture with every norm.
    """
    for architecture, smallest in _SMALLEST.items():
        for norm in (*CAUSAL_NORMS, *OFFLINE_NORMS):
            config = smallest(norm)
            shapes = config.tensor_shapes()
            tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            yield Model(architecture, config, tensors)


def _fast_fullsubnet(norm: str) -> Any:
    return fast_fullsubnet.Config(
        norm,
        n_fft=_N_FFT,
        hop_length=_N_FFT // 2,
        start_at_sound=True,
        noisy_input_num_neighbors=1,
        num_mels=4,
        encoder=(Sequence("LSTM", 4, 4, 1), Sequence("LSTM", 4, 4, 1, 4, "ReLU")),
        bottleneck=Sequence("LSTM", 4, 4, 2, 1, "ReLU"),
        decoder=(Sequence("LSTM", 8, 4, 1), Sequence("LSTM", 4, 4, 1, 2 * _N_FREQ)),
        quiet_level=1.0,
    )


def _fullsubnet(norm: str) -> Any:
    return fullsubnet.Config(
        norm,
        n_fft=_N_FFT,
        hop_length=_N_FFT // 2,
        sb_num_neighbors=1,
        fb_model=Sequence("LSTM", _N_FREQ, 4, 2, _N_FREQ, "ReLU"),
        sb_model=Sequence("LSTM", 4, 4, 2, 2),
    )


def _fullband(norm: str) -> Any:
    return fullband.Config(
        norm,
        n_fft=_N_FFT,
        hop_length=_N_FFT // 2,
        fullband_model=Sequence("LSTM", _N_FREQ, 4, 2, 2 * _N_FREQ),
    )


def _improved_fullsubnet(norm: str) -> Any:
    return improved_fullsubnet.Config(
        norm,
        n_fft=_N_FFT,
        hop_length=_N_FFT // 4,
        freq_cutoffs=(4,),
        sb_num_center_freqs=(1, 2),
        sb_num_neighbor_freqs=(1, 1),
        fb_num_center_freqs=(1, 2),
        fb_num_neighbor_freqs=(1, 1),
        fb_model=Sequence("LSTM", _N_FREQ - 1, 4, 2, _N_FREQ - 1),
        sb_models=(Sequence("LSTM", 6, 4, 2, 2), Sequence("LSTM", 8, 4, 2, 4)),
    )


_SMALLEST: dict[str, Callable[[str], Any]] = {
    "fast_fullsubnet": _fast_fullsubnet,
    "fullsubnet": _fullsubnet,
    "fullband": _fullband,
    "improved_fullsubnet": _improved_fullsubnet,
}
