"""Models for the tests: those of the golden cases, and small ones whose output is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import golden_cases
import numpy as np

from npfsn.config import Sequence
from npfsn.models import ARCHITECTURES
from npfsn.norms import BoundNorm
from npfsn.program import Program
from npfsn.weights import Model

# The recipe's architecture -> ours.
NAMES = {
    "fast": "fast_fullsubnet",
    "full": "fullsubnet",
    "base": "fullband",
    "improved": "improved_fullsubnet",
}

# Compressed, this is a mask of one: 1 = -10 ln((10 - c) / (10 + c)).
ONE = 10.0 * math.tanh(0.05)


@functools.cache
def golden_case(name: str) -> golden_cases.Case:
    """Return a golden case, read once."""
    return golden_cases.load_case(name)


@functools.cache
def golden_model(name: str) -> Model:
    """Return the model a golden case was recorded with."""
    case = golden_case(name)
    return model_of(case.config, case.params)


def model_of(recipe: dict[str, Any], params: dict[str, np.ndarray]) -> Model:
    """Make a model of a golden case's recipe and tensors."""
    architecture = NAMES[recipe["arch"]]
    args = {
        **recipe["model_args"],
        "n_fft": recipe["n_fft"],
        "hop_length": recipe["hop_length"],
        "sample_rate": recipe["sr"],
    }
    shapes = {name: tensor.shape for name, tensor in params.items()}
    config = ARCHITECTURES[architecture].Config.from_tensors(shapes, args)
    return Model(architecture, config, params)


@functools.cache
def small_model(architecture: str, cell: str = "LSTM", **config: Any) -> Model:
    """Return a network of odd, tiny sizes with drawn parameters.

    Parameters
    ----------
    architecture : str
        A key of `npfsn.models.ARCHITECTURES`.
    cell : {"LSTM", "GRU"}
    **config
        Of the `Config`: norm, acoustics, look-ahead. Besides units_hidden_size: of the layers of a
        FullSubNet or Fast FullSubNet that have many units.
    """
    return _build(architecture, cell, config, lambda name, tensor: tensor)


@functools.cache
def identity_model(architecture: str, **config: Any) -> Model:
    """Return a small network whose mask is one everywhere: the output is the delayed input."""
    last = {
        "fast_fullsubnet": "decoder_lstm.1.fc_output_layer",
        "fullsubnet": "sb_model.fc_output_layer",
        "fullband": "fullband_model.fc_output_layer",
    }[architecture]

    def constant(name: str, tensor: np.ndarray) -> np.ndarray:
        if name == f"{last}.weight":
            return np.zeros_like(tensor)
        if name == f"{last}.bias":  # real plane, then imaginary plane
            return np.repeat(np.float32([ONE, 0.0]), tensor.size // 2)
        return tensor

    return _build(architecture, "LSTM", config, constant)


def _build(
    architecture: str,
    cell: str,
    options: dict[str, Any],
    change: Callable[[str, np.ndarray], np.ndarray],
) -> Model:
    """Lay out a small network, draw its tensors, and let `change` replace some."""
    options = {"norm_type": "cumulative_laplace_norm", **options}
    n_freq = options.get("n_fft", 512) // 2 + 1
    size = options.pop("units_hidden_size", None)
    if architecture == "fast_fullsubnet":
        n_mel = options.setdefault("num_mels", 9)
        options.setdefault("noisy_input_num_neighbors", 2)
        options |= {
            "encoder": (
                Sequence(cell, n_mel, 5, 1),
                Sequence(cell, 5, 7, 1, n_mel, "ReLU"),
            ),
            "bottleneck": Sequence(
                cell, 2 * options["noisy_input_num_neighbors"] + 2, size or 6, 2, 1, "ReLU"
            ),
            "decoder": (Sequence(cell, 2 * n_mel, 4, 1), Sequence(cell, 4, 5, 1, 2 * n_freq)),
        }
    elif architecture == "fullsubnet":
        options |= {
            "sb_num_neighbors": 1,
            "fb_model": Sequence(cell, n_freq, 5, 1, n_freq, "ReLU"),
            "sb_model": Sequence(cell, 4, size or 3, 2 if size else 1, 2),
        }
    elif architecture == "fullband":
        options |= {"fullband_model": Sequence(cell, n_freq, 7, 1, 2 * n_freq)}
    else:
        options |= {
            "freq_cutoffs": (20,),
            "sb_num_center_freqs": (1, (n_freq - 21) // 4),
            "sb_num_neighbor_freqs": (2, 1),
            "fb_num_center_freqs": (1, (n_freq - 21) // 4),
            "fb_num_neighbor_freqs": (1, 2),
            "fb_model": Sequence(cell, n_freq - 1, 5, 1, n_freq - 1),
            "sb_models": (
                Sequence(cell, 8, 3, 1, 2),
                Sequence(cell, 2 * (n_freq - 21) // 4 + 6, 3, 1, 2 * ((n_freq - 21) // 4)),
            ),
        }
    config = ARCHITECTURES[architecture].Config(**options)
    tensors = golden_cases.draw_parameters(
        {
            "seed": 1,
            "sr": config.sample_rate,
            "output_gain": 3.0,
            "parameters": list(config.tensor_shapes().items()),
        }
    )
    return Model(
        architecture, config, {name: change(name, tensor) for name, tensor in tensors.items()}
    )


def noise(n: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Return `n` samples of white noise, float32."""
    return np.random.default_rng(seed).normal(0.0, level, n).astype(np.float32)


def apply_norm(norm: BoundNorm, x: np.ndarray, out: np.ndarray) -> None:
    """Apply a norm to frames x float32[T, U, S]; one that is being fitted writes nothing."""
    program = Program()
    norm.write(program, x, out)
    program.play(0, len(x))
