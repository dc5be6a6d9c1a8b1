"""`npfsn stream`: raw samples from one descriptor to another, each hop as soon as it is ready."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
from typing import Any

from .errors import NpfsnError
from .report import LOUD, QUIET, TOO_QUIET
from .stopping import Interrupts, held_back
from .terminal import UsageError, hush_compiler, print_error, to_stdout

#: Sample types: the choices of `--format`, and NumPy's names for them.
SAMPLE_TYPES = {"s16le": "<i2", "f32le": "<f4"}
#: Most bytes per read: small enough that finished samples are written soon.
READ_BYTES = 1 << 14

#: First bytes of sound files.
_CONTAINERS = {
    b"RIFF": "a WAV file",
    b"RF64": "a WAV file",
    b"RIFX": "a WAV file",
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"FORM": "an AIFF file",
    b"caff": "a CAF file",
    b"riff": "a W64 file",
    b".snd": "an AU file",
    b"dns.": "an AU file",
    b"NIST_1A": "a NIST file",
    b"Creative Voice": "a VOC file",
    b"\x1aE\xdf\xa3": "a Matroska or WebM file",
    b"0&\xb2u\x8ef\xcf\x11": "a WMA file",
    b"#!AMR": "an AMR file",
    b"wvpk": "a WavPack file",
    b"MAC ": "a Monkey's Audio file",
    b"TTA1": "a TTA file",
}
#: Bytes to look at: in most MP3 files, the name of the table of frames lies within the first 64.
_HEAD = 64


def main(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Enhance samples from standard input to standard output.

    Parameters
    ----------
    args : argparse.Namespace
        As `npfsn.cli` makes them.
    options : dict
        Arguments of the `Enhancer`.

    Returns
    -------
    int
        The exit code.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "standard input is a terminal or closed: pipe raw samples into `npfsn stream`"
        )
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal or closed: send it to a file or to a player"
        )
    try:
        source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    except OSError:  # replaced by Python objects, as in a notebook
        raise UsageError(
            "standard input or output is no file or pipe: within Python, use Enhancer.process"
        ) from None
    with contextlib.redirect_stdout(sys.stderr):  # keep what libraries print out of the samples
        return enhance_stream(args, options, source, sink)


def _refuse_containers(data: bytes, form: str, rate: int) -> None:
    """Refuse a sound file in place of raw samples: its header would become noise."""
    found = [what for mark, what in _CONTAINERS.items() if data.startswith(mark)]
    if data.startswith(b"\xff") and any(mark in data[:_HEAD] for mark in (b"Xing", b"Info")):
        found = ["an MP3 file"]
    if data[4:8] == b"ftyp":
        found = ["an MP4 or M4A file"]
    if found:
        raise NpfsnError(
            f"standard input is {found[0]}, expected raw samples: use `npfsn enhance FILE`, or "
            f"decode it first, for instance with: ffmpeg -i FILE -f {form} -ac 1 -ar {rate} -"
        )


def enhance_stream(
    args: argparse.Namespace, options: dict[str, Any], source: int, sink: int
) -> int:
    """Enhance raw samples from one file descriptor to another."""
    hush_compiler(args.quiet)
    with held_back():
        import numpy as np

        from .aligned import AlignedStream
        from .enhancer import Enhancer
        from .samples import silence_nonfinite, to_steps

    # Compile and load everything before reading the first sample.
    enhancer = Enhancer(**options)
    rate = args.rate or enhancer.sample_rate
    stream = AlignedStream(
        enhancer, rate, atten_lim_db=args.atten_lim, keep_latency=args.keep_latency
    )
    if os.name == "nt":
        import msvcrt

        for descriptor in (source, sink):
            msvcrt.setmode(descriptor, os.O_BINARY)  # type: ignore[attr-defined]
    dtype = np.dtype(SAMPLE_TYPES[args.format])
    n_clipped = n_nonfinite = 0
    peak, rest = 0.0, b""

    def write_now(y: Any) -> None:
        nonlocal n_clipped
        if dtype.kind == "i":
            steps, n_beyond = to_steps(y, 16)
            n_clipped += n_beyond
            y = steps >> 16
        data = y.astype(dtype).tobytes()
        while data:
            try:
                with to_stdout():
                    data = data[os.write(sink, data) :]
            except BlockingIOError:  # opened in non-blocking mode
                select.select([], [sink], [])

    def receive() -> bytes:
        while True:
            try:
                return os.read(source, READ_BYTES)
            except BlockingIOError:
                select.select([source], [], [])
            except OSError as error:  # such as a device that is gone
                raise NpfsnError(f"cannot read standard input: {error.strerror}") from error

    code, interrupts, head = 0, Interrupts(), b""
    with interrupts.heard():
        while True:
            try:
                with interrupts.may_cut():
                    received = receive()
            except KeyboardInterrupt:  # enhance and write what has been read
                code = 128 + signal.SIGINT
                break
            if not received:
                break
            if len(head) < _HEAD:
                head += received
                _refuse_containers(head, args.format, rate)
            rest += received
            whole = len(rest) - len(rest) % dtype.itemsize
            x = np.frombuffer(rest[:whole], dtype).astype(np.float32)
            rest = rest[whole:]
            if dtype.kind == "i":
                x /= 32768.0
            else:
                n_nonfinite += silence_nonfinite(x)
            peak = max(peak, float(np.abs(x).max(initial=0.0)))
            write_now(stream.process(x))
        write_now(stream.flush())

    if code:
        print_error("interrupted")
    if not args.quiet:
        _warn(args.format, len(rest), n_nonfinite, n_clipped, peak)
    return code


def _warn(form: str, n_odd: int, n_nonfinite: int, n_clipped: int, peak: float) -> None:
    """Warn of samples that were left out, replaced or clipped, and of levels no speech has."""
    if n_odd:
        print_error(
            f"warning: the input ended within a sample: {n_odd} odd bytes were left out; is it "
            f"{form}, mono?"
        )
    if n_nonfinite:
        print_error(
            f"warning: {n_nonfinite} NaN or infinite samples were replaced by zero; is the input "
            f"{form}, mono?"
        )
    if peak > LOUD:
        print_error(
            f"warning: samples up to {peak:.0e} times as large as full scale: is the input {form}, "
            "mono?"
        )
    if 0.0 < peak < QUIET:
        print_error(f"warning: {TOO_QUIET}: raise the level first")
    if n_clipped:
        print_error(f"warning: {n_clipped} samples beyond full scale were clipped")
