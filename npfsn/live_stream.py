"""`LiveStream`: a block in, a block out, at any sample rate, in blocks of any size."""

from __future__ import annotations

import copy
import math
import os
from typing import Any, TypeVar

import numpy as np

from .aligned import AlignedStream
from .alone import Alone, alone
from .enhancer import Enhancer
from .errors import FrameError
from .options import OnNonfinite, Precision, dry_share, whole_rate
from .samples import AnySamples, Samples, as_samples, copy_finite, mix_dry
from .weights import Model

_L = TypeVar("_L", bound="LiveStream")


class LiveStream(Alone):
    """Return as many enhanced samples as each block has, as an audio callback must.

    An `Enhancer` takes hops at the rate of its model. A `LiveStream` takes blocks of other lengths
    and at other rates. Its output begins with `latency_samples` zeros, while filters and hops wait
    for samples; this latency never grows. (At other rates than the model's the last 1 to 3 ms of
    them, more below 8 kHz, are not exactly zero, because filters also ring before a sound.)

    Parameters
    ----------
    sample_rate : int or float, optional
        Rate of the input and of the output, a whole number of Hz, 1,000 to 768,000; default: the
        model's. At any other the signal is resampled there and back, which limits it to the model's
        band.
    block_length : int, optional
        Samples in a block; `process` also takes any multiple, so with 1 it takes blocks of any
        size. Default: a hop, rounded up. The latency is least with whole hops (768 at 48 kHz);
        other lengths add up to one hop. At 44.1 kHz, 441 adds less than the default.
    model, precision, norm, on_nonfinite, norm_horizon
        As in `Enhancer`.
    atten_lim_db : float, optional
        As in `Enhancer`, but the input is mixed in at its own rate, with the frequencies above the
        model's band.

    Raises
    ------
    AudioError
        Audio of this rate cannot be resampled to the model's.
    ModelError, NormError, TypeError, ValueError
        As in `Enhancer`.

    Examples
    --------
    Ten milliseconds at a time, as in WebRTC:

    >>> import numpy as np, npfsn
    >>> live = npfsn.LiveStream(48000, 480)
    >>> live.process(np.zeros(480, np.float32)).shape, live.latency_samples
    ((480,), 3036)
    """

    _ready: Samples  # enhanced samples that are not yet returned
    _dry: Samples  # input that is still to be mixed in
    _flushed: bool

    def __init__(
        self,
        sample_rate: float | None = None,
        block_length: int | None = None,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        precision: Precision = "float32",
        norm: str | None = None,
        atten_lim_db: float | None = None,
        on_nonfinite: OnNonfinite = "raise",
        norm_horizon: float | None = None,
    ) -> None:
        super().__init__()
        self._enhancer = Enhancer(
            model,
            precision=precision,
            norm=norm,
            on_nonfinite=on_nonfinite,
            norm_horizon=norm_horizon,
        )
        self.atten_lim_db = atten_lim_db
        own, hop = self._enhancer.sample_rate, self._enhancer.frame_length
        self._rate = own if sample_rate is None else whole_rate(sample_rate)
        self._stream = self._aligned()
        self._hop = -(-hop * self._rate // own)  # at this rate, rounded up
        block = self._hop if block_length is None else block_length
        if isinstance(block, bool) or not isinstance(block, (int, np.integer)):
            raise TypeError(f"block_length is {block!r}: expected a whole number of samples")
        if block < 1:
            raise ValueError(f"block_length is {block}: expected 1 sample or more")
        self._block = int(block)
        # Both resamplers look ahead. Zeros ahead of the input make up for the first, so that a hop
        # of input completes a hop. Zeros ahead of the output make up for the second and for samples
        # that wait until their hop is full.
        self._lead, back = self._stream.lookahead
        whole, part = divmod(self._block * own, self._rate)
        waiting = hop - (1 if part else math.gcd(hop, whole))
        self._behind = math.ceil((back + waiting) * self._rate / own)
        self._begin()

    @property
    def _ended(self) -> bool:
        return self._flushed

    @property
    def model(self) -> Model:
        """The model, to be shared with other streams."""
        return self._enhancer.model

    @property
    def precision(self) -> Precision:
        """Arithmetic of the layers' products."""
        return self._enhancer.precision

    @property
    def norm(self) -> str:
        """Norm that the network runs with."""
        return self._enhancer.norm

    @property
    def norm_horizon(self) -> float | None:
        """Seconds that running norms remember; None, as published, for no horizon."""
        return self._enhancer.norm_horizon

    @property
    def on_nonfinite(self) -> OnNonfinite:
        """What becomes of NaN and infinity in the input."""
        return self._enhancer.on_nonfinite

    @property
    def sample_rate(self) -> int:
        """Samples per second, Hz."""
        return self._rate

    @property
    def block_length(self) -> int:
        """Samples in a block; `process` takes one block or several."""
        return self._block

    @property
    def atten_lim_db(self) -> float | None:
        """Limit of the attenuation in dB; None for no limit. May be set in mid-stream."""
        limit = self._atten_lim_db
        return None if limit == math.inf else limit

    @atten_lim_db.setter
    def atten_lim_db(self, value: float | None) -> None:
        dry_share(value)  # raises if it is invalid
        self._atten_lim_db = value  # nothing else: another thread may be resetting the stream

    @property
    def latency_samples(self) -> int:
        """Samples at this rate by which the output lags the input, not counting the block.

        A listener hears it one block later, because the audio system must first gather a block.
        """
        return self._stream.lag + self._lead + self._behind

    @property
    def latency_ms(self) -> float:
        """`latency_samples` in milliseconds."""
        return 1e3 * self.latency_samples / self._rate

    @property
    def last_snr_db(self) -> float:
        """`Enhancer.last_snr_db`: speech over noise in the hop that was enhanced last, in dB."""
        return self._enhancer.last_snr_db

    @property
    def n_nonfinite(self) -> int:
        """Samples replaced so far because they were NaN or infinite."""
        return self._n_nonfinite

    @alone()
    def process(self, block: AnySamples) -> Samples:
        """Enhance a block.

        Parameters
        ----------
        block : float32 array, shape (N,)
            N a multiple of `block_length`; full scale +-1. float64 is cast. Not modified.

        Returns
        -------
        float32 array, shape (N,)
            The enhanced signal, `latency_samples` behind; zeros before it starts.

        Raises
        ------
        TypeError, FrameError
            The block was refused; the stream is unchanged.
        StreamEndedError, ConcurrentUseError
            As `Enhancer.step`.
        """
        block = as_samples(block, None, "block")
        x = np.empty_like(block)
        if block.size % self._block:
            raise FrameError(
                f"block has {block.size} samples: expected {self._block} or a multiple, as of "
                "block_length; a LiveStream with block_length=1 takes any number"
            )
        bad = copy_finite(block, x, np.zeros(1, np.int64), self._enhancer.on_nonfinite)
        self._torn = True
        self._n_nonfinite += bad
        out = self._answer(x, x.size)
        self._torn = False
        return out

    def _answer(self, x: Samples, n: int) -> Samples:
        """Enhance samples; return n, with the input mixed in."""
        ready = np.concatenate((self._ready, self._stream.process(x)))
        dry = np.concatenate((self._dry, x))
        # Copies: a slice would keep alive all that it is a part of.
        self._ready, self._dry = ready[n:].copy(), dry[n:].copy()
        return mix_dry(dry[:n], dry_share(self._atten_lim_db), ready[:n].copy())

    @alone(ended=True)
    def flush(self) -> Samples:
        """End the stream and return the rest.

        Returns
        -------
        float32 array, shape (latency_samples,)
            The output as if silence followed. All results together are `latency_samples` zeros,
            then the enhanced signal, as long as the input. Empty if the stream has been flushed
            already.

        Raises
        ------
        StreamEndedError, ConcurrentUseError
            As `Enhancer.flush`.
        """
        if self._flushed:
            return np.zeros(0, np.float32)
        self._torn = True
        # Only for whole blocks is as much output ready as promised; with a hop more, it always is.
        latency = self.latency_samples
        out = self._answer(np.zeros(latency + self._hop, np.float32), latency)
        self._flushed, self._torn = True, False
        return out

    @alone(ended=True, torn=True)
    def reset(self) -> None:
        """Reset the stream: the next sample is the first of a new signal.

        Raises
        ------
        ConcurrentUseError
            Another thread is using this stream.
        """
        self._torn = True
        self._enhancer.reset()
        self._stream = self._aligned()
        self._begin()
        self._torn = False

    @alone(ended=True)
    def copy(self: _L) -> _L:
        """Return an independent stream that goes on as this one would, sharing the weights.

        Returns
        -------
        LiveStream
            Of the same class; attributes that a subclass adds are shared, as by `copy.copy`.

        Raises
        ------
        StreamEndedError, ConcurrentUseError
            As `Enhancer.copy`.
        """
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        # In one call: the copied stream must use the copied enhancer.
        other._claim, other._enhancer, other._stream, other._ready, other._dry = copy.deepcopy(
            ({}, self._enhancer, self._stream, self._ready, self._dry)
        )
        return other

    def __reduce__(self) -> Any:
        """Refuse to be pickled: it holds addresses of machine code."""
        raise TypeError("a LiveStream is not pickled: make one where it is to run")

    def __repr__(self) -> str:
        """Name the rate, the block length and the enhancer."""
        return f"<npfsn.LiveStream {self._rate} Hz, {self._block} samples, {self._enhancer!r}>"

    def _aligned(self) -> AlignedStream:
        return AlignedStream(self._enhancer, self._rate, keep_latency=True)

    def _begin(self) -> None:
        """Begin a signal with its leading zeros."""
        self._n_nonfinite, self._flushed = 0, False
        ahead = self._stream.process(np.zeros(self._lead, np.float32))
        self._ready = np.concatenate((np.zeros(self._behind, np.float32), ahead))
        self._dry = np.zeros(self.latency_samples, np.float32)
