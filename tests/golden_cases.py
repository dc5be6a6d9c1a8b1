"""Load the recorded cases of `tests/golden` and draw the parameters they were recorded with."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN_DIR = Path(__file__).parent / "golden"

FAST_CASES = (
    "fast_lstm_cum",
    "fast_gru_cum",
    "fast_lstm_offline",
    "fast_lstm_forgetting",
    "fast_lstm_layernorm",
    "fast_lstm_gaussian",
    "fast_shrink3_nolook",
    "fast_neighbors",
)
FULL_CASES = (
    "full_lstm_cum",
    "full_gru_cum",
    "full_lstm_offline",
    "full_fbneighbors_relu6",
    "full_prelu_tanh",
    "full_gru_clamped_cum",
)
BASE_CASES = ("base_lstm_cum", "base_gru_offline")
IMPROVED_CASES = ("improved_16k", "improved_24k_gru", "improved_48k")
ALL_CASES = FAST_CASES + FULL_CASES + BASE_CASES + IMPROVED_CASES

# The cases whose norms see no future: the ones a stream can reproduce. Improved is not among them,
# because its section norm is `offline_laplace_norm` whatever the recipe says.
CAUSAL_CASES = (
    "fast_lstm_cum",
    "fast_gru_cum",
    "fast_lstm_forgetting",
    "fast_lstm_layernorm",
    "fast_shrink3_nolook",
    "fast_neighbors",
    "full_lstm_cum",
    "full_gru_cum",
    "full_fbneighbors_relu6",
    "full_prelu_tanh",
    "full_gru_clamped_cum",
    "base_lstm_cum",
)

# The cases whose mask was recorded, too.
MASK_CASES = (
    "fast_lstm_cum",
    "fast_gru_cum",
    "full_lstm_cum",
    "full_gru_cum",
    "full_gru_clamped_cum",
    "base_lstm_cum",
)

# The last linear layer of each architecture, whose weight is multiplied by `output_gain` so that
# the drawn network makes masks of a realistic size.
OUTPUT_LAYERS = ("sb_model", "decoder_lstm.1", "fullband_model")

MEL_NAME = "mel_scale.fb"


@dataclass(frozen=True)
class Case:
    """One recorded case.

    Attributes
    ----------
    name : str
        File name without `.npz`.
    config : dict
        The recipe: `arch`, `model_args`, `n_fft`, `hop_length`, `sr`, `seed`, `output_gain` and
        `parameters`, a list of [name, shape].
    x, y : float32 array, shape (N,)
        Input and recorded output.
    crm : float32 array, shape (2, F, T), or None
        Recorded mask before decompression, where the case has one.
    params : dict of str to float32 array
        Every tensor of the state dict, under its published name.
    """

    name: str
    config: dict[str, Any]
    x: np.ndarray
    y: np.ndarray
    crm: np.ndarray | None
    params: dict[str, np.ndarray]


def load_case(name: str) -> Case:
    """Read one case and draw its parameters.

    Parameters
    ----------
    name : str
        One of `ALL_CASES`.

    Returns
    -------
    Case
    """
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as archive:
        config = json.loads(str(archive["config"]))
        crm = archive["crm"] if "crm" in archive.files else None
        return Case(name, config, archive["x"], archive["y"], crm, draw_parameters(config))


def draw_parameters(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draw every tensor a configuration names.

    Each tensor has its own generator, so no value depends on the order of the names.

    Parameters
    ----------
    config : dict
        With `seed`, `output_gain`, `sr` and `parameters`, a list of [name, shape].

    Returns
    -------
    dict of str to float32 array
    """
    params = {}
    for name, shape in config["parameters"]:
        if name == MEL_NAME:
            params[name] = mel_filterbank(*shape, sample_rate=config["sr"])
        else:
            params[name] = _draw(name, shape, config["seed"], config["output_gain"])
    return params


def _draw(name: str, shape: list[int], seed: int, output_gain: float) -> np.ndarray:
    """Draw one tensor, uniform in [-bound, bound)."""
    fan_in = shape[-1]
    bound = np.sqrt(3.0 / fan_in) if len(shape) > 1 else 0.1
    u = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(shape)
    value = (2.0 * bound * u - bound).astype(np.float32)
    if name.startswith(OUTPUT_LAYERS) and name.endswith("fc_output_layer.weight"):
        value = value * np.float32(output_gain)
    return value


def mel_filterbank(n_freq: int, n_mel: int, *, sample_rate: int = 16000) -> np.ndarray:
    """Make triangular filters, evenly spaced in HTK mels from 0 Hz to half the sample rate.

    Parameters
    ----------
    n_freq : int
        Bins of the one-sided spectrum, 0 Hz and half the sample rate included.
    n_mel : int
        Number of filters. Their peak is 1 (no area normalisation), but it may fall between bins.
    sample_rate : int
        In Hz.

    Returns
    -------
    float32 array, shape (n_freq, n_mel)
    """
    nyquist = sample_rate / 2
    bins_hz = np.linspace(0.0, nyquist, n_freq)  # [F]
    edges_mel = np.linspace(0.0, 2595.0 * np.log10(1.0 + nyquist / 700.0), n_mel + 2)  # [B+2]
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)  # [B+2]

    lower, peak, upper = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]  # [B]
    rising = (bins_hz[:, None] - lower) / (peak - lower)  # [F, B]
    falling = (upper - bins_hz[:, None]) / (upper - peak)  # [F, B]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
