"""How the command line talks: messages, standard streams, what arguments mean."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from .config import CAUSAL_NORMS, BaseConfig, check_norm
from .errors import NormError, NpfsnError, one_line

#: How often a line that tells how things stand is drawn.
REDRAW_SECONDS = 0.1


def sentence(error: BaseException) -> str:
    """Say in one sentence what is wrong."""
    if isinstance(error, NpfsnError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return f"unexpected {type(error).__name__}: {error} (-v shows where)"


def streaming(config: BaseConfig) -> str:
    """Say whether a model streams, and what helps if it does not."""
    if config.streams:
        return "yes"
    norm = config.norm_type if config.norm_type in CAUSAL_NORMS else CAUSAL_NORMS[0]
    return f"no: its {config.obstacle} needs the whole signal; with `--norm {norm}` it streams"


def latency(config: BaseConfig) -> str:
    """Say what the latency is and, since two numbers are in use, what each of them counts."""
    hop_ms = 1000.0 * config.hop_length / config.sample_rate
    return ("" if config.streams else "the whole signal; with a causal norm ") + (
        f"{config.latency_samples} samples ({config.latency_ms:g} ms) from input to output; "
        f"{config.latency_ms + hop_ms:g} ms end to end with the {hop_ms:g} ms of the hop itself"
    )


def trace(text: str) -> None:
    """Print lines that are made already: of a traceback."""
    with contextlib.suppress(OSError):
        put(sys.stderr, text)


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: some letters take two, some none."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1
        for c in text
    )


def cut(text: str, room: int) -> str:
    """Return as much of the beginning of a text as `room` columns hold."""
    for at, letter in enumerate(text):
        room -= columns(letter)
        if room < 0:
            return text[:at]
    return text


def put(stream: TextIO | None, text: str) -> None:
    """Write at once, whatever the encoding of the stream."""
    if stream is None:  # closed by whoever started us
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal without Unicode
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Say of errors that it is standard output which cannot be written, a full disk for example."""
    try:
        yield
    except (BrokenPipeError, BlockingIOError):  # a reader that is gone, or slow
        raise
    except OSError as error:
        raise NpfsnError(f"cannot write to standard output: {error.strerror}") from error


def say(text: str) -> None:
    """Print one line of result."""
    with to_stdout():
        put(sys.stdout, one_line(text) + "\n")


def tell(text: str) -> None:
    """Say something that matters less than the work: a closed pipe or a full disk stops nothing."""
    try:
        say(text)
    except (OSError, NpfsnError):
        forget_stdout()


def complain(text: str, program: str = "npfsn") -> None:
    """Print one line of warning or error."""
    trace(f"{program}: {one_line(text)}\n")


def forget_stdout() -> None:
    """Let the interpreter flush standard output at exit without finding the pipe closed."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def libraries_silenced() -> Iterator[None]:
    """Keep decoders written in C from printing; our own messages pass."""
    with _only_ours("stdout", 1), _only_ours("stderr", 2):
        yield


@contextlib.contextmanager
def _only_ours(name: str, descriptor: int) -> Iterator[None]:
    """Move a standard stream to a descriptor of its own and send the usual one to nowhere."""
    original = getattr(sys, f"__{name}__")
    try:
        if original is None or getattr(sys, name) is not original:
            raise OSError
        if original.fileno() != descriptor:
            raise OSError
        original.flush()
        kept = os.dup(descriptor)
    except (OSError, ValueError):  # captured by a test, closed, or a disk that is full
        yield
        return
    # Unlike `put`, argparse and print take no care of what the terminal cannot show.
    ours = open(kept, "w", encoding=original.encoding, errors="backslashreplace")
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        setattr(sys, name, ours)
        yield
    finally:
        setattr(sys, name, original)
        os.dup2(kept, descriptor)
        os.close(null)
        with contextlib.suppress(OSError):
            ours.close()


def hush_compiler(quiet: bool) -> None:
    """Compile without a word if that is wanted."""
    if quiet:
        from . import jit

        jit.announce = False


def open_standard_streams() -> None:
    """Occupy the descriptors 0 to 2 if they are closed, lest a file gets one of them.

    Whatever a library prints would then be printed into that file.
    """
    with contextlib.suppress(OSError):
        while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(opened)


class StatusLine:
    """One line on a terminal that is drawn again and again; without a terminal nothing is.

    Parameters
    ----------
    wanted : bool
        Whether to draw at all.
    """

    def __init__(self, wanted: bool) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._on = wanted and terminal and os.environ.get("TERM") != "dumb"
        self._drawn_at = -math.inf
        self._width = 0

    @property
    def due(self) -> bool:
        """Whether it is time to draw again."""
        return self._on and time.perf_counter() - self._drawn_at >= REDRAW_SECONDS

    @property
    def room(self) -> int:
        """How many columns there are."""
        found = 0
        if "COLUMNS" not in os.environ:  # shutil would ask standard output, which may be elsewhere
            with contextlib.suppress(AttributeError, OSError, ValueError):
                found = os.get_terminal_size(sys.stderr.fileno()).columns
        return max((found or shutil.get_terminal_size().columns) - 1, 0)

    def draw(self, text: str) -> None:
        """Show `text` in the place of what was there."""
        text = cut(one_line(text), self.room)
        width = columns(text)
        with contextlib.suppress(OSError):  # the terminal is gone; the work is not
            put(sys.stderr, "\r" + text + " " * max(self._width - width, 0))
        self._width = width
        self._drawn_at = time.perf_counter()

    def clear(self) -> None:
        """Wipe the line, so that something else can be printed."""
        if self._width:
            with contextlib.suppress(OSError):
                put(sys.stderr, "\r" + " " * self._width + "\r")
            self._width = 0
            self._drawn_at = -math.inf


def duration(seconds: float) -> str:
    """Spell a duration as people do."""
    if round(seconds, 1) < 120.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def number(kind: type, low: float, high: float, what: str) -> Callable[[str], Any]:
    """Return a type for argparse: numbers from `low` to `high`, which are called `what`."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return read


def norm_name(text: str) -> str:
    """Return the name of a norm; a type for argparse."""
    try:
        return check_norm(text)
    except NormError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class UsageError(Exception):
    """Arguments that argparse cannot judge are wrong."""
