"""Weights as the products' kernels read them: panels of outputs, aligned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .kernels.cpu import DEPTH, HAS_F16, OFFSET, PANEL
from .quantise import levels_with_room, quantise

# Rows that are quantised together: so few that what is computed on the way stays in the caches.
_AT_ONCE = 64


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros that starts on a cache line: no load of a panel crosses one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def padded(n: int) -> int:
    """Return `n` rounded up to whole panels."""
    return -(-n // PANEL) * PANEL


def pack_f32(weight: np.ndarray, gates: int = 1) -> np.ndarray:
    """Pack `weight` float[G N, K] into float32[ceil(N / PANEL) G, K, PANEL], zeros behind N.

    Where the machine can widen it while loading, float16 stays float16: half as much to read, and
    the same products to the bit. Numba has no halves, so the array is a uint16 view of their bits.
    """
    if HAS_F16 and weight.dtype == np.float16:
        return _in_panels(weight.view(np.uint16), gates)
    return _in_panels(weight, gates, np.float32)


def pack_i8(weight: np.ndarray, gates: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise and pack `weight` float[G N, K].

    Returns
    -------
    packed : int8 array, shape (ceil(N / PANEL) G, S, PANEL, DEPTH)
        S is even, S DEPTH at least K; zeros behind K.
    scale : float32 array, shape (ceil(N / PANEL) G PANEL,)
        weight[n] = scale[n] packed[n], rounded to as many levels as `levels_with_room` gives.
    shift : int32 array of the same shape
        What the offset of the inputs adds to every sum: OFFSET times the sum of the row.
    """
    n_out, n_in = weight.shape
    n_deep = 2 * -(-n_in // (2 * DEPTH))
    levels = np.zeros((n_out, n_deep * DEPTH), np.int8)
    scale = np.zeros(n_out, np.float32)
    for first in range(0, n_out, _AT_ONCE):
        at = slice(first, first + _AT_ONCE)
        levels[at, :n_in], scale[at] = quantise(weight[at], levels_with_room(weight[at]))
    shift = OFFSET * levels.sum(axis=1, dtype=np.int32)
    packed = _in_panels(levels.view(np.int32), gates)  # the DEPTH bytes of a step at once
    packed = packed.view(np.int8).reshape(*packed.shape, DEPTH)
    return packed, pack_vector(scale, gates), pack_vector(shift, gates)


def pack_vector(values: np.ndarray, gates: int = 1) -> np.ndarray:
    """Return a number for each output, [G N], in the order of packed weights: [panels PANEL]."""
    return _in_panels(values[:, None], gates).reshape(-1)


def _in_panels(rows: np.ndarray, gates: int, dtype: Any = None) -> np.ndarray:
    """Return `rows` [G N, K] as [P G, K, PANEL]: panel by panel all gates, as cells take them."""
    size, n_in = rows.shape[0] // gates, rows.shape[1]
    by_gate = rows.reshape(gates, size, n_in)
    packed = aligned((padded(size) // PANEL, gates, n_in, PANEL), dtype or rows.dtype)
    full = size // PANEL
    whole = by_gate[:, : full * PANEL].reshape(gates, full, PANEL, n_in)
    packed[:full] = whole.transpose(1, 0, 3, 2)
    packed[full:, ..., : size % PANEL] = by_gate[:, full * PANEL :].transpose(0, 2, 1)
    return packed.reshape(len(packed) * gates, n_in, PANEL)
