"""Arrays of samples: their types and checks, and what is done to them outside the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FrameError
from .machine_code import function, place
from .options import OnNonfinite

Samples = npt.NDArray[np.float32]
#: What callers may pass for them.
AnySamples = npt.NDArray[np.float32] | npt.NDArray[np.float64]

# With more channels than this, and more channels than samples, an array has its axes swapped.
MAX_CHANNELS = 32


def as_samples(x: Any, shape: tuple[int, ...] | None, name: str) -> Samples:
    """Return contiguous float32 samples, or raise for a wrong type or shape."""
    check_type(x, name)
    if shape is not None and x.shape != shape:
        raise FrameError(
            f"{name} has shape {list(x.shape)}: expected {list(shape)}, one hop; process() takes "
            "any length"
        )
    if x.ndim != 1:
        mono = x.ndim == 2 and x.shape[1] == 1
        hint = f"give {name}[:, 0]" if mono else "give every channel a stream of its own"
        raise FrameError(f"{name} has shape {list(x.shape)}: expected one dimension; {hint}")
    return as_float32(x)


def check_samples(x: Samples, out: Samples, counter: npt.NDArray[np.int64]) -> None:
    """Call `kernels.spectrum.check_samples`."""
    function("calls.check_samples")(place(x), x.size, place(out), place(counter))


def copy_finite(
    x: Samples, out: Samples, counter: npt.NDArray[np.int64], on_nonfinite: OnNonfinite
) -> int:
    """Copy samples through `spectrum.check_samples`; return how many were NaN or infinite.

    Parameters
    ----------
    x, out : float32 array, shape (N,)
    counter : int64 array, shape (1,)
        Scratch.
    on_nonfinite : {"raise", "zero"}
        Whether NaN and infinity are refused, or become zero.

    Raises
    ------
    FrameError
        Some samples are NaN or infinite.
    """
    check_samples(x, out, counter)
    bad = int(counter[0])
    if bad and on_nonfinite == "raise":
        raise FrameError(
            f"{bad} of {x.shape[0]} samples are NaN or infinite: expected finite numbers; fix the "
            "source, or use on_nonfinite='zero' to replace them by silence"
        )
    return bad


def _is_array(x: Any) -> bool:
    """Whether this is an array without a mask, which would hide what is read or written."""
    if type(x) is np.ndarray:  # most often; `np.ma` takes 10 ms to import
        return True
    return isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray)


def check_type(x: Any, name: str) -> None:
    """Raise TypeError unless this is an array of float32 or float64."""
    if not _is_array(x):
        raise TypeError(f"{name} is of type {type(x).__name__}: expected a float32 NumPy array")
    if x.dtype == np.float32 or x.dtype == np.float64:
        return
    found = f"{x.dtype}" if x.dtype.isnative else f"{x.dtype}, bytes in the order of other machines"
    raise TypeError(
        f"{name} has dtype {found}: expected float32 with full scale +-1 (float64 is cast; divide "
        "16-bit samples by 32768)"
    )


def as_float32(x: npt.NDArray[Any]) -> Samples:
    """Cast samples. Values that float32 cannot hold become infinite or zero, without a warning.

    The result is a plain array, also of a memmap or another subclass.
    Kernels are given addresses: they take all arrays to be contiguous and aligned.
    """
    with np.errstate(all="ignore"):
        return np.require(np.asarray(x), np.float32, ["C", "A", "W"])


def as_out(out: Any, shape: tuple[int, ...]) -> Samples:
    """Return the array that a hop, or one of each stream, is written to; raise if it is unfit."""
    if out is None:
        return np.empty(shape, np.float32)
    if not _is_array(out) or out.dtype != np.float32:
        found = out.dtype if _is_array(out) else type(out).__name__
        raise TypeError(f"out is {found}: expected a float32 NumPy array")
    if out.shape != shape:
        raise FrameError(f"out has shape {list(out.shape)}: expected {list(shape)}, one hop")
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise FrameError(
            "out is not contiguous, not aligned or not writeable: expected an ordinary array"
        )
    return np.asarray(out)


def as_audio(audio: Any) -> Samples:
    """Return float32 audio of one or two dimensions, or raise."""
    check_type(audio, "audio")
    if audio.ndim not in (1, 2):
        raise FrameError(f"audio has shape {list(audio.shape)}: expected [N] or [N, channels]")
    if audio.size and audio.ndim == 2 and audio.shape[1] > max(audio.shape[0], MAX_CHANNELS):
        raise FrameError(
            f"audio has shape {list(audio.shape)}, which is {audio.shape[1]} channels: expected "
            "[N, channels]; if it is [channels, N], give audio.T"
        )
    return as_float32(audio)


def silence_nonfinite(x: Samples) -> int:
    """Replace NaN and infinity by zero, in place.

    A filter would spread them over its whole length, so they must go before any resampling.

    Parameters
    ----------
    x : float32 array
        Modified.

    Returns
    -------
    int
        How many samples were replaced.
    """
    # A sum is finite only if every sample is, and needs no second array. If it is not, as after an
    # overflow, every sample is checked.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return 0
    bad = ~np.isfinite(x)
    x[bad] = 0.0
    return int(np.count_nonzero(bad))


def mix_dry(dry: Samples, share: np.float32, y: Samples) -> Samples:
    """Mix the input into the output of a whole signal or file, as a stream does."""
    if not share > 0.0:
        return y
    with np.errstate(all="ignore"):  # what is too small for float32 may vanish
        return share * dry + (np.float32(1.0) - share) * y


def to_steps(y: Samples, bits: int) -> tuple[npt.NDArray[np.int32], int]:
    """Round to the nearest of 2^bits steps from -1 to 1 and clip values beyond.

    Parameters
    ----------
    y : float32 array
        Finite.
    bits : int
        At most 32.

    Returns
    -------
    int32 array, shape of `y`
        The steps in the upper `bits` bits, as soundfile takes them.
    int
        How many samples were clipped.
    """
    # soundfile would truncate towards minus infinity, which adds an offset of half a step and
    # turns 0.99999 of a step into none.
    scale = 2.0 ** (bits - 1)
    steps = np.rint(np.asarray(y, np.float64) * scale)
    n_clipped = int(np.count_nonzero((steps > scale - 1.0) | (steps < -scale)))
    np.clip(steps, -scale, scale - 1.0, out=steps)
    return steps.astype(np.int32) << (32 - bits), n_clipped
