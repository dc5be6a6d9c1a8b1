"""Change of sample rate, as a stream.

`resample` gives what `scipy.signal.resample_poly` gives; `Resampler` gives the same samples block
by block, with memory that does not grow and no dependence on where the blocks were cut.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import numpy.typing as npt

from .errors import AudioError
from .kernels.tables import SUMS
from .machine_code import function, place
from .options import whole_rate
from .samples import Samples

# Limit of max(rate_in, rate_out) / gcd: the filter has 20 times as many taps. Only rates above it
# can exceed it. Without it, a header with a false rate could take gigabytes.
MAX_STEP = 200_000

# Zero crossings of the sinc on each side, and the Kaiser parameter: those of `resample_poly`.
HALF_CROSSINGS = 10
KAISER_BETA = 5.0

_LARGEST = float(np.finfo(np.float32).max)
# Taps that are computed at once: a filter may have millions.
_TAPS_AT_ONCE = 1 << 16


class Resampler:
    """Change the sample rate of a stream, without delay.

    All outputs together are as long as the input lasts: `ceil(n_in * rate_out / rate_in)` samples,
    the first of them at the time of the first sample of the input.

    Parameters
    ----------
    rate_in, rate_out : int
        Sample rates in Hz, between `MIN_RATE` and `MAX_RATE`.
    latency : int
        Samples by which the input is already delayed. The output is delayed by less than a sample
        more, so that its delay is a whole number of samples: `lag`. It lasts as much longer.

    Attributes
    ----------
    lag : int
        Delay of the output in its own samples: the input's latency, rounded up.
    lookahead : int
        Samples of the input that must follow one before the output at its time is ready.

    Raises
    ------
    AudioError
        If a rate is out of bounds or not a whole number, or one beyond `MAX_STEP` shares too few
        factors with the other.

    Examples
    --------
    >>> import numpy as np
    >>> resampler = Resampler(48000, 16000)
    >>> blocks = [resampler.process(np.zeros(1000, np.float32)), resampler.flush()]
    >>> sum(block.size for block in blocks)
    334
    """

    def __init__(self, rate_in: int, rate_out: int, latency: int = 0) -> None:
        rate_in, rate_out = whole_rate(rate_in), whole_rate(rate_out)
        divisor = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // divisor, rate_in // divisor
        if max(self._up, self._down) > MAX_STEP:
            raise AudioError(
                f"{rate_in} Hz cannot be resampled to {rate_out} Hz: above {MAX_STEP} Hz expected "
                "rates with a common factor, such as 384000; convert it first"
            )
        self._half = HALF_CROSSINGS * max(self._up, self._down)
        self.lag = -(-latency * self._up // self._down)
        # The additional delay, in steps of the common grid of both rates.
        self._late = self.lag * self._down - latency * self._up
        self.lookahead = 0 if self._up == self._down else -(-self._half // self._up)
        # Designed now: the first block of a live stream must not wait for it.
        self._filter = None if self._up == self._down else _filter_of(self._up, self._down)
        self.reset()

    def reset(self) -> None:
        """Forget everything received; the next sample is the first of a new signal."""
        # The input from sample `_start` on.
        self._kept: npt.NDArray[np.float64] = np.zeros(0, np.float64)
        self._start = 0
        self._n_in = 0
        self._n_out = 0

    def process(self, x: npt.ArrayLike) -> Samples:
        """Take the next input samples and return the output that is ready.

        Parameters
        ----------
        x : float32 array, shape (N,)
            Any N >= 0. Not modified.

        Returns
        -------
        float32 array, shape (M,)
            All output samples that no later input can change. `x` itself where the rates are equal.
        """
        block = np.asarray(x, dtype=np.float32)
        if block.ndim != 1:
            raise ValueError(f"expected samples of shape (N,), got shape {block.shape}")
        if self._up == self._down:
            return block
        self._n_in += block.size
        self._kept = np.concatenate((self._kept, block))
        # Output m needs inputs up to floor((m * down - late + half) / up).
        ready = (self._n_in * self._up + self._late - self._half - 1) // self._down + 1
        return self._advance(ready)

    def flush(self) -> Samples:
        """Return the rest, as if zeros followed, and be ready for a new signal.

        Returns
        -------
        float32 array, shape (M,)
        """
        out = self._advance(-(-(self._n_in * self._up + self._late) // self._down))
        self.reset()
        return out

    def _advance(self, stop: int) -> Samples:
        """Compute the outputs up to, but without, number `stop`; drop inputs no longer needed."""
        first, up, down, half = self._n_out, self._up, self._down, self._half
        ahead = half - self._late  # grid steps from output 0 to the last input that it needs
        if self._filter is None or stop <= first:
            return np.zeros(0, np.float32)
        # y[m] = sum_j x[j] taps[m * down + ahead - j * up]. Sums run over j in one order whatever
        # the block: the result is bit-identical for any blocking.
        y = self._filter.outputs(self._kept, self._start, first, stop, ahead)
        # Loud input may overshoot what float32 can hold.
        with np.errstate(under="ignore"):
            out: Samples = np.clip(y, -_LARGEST, _LARGEST).astype(np.float32)

        self._n_out = stop
        oldest = -((half + self._late - stop * down) // up)
        if oldest > self._start:
            self._kept = self._kept[oldest - self._start :].copy()
            self._start = oldest
        return out


class _Filter:
    """The anti-aliasing low-pass of a change of rate: a Kaiser-windowed sinc of gain `up`.

    Not designed by SciPy: importing `scipy.signal` takes longer than the rest of a start.

    Parameters
    ----------
    up, down : int
        Its taps are one step of the common grid of both rates apart.
    """

    def __init__(self, up: int, down: int) -> None:
        self._up, self._down = up, down
        steps = max(up, down)
        half = HALF_CROSSINGS * steps
        taps = np.empty(2 * half + 1)
        for first in range(0, taps.size, _TAPS_AT_ONCE):
            some = taps[first : first + _TAPS_AT_ONCE]
            t = np.arange(first - half, first - half + some.size) / half  # from -1 to 1
            some[:] = np.sinc(HALF_CROSSINGS * t) * np.i0(KAISER_BETA * np.sqrt(1.0 - t * t))
        taps *= up / taps.sum()
        # [p, n]: the taps of phase p, reversed to the order of the input.
        n_tap = -(-taps.size // up)
        n_tap += -n_tap % SUMS
        padded = np.zeros(n_tap * up)
        padded[: taps.size] = taps
        self._taps = np.ascontiguousarray(padded.reshape(n_tap, up)[::-1].T)
        self.outputs(np.zeros(1), 0, 0, 1, 0)  # compiled now: no first block waits for it

    def outputs(
        self, x: npt.NDArray[np.float64], start: int, first: int, stop: int, ahead: int
    ) -> npt.NDArray[np.float64]:
        """Compute outputs first .. stop - 1; `x` is the input from sample `start` on."""
        up, down = self._up, self._down
        n_tap = self._taps.shape[1]
        newest, last = ((m * down + ahead) // up for m in (first, stop - 1))
        oldest = newest - n_tap + 1
        before, behind = max(start - oldest, 0), max(last + 1 - start - x.size, 0)
        if before or behind:
            x = np.concatenate((np.zeros(before), x, np.zeros(behind)))
        y = np.empty(stop - first)
        at = oldest - (start - before)
        grid = at * up + (first * down + ahead) % up
        filtered = function("calls.filtered")
        filtered(place(x), x.size, place(self._taps), up, n_tap, up, down, grid, place(y), y.size)
        return y

    def __deepcopy__(self, memo: object) -> _Filter:
        """Return itself: nothing writes to it."""
        return self


# Filters in use, by `up` and `down`. At odd rates one takes tens of megabytes, and half a second to
# design; a file may have a thousand channels.
_filters: weakref.WeakValueDictionary[tuple[int, int], _Filter] = weakref.WeakValueDictionary()


def _filter_of(up: int, down: int) -> _Filter:
    """Design a filter, or return the one that others already use."""
    made = _filters.get((up, down))
    if made is None:
        _filters[up, down] = made = _Filter(up, down)
    return made


def resample(x: npt.ArrayLike, rate_in: int, rate_out: int) -> Samples:
    """Change the sample rate of a whole signal.

    Parameters
    ----------
    x : float32 array, shape (N,)
        Not modified.
    rate_in, rate_out : int
        Sample rates in Hz.

    Returns
    -------
    float32 array, shape (ceil(N * rate_out / rate_in),)
        `x` itself where the rates are equal.

    Examples
    --------
    >>> import numpy as np
    >>> resample(np.zeros(441, np.float32), 44100, 16000).shape
    (160,)
    """
    x = np.asarray(x, dtype=np.float32)
    resampler = Resampler(rate_in, rate_out)
    if rate_in == rate_out:
        return x
    return np.concatenate((resampler.process(x), resampler.flush()))
