"""`enhance`: a whole signal at once, any rate, any number of channels."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from .options import (
    OnNonfinite,
    Precision,
    Progress,
    check_nonfinite,
    check_progress,
    dry_share,
    horizon_frames,
    whole_rate,
)
from .packed import spare_stream
from .resample import resample
from .samples import AnySamples, Samples, as_audio, copy_finite, mix_dry
from .stream import Stream
from .weights import Model, load_model

# Between two calls of `progress`: 16 s at a hop of 16 ms.
_PIECE_HOPS = 1000


def enhance(
    audio: AnySamples,
    sample_rate: float,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    precision: Precision = "float32",
    norm: str | None = None,
    atten_lim_db: float | None = None,
    on_nonfinite: OnNonfinite = "raise",
    norm_horizon: float | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Enhance a whole signal.

    Parameters
    ----------
    audio : float32 array, shape (N,) or (N, channels)
        Samples, full scale +-1; float64 is cast. Channels are enhanced one by one. Not modified.
    sample_rate : int or float
        A whole number of Hz, 1,000 to 768,000. Where it is not the model's, the signal is resampled
        there and back, and loses the frequencies above half of the lower rate.
    model, precision, norm, atten_lim_db, on_nonfinite, norm_horizon
        As in `Enhancer`. A model with offline norms runs here as published: the signal is run again
        until every norm is fitted. Offline norms ignore `norm_horizon`.
    progress : callable
        Called now and then with the seconds of audio done and the seconds in total; each channel,
        and each run that an offline norm needs, counts as its part of the total.

    Returns
    -------
    float32 array of the shape of `audio`
        Aligned with the input, at its level: nothing is normalised.

    Raises
    ------
    FrameError, AudioError
        The audio has the wrong shape or is not finite; the sample rate is not supported.
    TypeError, ValueError
        The audio or an option is of the wrong type; an option is out of range.
    ModelError, NormError
        As in `Enhancer`.

    Examples
    --------
    >>> import numpy as np, npfsn
    >>> noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    >>> clean = npfsn.enhance(noise, 16000)
    >>> clean.shape, bool(np.std(clean) < np.std(noise))
    ((16000,), True)
    """
    model = load_model(model)
    config = model.config.with_norm(norm)
    share = dry_share(atten_lim_db)
    horizon = horizon_frames(norm_horizon, config.sample_rate, config.hop_length)
    check_nonfinite(on_nonfinite)
    check_progress(progress)
    audio = as_audio(audio)
    rate = whole_rate(sample_rate)
    out = np.empty_like(audio)
    channels = [*zip(np.atleast_2d(audio.T), np.atleast_2d(out.T), strict=True)]  # views
    n_done, seconds = 0, audio.shape[0] / rate

    def tell(part: float) -> None:
        if progress is not None:
            progress(seconds * ((n_done + part) / len(channels)), seconds)

    with spare_stream(model, config, precision, horizon) as stream:
        for given, y in channels:
            x = np.empty(audio.shape[0], np.float32)
            copy_finite(np.ascontiguousarray(given), x, np.zeros(1, np.int64), on_nonfinite)
            y[:] = _enhance_channel(stream, x, rate, share, tell)
            n_done += 1
            tell(0.0)
    return out


def _enhance_channel(
    stream: Stream, x: Samples, rate: int, share: np.float32, tell: Callable[[float], None]
) -> Samples:
    """Enhance one channel, at its own rate."""
    if x.shape[0] == 0:
        return x
    own = stream.config.sample_rate
    y = _run(stream, resample(x, rate, own), tell)
    return mix_dry(x, share, resample(y, own, rate)[: x.shape[0]])


def _run(stream: Stream, x: Samples, tell: Callable[[float], None]) -> Samples:
    """Run the stream over a signal, as often as its offline norms need, and drop the latency."""
    stream.unfit_norms()
    n_done = 0

    def tell_part(part: float) -> None:  # most often a run fits one norm
        tell((n_done + part) / (n_done + 1 + stream.n_unfitted))

    while not stream.fitted:
        _pass(stream, x, tell_part)
        stream.fit_norms()
        n_done += 1
    return _pass(stream, x, tell_part)[stream.config.latency_samples :]


def _pass(stream: Stream, x: Samples, tell: Callable[[float], None]) -> Samples:
    """Run the stream over a signal, from its start to its end."""
    stream.reset()
    whole, piece = x.shape[0] // stream.hop * stream.hop, _PIECE_HOPS * stream.hop
    out = np.empty(whole, np.float32)
    for at in range(0, whole, piece):
        tell(at / whole)
        stream.push_many(x[at : min(at + piece, whole)], out[at : at + piece])
    return np.concatenate([out, stream.finish(x[whole:])])
