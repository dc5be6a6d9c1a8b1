"""Eight-bit weights, as int8 files keep them and as the int8 kernels multiply by them.

Files use all 127 levels; for the kernels, weights are dequantised and quantised once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: The most levels on either side of zero.
LEVELS = 127
# Limit of the sum of four magnitudes of weights before they are rounded, which adds up to half a
# level to each: 258 times 127, the largest input with its offset, is just below 2^15.
_SUM_OF_FOUR = np.float32(256.0)


def quantise(
    weight: npt.NDArray[Any], most: npt.NDArray[np.float32] | int = LEVELS
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a matrix to eight bits with a scale per row.

    Parameters
    ----------
    weight : float array, shape (N, K)
    most : int or float32 array, shape (N,)
        Levels on either side of zero, of all rows or of each; at most 127.

    Returns
    -------
    levels : int8 array, shape (N, K)
        The largest magnitude in a row is `most`.
    scale : float32 array, shape (N,)
        ``weight[n]`` is ``scale[n] * levels[n]`` to half a level; 0 for a row of zeros or nearly
        so.
    """
    rows = weight.astype(np.float32)
    with np.errstate(under="ignore"):
        scale = np.abs(rows).max(axis=1, initial=0.0) / np.float32(most)
    scale[scale < np.finfo(np.float32).tiny] = 0  # denormal, imprecise: levels would be too large
    levels = np.rint(rows / np.where(scale > 0, scale, 1)[:, None])
    return levels.astype(np.int8), scale.astype(np.float32)


def levels_with_room(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return how many levels rows may have so that four products fit into sixteen bits.

    Without an instruction that sums four products in 32 bits, kernels sum them in 16: of every
    eight inputs, numbers 0, 1, 4, 5 and numbers 2, 3, 6, 7 (`kernels.vector.Emit.words`). A row
    whose largest such sum would overflow gets fewer than 127 levels, 64 at worst. Half of the rows
    of the built-in model do; one in twenty gets 95 or fewer.

    Parameters
    ----------
    weight : float array, shape (N, K)

    Returns
    -------
    float32 array, shape (N,)
        Whole numbers, 64 to 127.
    """
    n_out, n_in = weight.shape
    size = np.zeros((n_out, -(-n_in // 8) * 8), np.float32)
    np.abs(weight, out=size[:, :n_in], dtype=np.float32, casting="same_kind")
    largest = size.max(axis=1, initial=0.0)
    size /= np.where(largest > 0, largest, 1)[:, None]
    # Step by step: a matrix product would sum in another order on another machine.
    pairs = size[:, ::2] + size[:, 1::2]
    fours = np.maximum(pairs[:, ::4] + pairs[:, 2::4], pairs[:, 1::4] + pairs[:, 3::4])
    largest_sum = fours.max(axis=1, initial=1.0)
    return np.minimum(np.floor(_SUM_OF_FOUR / largest_sum), np.float32(LEVELS))


def to_float16(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Round a matrix to half precision; one with values too large for it stays as it is.

    In int8 networks, the layer that gives the mask keeps half precision: with eight bits it would
    cause most of the error. So do the weights of features whose products stay in floats.
    """
    with np.errstate(all="ignore"):  # whatever the caller has set: small weights become zero
        half = weight.astype(np.float16)
    return half if np.isfinite(half).all() else weight


def dequantise(
    levels: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the float32 matrix that `levels` and `scale` stand for.

    Quantised again it gives the same levels. Scales that are too large give infinities, which a
    model refuses.
    """
    with np.errstate(all="ignore"):
        return levels.astype(np.float32) * scale[:, None]
