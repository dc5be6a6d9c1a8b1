"""Eight-bit weights: what the int8 kernels multiply by, and what int8 files keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LEVELS = np.float32(127.0)


def quantise(weight: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a matrix to eight bits with a scale per row.

    Parameters
    ----------
    weight : float array, shape (N, K)

    Returns
    -------
    levels : int8 array, shape (N, K)
        The largest of a row is 127 in size.
    scale : float32 array, shape (N,)
        ``weight[n]`` is ``scale[n] * levels[n]`` to half a level; 0 for a row of zeros.
    """
    rows = weight.astype(np.float32)
    scale = np.abs(rows).max(axis=1, initial=0.0) / LEVELS
    levels = np.rint(rows / np.where(scale > 0, scale, 1)[:, None])
    return levels.astype(np.int8), scale.astype(np.float32)


def halved(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Round a matrix to half precision; one with values too large for it stays as it is.

    What gives the mask is kept so where all else has eight bits: with eight it would be the cause
    of nine tenths of the error.
    """
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return half if np.isfinite(half).all() else weight


def dequantise(
    levels: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the float32 matrix that `levels` and `scale` stand for.

    Quantised again it gives the same levels. Scales that are too large give infinities, which a
    model refuses.
    """
    with np.errstate(over="ignore"):
        return levels.astype(np.float32) * scale[:, None]
