"""`npfsn live`: from a microphone to headphones, hop by hop, through the sound system.

One callback takes a block and returns a block. There is no queue in between, so the latency stays
as it is at the start: when the machine stalls, samples are lost and none are delayed.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import AudioError, NpfsnError, in_shell
from .live_stream import LiveStream
from .samples import Samples
from .terminal import StatusLine, duration, hush_compiler, print_error, print_result

# Common rates of sound cards, tried if the model's own is refused.
COMMON_RATES = (48_000, 44_100, 96_000)
# Lowest level that the meters show.
FLOOR_DB = -99.0


class _Callback:
    """The callback of a sound stream, with counters and peak levels.

    Parameters
    ----------
    stream : LiveStream
    abort : type of exception
        Raised to end the stream.
    """

    def __init__(self, stream: LiveStream, abort: type[Exception]) -> None:
        self._stream, self._abort = stream, abort
        self.error: Exception | None = None
        self.samples = self.dropouts = 0
        self.busy = self.worst = 0.0  # seconds
        # Peaks of input and output since they were last shown.
        self.peaks: Samples = np.zeros(2, np.float32)

    def __call__(self, x: Samples, y: Samples, n: int, when: Any, status: Any) -> None:
        """Enhance x[N, 1] into every channel of y[N, channels]."""
        started = time.perf_counter()
        try:
            heard = x[:, 0]
            out = self._stream.process(heard)
            y[:] = out[:, None]
        except Exception as error:  # the sound system would print it and go on without us
            self.error = error
            raise self._abort from error
        self.dropouts += bool(status.input_overflow or status.output_underflow)
        sound = np.nan_to_num(heard, posinf=0.0, neginf=0.0)
        self.peaks = np.maximum(self.peaks, (np.abs(sound).max(), np.abs(out).max()))
        self.samples += n
        took = time.perf_counter() - started
        self.busy, self.worst = self.busy + took, max(self.worst, took)

    def take_peaks(self) -> tuple[float, float]:
        """Return the levels of input and output since the last call, in dB of full scale."""
        peaks, self.peaks = self.peaks, np.zeros(2, np.float32)
        heard, given = 20.0 * np.log10(np.maximum(peaks, 10.0 ** (FLOOR_DB / 20.0)))
        return float(heard), float(given)


def main(args: argparse.Namespace, make_stream: Callable[..., LiveStream]) -> int:
    """Run `npfsn live`.

    Parameters
    ----------
    args : Namespace
        As `npfsn.cli` makes them.
    make_stream : callable
        Makes the `LiveStream` for these arguments, at a given sample rate or at the model's.

    Returns
    -------
    int
        0. Errors are raised.
    """
    sd = _sounddevice()
    if args.list_devices:
        for row in (str(sd.query_devices()) or "no sound devices").splitlines():
            print_result(row)
        return 0
    hush_compiler(args.quiet)
    try:
        return _run(sd, args, make_stream)
    except sd.PortAudioError as error:
        raise _of_devices(error) from error


def _of_devices(error: Exception) -> AudioError:
    """Return the sound system's error with a hint on choosing devices."""
    return AudioError(
        f"{' '.join(str(error).split())} (npfsn live --list-devices shows what there is, -i and -o "
        "choose)"
    )


def _sounddevice() -> Any:
    """Import sounddevice, or say what is missing."""
    try:
        import sounddevice
    except ImportError:
        raise NpfsnError(
            "npfsn live needs sounddevice, which is not installed: "
            + in_shell([sys.executable, "-m", "pip", "install", "sounddevice"])
        ) from None
    except OSError as error:  # on Linux the package comes without PortAudio
        raise NpfsnError(
            f"npfsn live needs PortAudio ({error}): install it, such as with "
            "'apt install libportaudio2' or 'brew install portaudio'"
        ) from None
    return sounddevice


def _rate(sd: Any, devices: tuple[Any, Any], channels: int, own: int) -> int:
    """Return the model's rate if both devices take it, or another one that they take."""
    refused = []
    kinds = zip(devices, ("input", "output"), strict=True)
    theirs = [round(sd.query_devices(*each)["default_samplerate"]) for each in kinds]
    for rate in (own, *theirs, *COMMON_RATES):
        try:
            sd.check_input_settings(devices[0], channels=1, dtype="float32", samplerate=rate)
            sd.check_output_settings(
                devices[1], channels=channels, dtype="float32", samplerate=rate
            )
            return rate
        except sd.PortAudioError as error:
            refused.append(error)
    raise refused[0]


def _run(sd: Any, args: argparse.Namespace, make_stream: Callable[..., LiveStream]) -> int:
    """Stream until the time is over, Ctrl-C is pressed or the sound system ends the stream."""
    live, devices = make_stream(), (args.input, args.output)
    try:
        channels = min(2, sd.query_devices(args.output, "output")["max_output_channels"])
        rate = _rate(sd, devices, channels, live.sample_rate)
    except ValueError as error:  # no device has this name, or several have
        raise _of_devices(error) from error
    if rate != live.sample_rate:
        live = make_stream(rate)
    callback, ended = _Callback(live, sd.CallbackAbort), threading.Event()
    line = StatusLine(not args.quiet)
    stream = sd.Stream(
        samplerate=rate,
        blocksize=live.block_length,
        device=devices,
        channels=(1, channels),
        dtype="float32",
        latency="low" if args.latency is None else args.latency / 1e3,
        callback=callback,
        finished_callback=ended.set,
    )
    started, gave_up = time.monotonic(), False
    try:
        with stream:
            if not args.quiet:
                print_result(_introduction(sd, stream, live))
            while not (gave_up := ended.wait(0.05)):
                passed = time.monotonic() - started
                if args.seconds is not None and passed >= args.seconds:
                    break
                if line.due:
                    line.draw(_standing(callback, live.sample_rate, passed))
    except KeyboardInterrupt:  # the usual way to end a stream that has started
        pass
    finally:
        line.clear()
    if callback.error is not None:
        raise callback.error
    if not args.quiet:
        # A sound system may report less than it was asked for, or 0.
        _tell(callback, live, held_back_ms=max(1e3 * max(stream.latency), args.latency or 1.0))
    if gave_up:
        raise AudioError(
            "the sound system ended the stream: is the device in use by another program, or gone?"
        )
    return 0


def _introduction(sd: Any, stream: Any, live: LiveStream) -> str:
    """Name the two devices and the parts of the latency."""
    names = [
        sd.query_devices(device, kind)["name"]
        for device, kind in zip(stream.device, ("input", "output"), strict=True)
    ]
    rate, own = live.sample_rate, live.latency_ms
    block = 1e3 * live.block_length / rate
    system = 1e3 * sum(stream.latency)
    return (
        f"{names[0]} -> {names[1]}, {rate} Hz; latency {own + block:.0f} ms (model {own:.0f}, hop "
        f"{block:.0f}), and what the sound system says it adds: {system:.0f} ms. Ctrl-C ends."
    )


def _dropouts(count: int) -> str:
    return f"{count} dropout{'' if count == 1 else 's'}"


def _standing(callback: _Callback, rate: int, passed: float) -> str:
    """Return the status line: time, levels, load and dropouts."""
    heard, given = callback.take_peaks()
    load = callback.busy * rate / callback.samples if callback.samples else 0.0
    return (
        f"{duration(passed)}  in {heard:4.0f} dB  out {given:4.0f} dB  load {load:.0%}  "
        f"{_dropouts(callback.dropouts)}"
    )


def _tell(callback: _Callback, live: LiveStream, held_back_ms: float) -> None:
    """Print a summary, and warn of lost or replaced samples."""
    seconds = callback.samples / live.sample_rate
    block_ms = 1e3 * live.block_length / live.sample_rate
    load = callback.busy / seconds if seconds else 0.0
    print_result(
        f"{duration(seconds)}, load {load:.1%}, slowest block {1e3 * callback.worst:.1f} of "
        f"{block_ms:.0f} ms, {_dropouts(callback.dropouts)}"
    )
    if callback.dropouts:
        more = math.ceil(held_back_ms / 10.0) * 20
        print_error(f"warning: the sound system lost samples: --latency {more} may help")
    if live.n_nonfinite:
        print_error(f"warning: {live.n_nonfinite} NaN or infinite samples were replaced by zero")
