"""`Enhancer`: one hop of noisy speech in, one hop of clean speech out."""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from . import state as states
from .alone import Alone, alone
from .config import CAUSAL_NORMS
from .errors import NormError, StateError
from .options import OnNonfinite, Precision, check_nonfinite, dry_share, horizon_frames
from .packed import shared_network
from .program import Program
from .samples import AnySamples, Samples, as_out, as_samples, copy_finite
from .state import Fields
from .stream import Stream
from .weights import Model, load_model

STATE_FORMAT = 1

_E = TypeVar("_E", bound="Enhancer")


class Enhancer(Alone):
    """Enhance a stream hop by hop.

    Parameters
    ----------
    model : str, path or Model, optional
        A `.npz` file, or what `load_model` returned; default: the built-in weights. Streams that
        are given the same `Model` share its weights.
    precision : {"float32", "int8"}
        Arithmetic of the layers' products. int8 is 2 to 5 times faster, depending on model and CPU,
        and nearly as good; state, gates and norms stay float32.
    norm : str, optional
        Replaces the model's norm. Needed to stream a model that was trained with an offline norm,
        whose output then differs from that of the published whole-utterance code.
    atten_lim_db : float, optional
        Never attenuate by more than this many dB: the delayed input is mixed in at
        ``10 ** (-atten_lim_db / 20)``. 0 passes the input through; None or infinity is no limit.
        The only option that can be changed in mid-stream: ``enhancer.atten_lim_db = 12``.
    on_nonfinite : {"raise", "zero"}
        What to do with NaN and infinity in the input: refuse the frame, or replace them by zero and
        count them in `n_nonfinite`.
    norm_horizon : float, optional
        Seconds that running norms remember, at least one hop, for rooms that change. None, as
        published: cumulative norms remember all of the past. `forgetting_norm` never remembers more
        than 192 of its frames, each of which may be several hops.

    Raises
    ------
    ModelError
        The model file is missing, damaged or not a model.
    NormError
        The norm is unknown, or the model's norm needs the whole signal: choose a causal one.
    TypeError, ValueError
        The value of an option is of the wrong type or out of range.

    Examples
    --------
    >>> import numpy as np, npfsn
    >>> enhancer = npfsn.Enhancer()
    >>> noisy = np.zeros((10, enhancer.frame_length), np.float32)
    >>> clean = [enhancer.step(frame) for frame in noisy]
    >>> len(clean[0]), enhancer.latency_samples
    (256, 768)
    """

    _ways_on = "call reset() to start a new one, or set_state() to go back"

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        precision: Precision = "float32",
        norm: str | None = None,
        atten_lim_db: float | None = None,
        on_nonfinite: OnNonfinite = "raise",
        norm_horizon: float | None = None,
    ) -> None:
        super().__init__()
        self._model = load_model(model)
        config = self._model.config.with_norm(norm)
        if not config.streams:
            whose = "this model's" if norm is None else "the"
            raise NormError(
                f"{whose} {config.obstacle} needs the whole signal and cannot stream: choose a "
                f"causal one with norm= or --norm ({', '.join(CAUSAL_NORMS)}), or enhance whole "
                "signals with npfsn.enhance or `npfsn enhance`"
            )
        check_nonfinite(on_nonfinite)
        self._dry_share = np.zeros(1, np.float32)
        self.atten_lim_db = atten_lim_db
        horizon = horizon_frames(norm_horizon, config.sample_rate, config.hop_length)
        self._norm_horizon: float | None = None
        if norm_horizon is not None and math.isfinite(horizon):
            self._norm_horizon = float(norm_horizon)
        network = shared_network(self._model, config, precision)
        self._config, self._precision, self._on_nonfinite = config, precision, on_nonfinite
        hop = config.hop_length
        self._hop = hop
        own: Fields = {
            "pending": ((hop,), np.float32),  # samples of an incomplete hop
            "n_pending": ((1,), np.int64),
            "ended": ((1,), np.int64),  # 1 after `flush`
            "n_nonfinite": ((1,), np.int64),
            "dry": ((config.latency_samples,), np.float32),  # input that is still to be mixed in
            "hop.energy": ((3,), np.float64),  # of the last hop (`last_snr_db`)
        }
        self._stream = Stream(network, horizon, own)
        self._state = self._stream.state
        self._pending, self._n_pending, self._end, self._n_bad, dry, self._energy = (
            self._state[name] for name in own
        )
        # Even with a share of zero the delay line must advance: a limit may be set later.
        self._mix = Program()
        self._mix.add("mix_dry", self._dry_share, dry, hop, self._energy, stage="samples out")
        self._stream.follow(self._mix)
        self._in = np.zeros(hop, np.float32)
        self._bad = np.zeros(1, np.int64)

    @property
    def _ended(self) -> bool:
        return bool(self._end[0])

    @property
    def model(self) -> Model:
        """The model, to be shared with other streams."""
        return self._model

    @property
    def sample_rate(self) -> int:
        """Samples per second that the model expects, Hz."""
        return self._config.sample_rate

    @property
    def frame_length(self) -> int:
        """Samples that `step` takes and returns: one hop."""
        return self._hop

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags the input: window and look-ahead, not the hop itself.

        768 as published: 48 ms, or 64 ms end to end with the hop that must be gathered first.
        """
        return self._config.latency_samples

    @property
    def latency_ms(self) -> float:
        """`latency_samples` in milliseconds."""
        return self._config.latency_ms

    @property
    def precision(self) -> Precision:
        """Arithmetic of the layers' products."""
        return self._precision

    @property
    def norm(self) -> str:
        """Norm that the network runs with."""
        return str(self._config.norm_type)

    @property
    def norm_horizon(self) -> float | None:
        """Seconds that running norms remember; None, as published, for no horizon."""
        return self._norm_horizon

    @property
    def on_nonfinite(self) -> OnNonfinite:
        """What becomes of NaN and infinity in the input."""
        return self._on_nonfinite

    @property
    def atten_lim_db(self) -> float | None:
        """Limit of the attenuation in dB; None for no limit. May be set in mid-stream."""
        limit = self._atten_lim_db
        return None if limit == math.inf else limit

    @atten_lim_db.setter
    def atten_lim_db(self, value: float | None) -> None:
        self._dry_share[0] = dry_share(value)
        self._atten_lim_db = value

    @property
    def n_nonfinite(self) -> int:
        """Samples replaced so far because they were NaN or infinite."""
        return int(self._n_bad[0])

    @property
    def last_snr_db(self) -> float:
        """Ratio of speech to noise in the last hop returned, as the network hears it, in dB.

        Energy of what is kept over that of what is removed: -inf if nothing is kept, as in silence
        and before the signal starts; inf if nothing is removed. Mostly above 0 while somebody
        speaks. `atten_lim_db` does not affect it.

        Examples
        --------
        >>> import numpy as np, npfsn
        >>> enhancer = npfsn.Enhancer()
        >>> _ = enhancer.process(np.zeros(16000, np.float32))
        >>> enhancer.last_snr_db
        -inf
        """
        out, dry, removed = self._energy.tolist()
        # Where the input is silent, what rings on in the output is not speech.
        kept = min(out, dry)
        if not kept > 0.0:
            return -math.inf
        return 10.0 * math.log10(kept / removed) if removed > 0.0 else math.inf

    def __repr__(self) -> str:
        """Name the model and the norm."""
        return (
            f"<npfsn.Enhancer {self._model.architecture}, {self._config.norm_type}, "
            f"{self.sample_rate} Hz, {self._precision}>"
        )

    def step(self, frame: AnySamples, out: Samples | None = None) -> Samples:
        """Enhance one hop.

        Parameters
        ----------
        frame : float32 array, shape (frame_length,)
            Samples, full scale +-1. float64 is cast. Not modified.
        out : float32 array, shape (frame_length,), optional
            Where to put the result; may be `frame` itself.

        Returns
        -------
        float32 array, shape (frame_length,)
            The enhanced signal, `latency_samples` behind; zeros before it starts. It may slightly
            exceed +-1: clip it before you convert it to integers.

        Raises
        ------
        TypeError, FrameError
            The frame was refused; the stream is unchanged.
        StreamEndedError
            After `flush`, or after an exception such as KeyboardInterrupt cut a hop short.
        ConcurrentUseError
            Another thread is using this stream.
        """
        # By position: with keywords, Python would retain memory for their names, up to 10 KB.
        return self._step(frame, out)

    @alone()
    def _step(self, frame: AnySamples, out: Samples | None) -> Samples:
        frame = as_samples(frame, (self._hop,), "frame")
        out = as_out(out, (self._hop,))
        copy_finite(frame, self._in, self._bad, self._on_nonfinite)
        self._stream.push(self._begin_hop(), out)
        self._end_hop()
        return out

    def _begin_hop(self) -> Samples:
        """Begin to change the stream: return the hop that `_in` completes after `_pending`."""
        self._torn = True
        self._n_bad[0] += self._bad[0]
        pending = int(self._n_pending[0])
        if not pending:
            return self._in
        self._pending[pending:] = self._in[: self._hop - pending]
        return self._pending

    def _end_hop(self) -> None:
        """End what `_begin_hop` began, and keep what is left of `_in`."""
        pending = int(self._n_pending[0])
        if pending:
            self._pending[:pending] = self._in[self._hop - pending :]
            self._pending[pending:] = 0
        self._torn = False

    @alone()
    def process(self, chunk: AnySamples) -> Samples:
        """Enhance any number of samples.

        Parameters
        ----------
        chunk : float32 array, shape (N,)
            float64 is cast. Not modified.

        Returns
        -------
        float32 array, shape (M,)
            All whole hops received and not yet returned: after n samples in all, the results have
            ``frame_length * (n // frame_length)`` samples in all. Their bits do not depend on how
            the signal is cut into chunks.

        Raises
        ------
        TypeError, FrameError, StreamEndedError, ConcurrentUseError
            As `step`.

        Examples
        --------
        >>> import numpy as np, npfsn
        >>> enhancer = npfsn.Enhancer()
        >>> [enhancer.process(np.zeros(n, np.float32)).size for n in (100, 200, 1000)]
        [0, 256, 1024]
        """
        chunk = as_samples(chunk, None, "chunk")
        x = np.empty(chunk.shape, np.float32)
        bad = copy_finite(chunk, x, self._bad, self._on_nonfinite)
        pending = int(self._n_pending[0])
        x = np.concatenate([self._pending[:pending], x]) if pending else x
        whole = x.size // self._hop * self._hop
        out = np.empty(whole, np.float32)
        self._torn = True
        self._n_bad[0] += bad
        if whole == self._hop:
            self._stream.push(x[:whole], out)
        elif whole:
            self._stream.push_many(x[:whole], out)
        rest = x.size - whole
        self._pending[:rest] = x[whole:]
        self._pending[rest:] = 0
        self._n_pending[0] = rest
        self._torn = False
        return out

    @alone(ended=True)
    def flush(self) -> Samples:
        """End the stream and return the rest.

        Returns
        -------
        float32 array, shape (latency_samples + n % frame_length,)
            With it, all results together are `latency_samples` zeros, then the enhanced signal, as
            long as the input. Empty if the stream has been flushed already.

        Raises
        ------
        StreamEndedError
            After an exception such as KeyboardInterrupt cut a hop short.
        ConcurrentUseError
            Another thread is using this stream.
        """
        if self._end[0]:
            return np.zeros(0, np.float32)
        tail = self._pending[: int(self._n_pending[0])].copy()
        self._torn = True
        out = self._stream.finish(tail)
        x = np.zeros(out.shape[0], np.float32)
        x[: tail.shape[0]] = tail
        self._mix.play(0, 1, x, out)
        self._end[0] = 1
        self._torn = False
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
        self._stream.reset()
        self._torn = False

    @alone(ended=True)
    def get_state(self) -> dict[str, np.ndarray]:
        """Return everything that the stream remembers.

        Returns
        -------
        dict of str to array
            Copies of plain arrays, and "header": a 0-d string of JSON that says which model and
            settings they belong to. ``numpy.savez(file, **state)`` saves it.

        Raises
        ------
        StreamEndedError
            After an exception such as KeyboardInterrupt cut a hop short.
        ConcurrentUseError
            Another thread is using this stream.

        Examples
        --------
        >>> import numpy as np, npfsn
        >>> first, second = npfsn.Enhancer(), npfsn.Enhancer()
        >>> _ = first.process(np.ones(1000, np.float32))
        >>> second.set_state(first.get_state())
        >>> x = np.ones(1000, np.float32)
        >>> bool(np.all(first.process(x) == second.process(x)))
        True
        """
        state = {name: array.copy() for name, array in self._state.items()}
        state["header"] = np.array(json.dumps(self._header()))
        return state

    @alone(ended=True, torn=True)
    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue, bit for bit, from where `get_state` was called.

        Parameters
        ----------
        state : mapping of str to array
            As `get_state` returned it, from a stream of the same model, precision, norm and
            horizon. `atten_lim_db` and `on_nonfinite` are not included: this stream keeps its own.

        Raises
        ------
        StateError
            The state is not this model's, or damaged; the stream is unchanged.
        ConcurrentUseError
            Another thread is using this stream.
        """
        self._restore(self._check_state(state))

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from a state that fits."""
        self._torn = True
        for name, own in self._state.items():
            own[...] = arrays[name]
        self._stream.forget()
        self._torn = False

    def copy(self: _E) -> _E:
        """Return an independent stream in the same state, sharing the weights.

        Returns
        -------
        Enhancer
            Of the same class; attributes that a subclass adds are shared, as by `copy.copy`.

        Raises
        ------
        StreamEndedError, ConcurrentUseError
            As `get_state`.
        """
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        Enhancer.__init__(
            other,
            self._model,
            precision=self._precision,
            norm=self._config.norm_type,
            atten_lim_db=self._atten_lim_db,
            on_nonfinite=self._on_nonfinite,
            norm_horizon=self._norm_horizon,
        )
        other._restore(self.get_state())  # not claimed: nobody else has it yet
        return other

    def __reduce__(self) -> Any:
        """Refuse to be pickled: send the state to another process instead."""
        raise TypeError(
            "an Enhancer is not pickled: send its get_state() and its model, and give both to a "
            "new Enhancer there"
        )

    def _header(self) -> dict[str, Any]:
        """Describe the model and the settings that a state belongs to."""
        return {
            "format": STATE_FORMAT,
            "architecture": self._model.architecture,
            "model": _digest(self._model),
            "precision": self._precision,
            "norm": self._config.norm_type,
            "norm_horizon": self._norm_horizon,
        }

    def _check_state(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays of a state that fits this stream, or raise StateError."""
        arrays = states.checked(state, self._state, self._header())
        pending, ended, bad = (int(arrays[n][0]) for n in ("n_pending", "ended", "n_nonfinite"))
        if not (0 <= pending < self._hop and ended in (0, 1) and 0 <= bad <= states.LARGEST_COUNT):
            raise StateError("the state's counters are those of no stream: it is damaged")
        self._stream.check(arrays, bool(ended))
        return arrays


_digests: weakref.WeakKeyDictionary[Model, str] = weakref.WeakKeyDictionary()


def _digest(model: Model) -> str:
    """Return a SHA-256 of a model's configuration and tensors."""
    known = _digests.get(model)
    if known is None:
        digest = hashlib.sha256(repr((model.architecture, model.config)).encode())
        for name in sorted(model.tensors):
            tensor = model.tensors[name]
            digest.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
            digest.update(tensor.data)
        known = _digests[model] = digest.hexdigest()
    return known
