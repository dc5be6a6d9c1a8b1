"""The networks at the sizes of their papers with random weights, since only sizes affect speed."""

from __future__ import annotations

import zlib

import numpy as np

from npfsn import fast_fullsubnet, fullsubnet, improved_fullsubnet
from npfsn.config import Sequence
from npfsn.weights import Model

MODELS = ("fast_fullsubnet", "fullsubnet")
_NORM = "cumulative_laplace_norm"


def paper_model(name: str) -> Model:
    """Return one of `MODELS`, or "improved_fullsubnet"; the same weights every time.

    Weights are drawn as PyTorch initialises them, so that states stay in the range of a trained
    network, and rounded to half precision, so that a float16 file holds the same (`in_halves`).
    """
    if name == "fast_fullsubnet":
        config: object = fast_fullsubnet.Config(
            _NORM,
            encoder=(Sequence("LSTM", 64, 384, 1), Sequence("LSTM", 384, 257, 1, 64, "ReLU")),
            bottleneck=Sequence("LSTM", 12, 384, 2, 1, "ReLU"),
            decoder=(Sequence("LSTM", 128, 512, 1), Sequence("LSTM", 512, 512, 1, 514)),
        )
    elif name == "improved_fullsubnet":
        centers = (1, 4, 20, 60)
        config = improved_fullsubnet.Config(
            _NORM,
            sample_rate=48000,
            n_fft=960,
            hop_length=480,
            freq_cutoffs=(20, 120, 240),
            sb_num_center_freqs=centers,
            sb_num_neighbor_freqs=(15,) * 4,
            fb_num_center_freqs=centers,
            fb_num_neighbor_freqs=(15,) * 4,
            fb_model=Sequence("LSTM", 480, 512, 2, 480),
            sb_models=tuple(Sequence("LSTM", 2 * n + 60, 384, 2, 2 * n) for n in centers),
        ).with_norm(_NORM)  # with causal sections, without which it does not stream
    else:
        config = fullsubnet.Config(_NORM)
    tensors = {
        name: _mel_bands(*shape) if name == "mel_scale.fb" else _draw(name, shape)
        for name, shape in config.tensor_shapes().items()  # type: ignore[attr-defined]
    }
    return Model(name, config, tensors)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    bound = 1.0 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.05
    return rng.uniform(-bound, bound, shape).astype(np.float16).astype(np.float32)


def in_halves(model: Model) -> Model:
    """Return the same network as a float16 file holds it."""
    tensors = {
        name: tensor if name == "mel_scale.fb" else tensor.astype(np.float16)
        for name, tensor in model.tensors.items()
    }
    return Model(model.architecture, model.config, tensors)


def _mel_bands(n_freq: int, n_mel: int) -> np.ndarray:
    """Triangles, evenly spaced in HTK mels up to 8 kHz: at most two of them touch a bin."""
    bins = np.linspace(0.0, 8000.0, n_freq)[:, None]
    edges = 700.0 * (10.0 ** (np.linspace(0.0, 2840.023, n_mel + 2) / 2595.0) - 1.0)
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
