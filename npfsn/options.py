"""Options that streams, whole signals and files have in common: checked and converted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from .config import MAX_RATE, MIN_RATE
from .errors import AudioError, shown

#: Arithmetic of the large products.
Precision = Literal["float32", "int8"]
#: What becomes of NaN and infinity.
OnNonfinite = Literal["raise", "zero"]
#: Told the seconds of audio done and the seconds in all.
Progress = Callable[[float, float], object]


def dry_share(atten_lim_db: float | None) -> np.float32:
    """Return the share of the input that an attenuation limit mixes in."""
    if atten_lim_db is None:
        return np.float32(0.0)
    decibels = _number(atten_lim_db)
    if decibels is None:
        raise TypeError(f"atten_lim_db is {atten_lim_db!r}: expected a number of dB or None")
    if not decibels >= 0:
        raise ValueError(f"atten_lim_db is {atten_lim_db}: expected 0 dB (no change) or more")
    share = 10.0 ** (-decibels / 20.0)
    # Beyond 400 dB there is no limit to speak of, and products with it would be denormal.
    return np.float32(share if share >= 1e-20 else 0.0)


def check_progress(progress: object) -> None:
    """Raise TypeError unless this is a function or None."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress is {progress!r}: expected a function, or None")


def check_precision(precision: str) -> None:
    """Raise ValueError unless this is one of `Precision`."""
    known = get_args(Precision)
    if not (isinstance(precision, str) and precision in known):
        one_of = ", ".join(known)
        raise ValueError(f"unknown precision {shown(precision)}: expected one of {one_of}")


def check_nonfinite(on_nonfinite: str) -> None:
    """Raise ValueError unless this is one of `OnNonfinite`."""
    if not (isinstance(on_nonfinite, str) and on_nonfinite in ("raise", "zero")):
        raise ValueError(f"on_nonfinite is {shown(on_nonfinite)}: expected 'raise' or 'zero'")


def whole_rate(sample_rate: float) -> int:
    """Return a sample rate that can be resampled, as an int; audio systems report 44100.0."""
    number = _number(sample_rate)
    wrong = (
        f"sample rate is {shown(sample_rate)}: expected a whole number of Hz from {MIN_RATE} to "
        f"{MAX_RATE}"
    )
    if number is None:
        raise TypeError(wrong)
    if not (number.is_integer() and MIN_RATE <= number <= MAX_RATE):
        raise AudioError(wrong)
    return int(sample_rate)


def _number(value: object) -> float | None:
    """Return a real number as a float, infinite if it is too large; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def horizon_frames(seconds: float | None, sample_rate: int, hop: int) -> float:
    """Return how many frames running norms remember."""
    if seconds is None:
        return math.inf
    number = _number(seconds)
    if number is None:
        raise TypeError(f"norm_horizon is {seconds!r}: expected a number of seconds or None")
    frames = number * sample_rate / hop
    if not frames >= 1.0 - 1e-7:  # seldom a round number of seconds, maybe a float32
        raise ValueError(
            f"norm_horizon is {seconds} s: expected at least one hop, {hop / sample_rate:.10g} s"
        )
    return frames
