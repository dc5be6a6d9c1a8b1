"""Weights as the products' kernels read them: panels of outputs, aligned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .kernels.cpu import DEPTH, HAS_F16, OFFSET, PANEL
from .quantise import levels_with_room, quantise


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros that starts on a cache line: no load of a panel crosses one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def padded(n: int) -> int:
    """Return `n` rounded up to whole panels."""
    return -(-n // PANEL) * PANEL


def pack_f32(weight: np.ndarray) -> np.ndarray:
    """Pack `weight` float[N, K] into float32[ceil(N / PANEL), K, PANEL], zeros behind N.

    Where the machine can widen it while loading, float16 stays float16: half as much to read, and
    the same products to the bit. Numba has no halves, so the array is a uint16 view of their bits.
    """
    n_out, n_in = weight.shape
    n_panel = padded(n_out) // PANEL
    dtype = np.float16 if HAS_F16 and weight.dtype == np.float16 else np.float32
    rows = np.zeros((n_panel * PANEL, n_in), dtype)
    rows[:n_out] = weight
    packed = aligned((n_panel, n_in, PANEL), dtype)
    packed[...] = rows.reshape(n_panel, PANEL, n_in).transpose(0, 2, 1)
    return packed if dtype == np.float32 else packed.view(np.uint16)


def pack_i8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise and pack `weight` float[N, K].

    Returns
    -------
    packed : int8 array, shape (ceil(N / PANEL), S, PANEL, DEPTH)
        S is even, S DEPTH at least K; zeros behind K.
    scale : float32 array, shape (ceil(N / PANEL) PANEL,)
        weight[n] = scale[n] packed[n], rounded to as many levels as `levels_with_room` gives.
    shift : int32 array of the same shape
        What the offset of the inputs adds to every sum: OFFSET times the sum of the row.
    """
    n_out, n_in = weight.shape
    n_panel, n_deep = padded(n_out) // PANEL, 2 * -(-n_in // (2 * DEPTH))
    levels = np.zeros((n_panel * PANEL, n_deep * DEPTH), np.int8)
    scale = np.zeros(n_panel * PANEL, np.float32)
    levels[:n_out, :n_in], scale[:n_out] = quantise(weight, levels_with_room(weight))
    packed = aligned((n_panel, n_deep, PANEL, DEPTH), np.int8)
    packed[...] = levels.reshape(n_panel, PANEL, n_deep, DEPTH).transpose(0, 2, 1, 3)
    return packed, scale, OFFSET * levels.sum(axis=1, dtype=np.int32)
