"""The exceptions that users of npfsn may see.

All of them derive from `NpfsnError`, so that one `except` catches whatever is wrong with files,
sound and streams, and also from the built-in exception that a caller would expect. A mistake in the
calling program raises a built-in exception: `TypeError` for a value of the wrong type, `ValueError`
for most options out of range, `OSError` for a model that cannot be written. A message is one
sentence: what was wrong, what was expected, what to do. This module also makes the names and values
in it safe for a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class NpfsnError(Exception):
    """Base class: something is wrong with a file, with sound or with the use of a stream."""

    def __str__(self) -> str:
        """Return the message, one line whatever names are in it."""
        return one_line(super().__str__())


class ModelError(NpfsnError, ValueError):
    """A model file is corrupt, foreign or newer, or its tensors do not fit its configuration."""


class CheckpointError(NpfsnError, ValueError):
    """A torch checkpoint cannot be read, or holds something that is deliberately not read."""


class RecipeError(NpfsnError, ValueError):
    """A training recipe (TOML) cannot be read or contradicts the checkpoint."""


class NormError(NpfsnError, ValueError):
    """A norm is unknown, or cannot stream because it needs the whole signal."""


class AudioError(NpfsnError, ValueError):
    """Audio is unreadable, empty or of a kind that cannot be processed."""


class FrameError(NpfsnError, ValueError):
    """A frame has the wrong length or shape, or holds NaN or infinity."""


class StateError(NpfsnError, ValueError):
    """A saved state does not belong to this stream, or is damaged."""


class StreamEndedError(NpfsnError, RuntimeError):
    """A stream was used after `flush()`, or after something interrupted it within a hop."""


class ConcurrentUseError(NpfsnError, RuntimeError):
    """One stream was used from two threads at once."""


# What messages show of files and arguments.


def printable(value: object, limit: int = 80) -> str:
    """Make a name found in a file safe for a terminal: no control characters, limited length."""
    text = value if isinstance(value, str) else repr(value)
    text = text[: limit + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str) -> str:
    """Escape characters that cannot be printed, such as line breaks and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def listed(names: list[str], most: int = 5) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_shell(words: Sequence[str]) -> str:
    """Return a command, or a name, as it is typed: with quotes where it has spaces."""
    import shlex  # not above: every start would pay for both
    import subprocess

    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def shown(value: object) -> str:
    """Return the repr of a value found in a file, limited in length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
