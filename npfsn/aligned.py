"""One channel at any sample rate, with the model's latency removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .options import dry_share
from .resample import Resampler
from .samples import Samples, mix_dry

if TYPE_CHECKING:
    from .enhancer import Enhancer


class AlignedStream:
    """Enhance one channel at any sample rate, with the latency removed.

    Parameters
    ----------
    enhancer : Enhancer
        A fresh stream that nothing else feeds.
    rate : int
        Sample rate of the input and of the output, in Hz.
    atten_lim_db : float, optional
        As in `Enhancer`, but the input is mixed in at its own rate: 0 passes all of it through,
        with frequencies above the model's band. The enhancer must have no limit of its own.
    keep_latency : bool
        Keep the zeros of the latency at the start, `lag` samples.

    Attributes
    ----------
    lag : int
        Samples by which the output lags the input: the kept latency, rounded up; else 0.
    lookahead : tuple of two int
        Samples that the resamplers wait for: of the input, and of the enhancer's output.
    """

    def __init__(
        self,
        enhancer: Enhancer,
        rate: int,
        *,
        atten_lim_db: float | None = None,
        keep_latency: bool = False,
    ) -> None:
        self._enhancer = enhancer
        self._there = Resampler(rate, enhancer.sample_rate)
        self._skip = 0 if keep_latency else enhancer.latency_samples
        # At this rate the latency need not be a whole number of samples. The input that is mixed in
        # can only be delayed by a whole number, so the output is, too.
        kept = enhancer.latency_samples - self._skip
        self._back = Resampler(enhancer.sample_rate, rate, kept)
        self.lag = self._back.lag
        self.lookahead = self._there.lookahead, self._back.lookahead
        self._n_in = self._n_out = 0
        self._dry_share = dry_share(atten_lim_db)
        self._dry: Samples = np.zeros(self.lag, np.float32)  # input that is still to be mixed in

    def process(self, x: Samples) -> Samples:
        """Take any number of samples and return the enhanced ones that are ready.

        Parameters
        ----------
        x : float32 array, shape (N,)
            Finite (`silence_nonfinite`).

        Returns
        -------
        float32 array, shape (M,)
        """
        self._n_in += x.size
        if self._dry_share:
            self._dry = np.concatenate((self._dry, x))
        return self._give(self._back.process(self._enhance(self._there.process(x))))

    def flush(self) -> Samples:
        """Return the rest: all outputs together are as long as the input and the kept latency.

        Returns
        -------
        float32 array, shape (M,)
        """
        last = self._enhance(self._there.flush())
        rest = self._trim(self._enhancer.flush())
        out = (self._back.process(last), self._back.process(rest), self._back.flush())
        return self._give(np.concatenate(out)[: self._n_in + self.lag - self._n_out])

    def _enhance(self, x: Samples) -> Samples:
        return self._trim(self._enhancer.process(x))

    def _trim(self, y: Samples) -> Samples:
        """Drop the zeros at the start that have not been dropped yet."""
        dropped = min(self._skip, y.size)
        self._skip -= dropped
        return y[dropped:]

    def _give(self, y: Samples) -> Samples:
        """Count the output and mix the input in."""
        self._n_out += y.size
        dry, self._dry = self._dry[: y.size], self._dry[y.size :]
        return mix_dry(dry, self._dry_share, y)
