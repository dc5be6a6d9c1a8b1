"""Input and output of the command line: messages, standard streams, types of arguments."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from .config import check_norm
from .errors import NormError, NpfsnError, in_shell, one_line

#: Shortest time between two drawings of a status line.
REDRAW_SECONDS = 0.1


def sentence(error: BaseException) -> str:
    """Return an error's message as one sentence."""
    if isinstance(error, NpfsnError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return f"unexpected {type(error).__name__}: {error} (-v shows where)"


def print_raw_error(text: str) -> None:
    """Print text, such as a traceback, to standard error as it is; drop it where that fails."""
    try:
        write_now(sys.stderr, text)
    except OSError:
        _forget(sys.stderr)


def columns(text: str) -> int:
    """Return how many terminal columns a text takes: some characters take two, some none."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1
        for c in text
    )


def cut(text: str, room: int) -> str:
    """Cut a text to its beginning that fits into `room` columns."""
    for at, letter in enumerate(text):
        room -= columns(letter)
        if room < 0:
            return text[:at]
    return text


def write_now(stream: TextIO | None, text: str) -> None:
    """Write and flush, with escapes for characters that the stream cannot encode."""
    if stream is None:  # closed by the parent process
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal without Unicode
        stream.write(_encodable(text, stream))
    stream.flush()


def _encodable(text: str, stream: TextIO) -> str:
    """Return a text with escapes for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None)
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding) if encoding else text
    except LookupError:  # it is no file, and names no encoding
        return text


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Turn errors such as a full disk into one that names standard output."""
    try:
        yield
    except (BrokenPipeError, BlockingIOError):  # the reader is gone, or slow
        raise
    except OSError as error:
        raise NpfsnError(f"cannot write to standard output: {error.strerror}") from error


def print_result(text: str) -> None:
    """Print one line of result."""
    _print_raw_result(one_line(text) + "\n")


def _print_raw_result(text: str) -> None:
    try:
        with to_stdout():
            write_now(sys.stdout, text)
    except (OSError, NpfsnError):
        _forget(sys.stdout)
        raise


def print_report(text: str) -> None:
    """Print a line that is not worth failing for: a closed pipe or a full disk is ignored."""
    with contextlib.suppress(OSError, NpfsnError):
        print_result(text)


def print_error(text: str, program: str = "npfsn") -> None:
    """Print one line of warning or error."""
    print_raw_error(f"{program}: {one_line(text)}\n")


def _forget(stream: TextIO) -> None:
    """Point a standard stream at the null device: the flush at exit would fail, with code 120."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def libraries_silenced() -> Iterator[None]:
    """Discard what C libraries print; let messages of Python through."""
    with _only_ours("stdout", 1), _only_ours("stderr", 2):
        yield


@contextlib.contextmanager
def _only_ours(name: str, descriptor: int) -> Iterator[None]:
    """Move a standard stream to a new descriptor, and its usual one to the null device."""
    original = getattr(sys, f"__{name}__")
    try:
        replaced = original is None or getattr(sys, name) is not original
        if replaced or original.fileno() != descriptor:
            raise OSError
        original.flush()
        kept = os.dup(descriptor)
    except (OSError, ValueError):  # captured by a test, closed, or on a full disk
        yield
        return
    # argparse and print, unlike `write_now`, fail on characters that the terminal cannot show.
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
    """Do not announce compilation if `quiet`."""
    if quiet:
        from . import machine_code

        machine_code.announce = False


def open_standard_streams() -> None:
    """Open the null device on any of the descriptors 0 to 2 that are closed.

    Otherwise a file could get one of them, and what a library prints would end up in that file.
    """
    with contextlib.suppress(OSError):
        while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(opened)


class StatusLine:
    """One line on a terminal that is redrawn in place; without a terminal nothing is drawn.

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
        """Replace the line by `text`."""
        if not self._on:
            return
        text = cut(_encodable(one_line(text), sys.stderr), self.room)
        width = columns(text)
        with contextlib.suppress(OSError):  # the terminal is gone; the work is not
            write_now(sys.stderr, "\r" + text + " " * max(self._width - width, 0))
        self._width = width
        self._drawn_at = time.perf_counter()

    def clear(self) -> None:
        """Wipe the line, so that something else can be printed."""
        if self._width:
            with contextlib.suppress(OSError):
                write_now(sys.stderr, "\r" + " " * self._width + "\r")
            self._width = 0
            self._drawn_at = -math.inf


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if round(seconds, 1) < 120.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def number(kind: type, low: float, high: float, what: str) -> Callable[[str], Any]:
    """Return a type for argparse: numbers from `low` to `high`, described as `what` in errors."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return read


def torn_apart(words: Sequence[str]) -> str | None:
    """Return what is wrong if a shell took a name for several words, of which some name nothing."""
    missing = [i for i, word in enumerate(words) if not os.path.lexists(word)]
    for i in missing[:20]:  # of a list made for another folder, all are missing
        for first in range(max(0, i - 19), i + 1):
            for end in range(max(first + 2, i + 1), min(first + 20, len(words)) + 1):
                name = " ".join(words[first:end])
                if os.path.lexists(name):
                    return f"a name with spaces needs quotes: {in_shell([name])}"
    return None


def norm_name(text: str) -> str:
    """Check and return the name of a norm; a type for argparse."""
    try:
        return check_norm(text)
    except NormError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose help and errors take the way of everything else that is printed.

    Its own fail where a stream takes nothing, at once or, with Python's code 120, at exit.
    """

    def _print_message(self, message: str, file: object = None) -> None:
        if file is sys.stdout:
            _print_raw_result(message)
        else:
            print_raw_error(message)


class UsageError(Exception):
    """Arguments that argparse cannot judge are wrong."""
