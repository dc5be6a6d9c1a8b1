"""Read untrusted files: opening never blocks, and sizes are checked first."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import NpfsnError

_CHUNK = 1 << 20


class ReadError(NpfsnError, ValueError):
    """A file cannot be read, or is not what it should be; callers turn it into their own errors."""


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular file for reading and return it with its size in bytes.

    Pipes, devices and folders are refused: their size is unknown or reading them may never end.

    Raises
    ------
    ReadError
        The file cannot be read; the message says why.
    """
    # Without O_NONBLOCK, opening a pipe that has no writer would block for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise ReadError("there is no such file") from None
    except (OSError, ValueError) as error:
        if os.path.isdir(path):  # Windows reports "permission denied" for a folder
            raise ReadError("it is a folder, expected a file") from None
        raise ReadError(f"it cannot be opened ({_reason(error)})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file (a pipe or device)"
        raise ReadError(f"it is {kind}, expected a file")
    return os.fdopen(descriptor, "rb"), status.st_size


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes; the caller has checked that the file is that long."""
    try:
        file.seek(offset)
        data = file.read(size)
    except OSError as error:
        raise ReadError(f"it cannot be read ({_reason(error)})") from None
    if len(data) != size:
        raise ReadError("it became shorter while it was read")
    return data


def read_into(file: BinaryIO, offset: int, out: npt.NDArray[np.uint8]) -> None:
    """Fill `out` (uint8[n], contiguous) with the bytes from `offset` on."""
    view = out.data
    for start in range(0, len(view), _CHUNK):
        piece = read_at(file, offset + start, min(_CHUNK, len(view) - start))
        view[start : start + len(piece)] = piece


def _reason(error: Exception) -> str:
    """Return the operating system's message."""
    return str(getattr(error, "strerror", None) or error)
