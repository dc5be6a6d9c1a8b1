"""`npfsn live`: from a microphone to headphones, hop by hop, through the sound system.

One callback takes a block and gives a block. Nothing waits in between, so the latency is what it is
at the start: when the machine stalls, sound is lost, but nothing queues up.
"""

from __future__ import annotations

import argparse
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .audio import AlignedStream, silence_nonfinite
from .errors import AudioError, NpfsnError
from .options import Samples
from .resample import Resampler
from .terminal import StatusLine, complain, duration, hush_compiler, say

if TYPE_CHECKING:
    from .enhancer import Enhancer

# Rates that sound cards have, tried where the model's own is refused.
COMMON_RATES = (48_000, 44_100, 96_000)
# What meters show of silence.
FLOOR_DB = -99.0


class Loop:
    """A stream that gives as many samples as it takes, at any sample rate.

    Parameters
    ----------
    enhancer : Enhancer
        A fresh stream; used up by this one.
    rate : int
        Sample rate of what goes in and of what comes out, in Hz.
    atten_lim_db : float, optional
        As of `AlignedStream`.

    Attributes
    ----------
    block : int
        Samples of a hop at this rate, the best number to give at once.
    latency : int
        By how many samples at this rate the output is later than the input.
    n_nonfinite : int
        Input samples that were NaN or infinite and were replaced by zero.
    """

    def __init__(self, enhancer: Enhancer, rate: int, atten_lim_db: float | None = None) -> None:
        own, hop = enhancer.sample_rate, enhancer.frame_length
        self._stream = AlignedStream(enhancer, rate, atten_lim_db=atten_lim_db, keep_latency=True)
        self.block = -(-hop * rate // own)
        self.n_nonfinite = 0
        # Filters wait for samples to come. Zeros ahead of the input make up for the first of them,
        # so that a hop of input completes a hop, zeros ahead of the output for the second. Where
        # blocks are not whole hops, up to a hop more may be under way.
        lead = Resampler(rate, own).lookahead
        under_way = 0 if hop * rate % own == 0 else hop - 1
        behind = math.ceil((Resampler(own, rate).lookahead + under_way) * rate / own)
        self._ready: Samples = np.zeros(behind, np.float32)
        self._ready = np.concatenate(
            (self._ready, self._stream.process(np.zeros(lead, np.float32)))
        )
        self.latency = round(enhancer.latency_samples * rate / own) + lead + behind

    def process(self, x: Samples) -> Samples:
        """Take samples and give as many.

        Parameters
        ----------
        x : float32 array, shape (N,)
            A multiple of `block` where a hop is a whole number of samples at this rate, any number
            otherwise. May be modified.

        Returns
        -------
        float32 array, shape (N,)
        """
        self.n_nonfinite += silence_nonfinite(x)
        ready = np.concatenate((self._ready, self._stream.process(x)))
        self._ready = ready[x.size :]
        return ready[: x.size]


class _Duplex:
    """The callback of a sound stream, and what it notes down.

    Parameters
    ----------
    loop : Loop
    abort : type of exception
        What ends the stream.
    """

    def __init__(self, loop: Loop, abort: type[Exception]) -> None:
        self._loop, self._abort = loop, abort
        self.error: Exception | None = None
        self.samples = self.dropouts = 0
        self.busy = self.worst = 0.0  # seconds
        # Of input and output since they were last shown.
        self.peaks: Samples = np.zeros(2, np.float32)

    def __call__(self, x: Samples, y: Samples, n: int, when: Any, status: Any) -> None:
        """Take x[N, 1] and fill y[N, channels], all of them alike."""
        started = time.perf_counter()
        try:
            heard = x[:, 0].copy()  # what is no number in it becomes silence
            out = self._loop.process(heard)
            y[:] = out[:, None]
        except Exception as error:  # the sound system would print it and go on without us
            self.error = error
            raise self._abort from error
        self.dropouts += bool(status.input_overflow or status.output_underflow)
        self.peaks = np.maximum(self.peaks, (np.abs(heard).max(), np.abs(out).max()))
        self.samples += n
        took = time.perf_counter() - started
        self.busy, self.worst = self.busy + took, max(self.worst, took)

    def take_peaks(self) -> tuple[float, float]:
        """Return the levels of input and output since the last call, in dB of full scale."""
        peaks, self.peaks = self.peaks, np.zeros(2, np.float32)
        heard, given = 20.0 * np.log10(np.maximum(peaks, 10.0 ** (FLOOR_DB / 20.0)))
        return float(heard), float(given)


def main(args: argparse.Namespace, make_enhancer: Callable[[], Enhancer]) -> int:
    """Run `npfsn live`.

    Parameters
    ----------
    args : Namespace
        As `npfsn.cli` describes them.
    make_enhancer : callable
        Makes the stream that they ask for.

    Returns
    -------
    int
        0. What goes wrong is raised.
    """
    sd = _sounddevice()
    if args.list_devices:
        for row in (str(sd.query_devices()) or "no sound devices").splitlines():
            say(row)
        return 0
    hush_compiler(args.quiet)
    try:
        return _run(sd, args, make_enhancer())
    except sd.PortAudioError as error:
        raise _of_devices(error) from error


def _of_devices(error: Exception) -> AudioError:
    """Say what the sound system says, and what helps."""
    return AudioError(
        f"{' '.join(str(error).split())} (npfsn live --list-devices shows what there is, -i and -o "
        "choose)"
    )


def _sounddevice() -> Any:
    """Import the package that knows sound cards, or say what is missing."""
    try:
        import sounddevice
    except ImportError:
        raise NpfsnError(
            "npfsn live needs sounddevice, which is not installed: pip install sounddevice"
        ) from None
    except OSError as error:  # on Linux it comes without the library that does the work
        raise NpfsnError(
            f"npfsn live needs PortAudio ({error}): install it, such as with "
            "'apt install libportaudio2' or 'brew install portaudio'"
        ) from None
    return sounddevice


def _channels(sd: Any, device: int | str | None) -> int:
    """Return how many channels an output gets: both ears where it has them."""
    return int(min(2, max(1, sd.query_devices(device, "output")["max_output_channels"])))


def _rate(sd: Any, devices: tuple[Any, Any], channels: int, own: int) -> int:
    """Return the model's rate if both devices take it, or another one that they take."""
    first: Exception | None = None
    for rate in (own, *COMMON_RATES):
        try:
            sd.check_input_settings(devices[0], channels=1, dtype="float32", samplerate=rate)
            sd.check_output_settings(
                devices[1], channels=channels, dtype="float32", samplerate=rate
            )
        except sd.PortAudioError as error:
            first = first or error
        else:
            return rate
    assert first is not None
    raise first


def _run(sd: Any, args: argparse.Namespace, enhancer: Enhancer) -> int:
    """Stream until the time is over, someone presses Ctrl-C or the sound system gives up."""
    devices = (args.input, args.output)
    try:
        channels = _channels(sd, args.output)
        rate = _rate(sd, devices, channels, enhancer.sample_rate)
    except ValueError as error:  # no device is called so, or several are
        raise _of_devices(error) from error
    loop = Loop(enhancer, rate, args.atten_lim)
    duplex, ended = _Duplex(loop, sd.CallbackAbort), threading.Event()
    line = StatusLine(not args.quiet)
    stream = sd.Stream(
        samplerate=rate,
        blocksize=loop.block,
        device=devices,
        channels=(1, channels),
        dtype="float32",
        latency="low" if args.latency is None else args.latency / 1e3,
        callback=duplex,
        finished_callback=ended.set,
    )
    started, gave_up = time.monotonic(), False
    with stream:
        if not args.quiet:
            say(_introduction(sd, stream, loop, rate))
        try:
            while not (gave_up := ended.wait(0.05)):
                passed = time.monotonic() - started
                if args.seconds is not None and passed >= args.seconds:
                    break
                if line.due:
                    line.draw(_standing(duplex, rate, passed))
        except KeyboardInterrupt:  # the way to end it
            pass
        finally:
            line.clear()
    if duplex.error is not None:
        raise duplex.error
    if not args.quiet:
        _tell(duplex, loop, rate, held_back_ms=1e3 * max(stream.latency))
    if gave_up:
        raise AudioError(
            "the sound system ended the stream: is the device in use by another program, or gone?"
        )
    return 0


def _introduction(sd: Any, stream: Any, loop: Loop, rate: int) -> str:
    """Say what is connected, and what its latency is made of."""
    names = [
        sd.query_devices(device, kind)["name"]
        for device, kind in zip(stream.device, ("input", "output"), strict=True)
    ]
    own, block = 1e3 * loop.latency / rate, 1e3 * loop.block / rate
    system = 1e3 * sum(stream.latency)
    return (
        f"{names[0]} -> {names[1]}, {rate} Hz; latency {own + block:.0f} ms (model {own:.0f}, hop "
        f"{block:.0f}), and what the sound system says it adds: {system:.0f} ms. Ctrl-C ends."
    )


def _dropouts(count: int) -> str:
    return f"{count} dropout{'' if count == 1 else 's'}"


def _standing(duplex: _Duplex, rate: int, passed: float) -> str:
    """Say how things stand."""
    heard, given = duplex.take_peaks()
    load = duplex.busy * rate / duplex.samples if duplex.samples else 0.0
    return (
        f"{duration(passed)}  in {heard:4.0f} dB  out {given:4.0f} dB  load {load:.0%}  "
        f"{_dropouts(duplex.dropouts)}"
    )


def _tell(duplex: _Duplex, loop: Loop, rate: int, held_back_ms: float) -> None:
    """Sum up what was."""
    seconds = duplex.samples / rate
    block_ms = 1e3 * loop.block / rate
    load = duplex.busy / seconds if seconds else 0.0
    say(
        f"{duration(seconds)}, load {load:.1%}, slowest block {1e3 * duplex.worst:.1f} of "
        f"{block_ms:.0f} ms, {_dropouts(duplex.dropouts)}"
    )
    if duplex.dropouts:
        more = math.ceil(held_back_ms / 10.0) * 20
        complain(f"warning: the sound system lost samples: --latency {more} may help")
    if loop.n_nonfinite:
        complain(f"warning: {loop.n_nonfinite} NaN or infinite samples were replaced by zero")
