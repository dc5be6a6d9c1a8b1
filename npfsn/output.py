"""Files that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# What the names of this process's unfinished files have in common.
_mark = [secrets.token_hex(8)]


def mark_unfinished(mark: str) -> None:
    """Let the names of this process's unfinished files contain `mark`, which nobody else has."""
    _mark[0] = mark


def remove_unfinished(folder: Path, mark: str) -> None:
    """Remove from `folder` what a process with that mark left when it was killed."""
    for partial in folder.glob(f".npfsn-{mark}-*.part"):
        _remove(partial)


@contextlib.contextmanager
def complete_or_absent(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give the name of an empty file in the same folder, which becomes `path` at the end.

    Parameters
    ----------
    path : Path
        Its folder exists.
    overwrite : bool
        Whether to replace what has that name by then.

    Raises
    ------
    FileExistsError
        Something has that name, and is not to be replaced.
    OSError
        The folder or the disk refuses, or something of that name is no file: a pipe, a device.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a pipe, a device or a folder: name a file", str(path))
    # The name does not grow with that of `path`, which may be as long as a name can be.
    partial = path.parent / f".npfsn-{_mark[0]}-{secrets.token_hex(4)}.part"
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            os.close(os.open(partial, flags, 0o666))
        except OSError as error:  # nobody knows that name
            raise OSError(error.errno, error.strerror, str(path)) from None
        yield partial
        _sync(partial)
        _publish(partial, path, overwrite)
        _sync(path.parent)
    finally:
        try:
            _remove(partial)
        except BaseException:  # a signal that comes right now ends the program, not its cleaning up
            _remove(partial)
            raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync(path: Path) -> None:
    """Have the disk hold what was written, as far as the system can promise that."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        # A folder need not be readable, and some file systems cannot sync one; the name is there
        # all the same.
        if not folder:
            raise


def _publish(partial: Path, path: Path, overwrite: bool) -> None:
    """Give the complete file its name; without `overwrite` only if nobody took it meanwhile."""
    if not overwrite:
        try:
            os.link(partial, path)
            return
        except OSError:  # there is one, or no hard links here: the next best is to look once more
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists already") from None
    os.replace(partial, path)
