"""Files that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
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
        Whether to replace what has that name by then. The new file has the permissions of the old
        one and, as far as the system allows it, its owner; where a link leads to it, it still does.

    Raises
    ------
    FileExistsError
        Something has that name, and is not to be replaced.
    OSError
        The folder or the disk refuses, or something of that name is no file: a pipe, a device.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a pipe, a device or a folder: name a file", str(path))
    if overwrite and path.exists():  # and not a link that leads nowhere
        path = Path(os.path.realpath(path))
    # The name does not grow with that of `path`, which may be as long as a name can be.
    partial = path.parent / f".npfsn-{_mark[0]}-{secrets.token_hex(4)}.part"
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        replaced = _of(path) if overwrite else None
        # Until it is complete nobody else may read more of it than of what it replaces.
        mode = 0o666 if replaced is None else 0o600 | stat.S_IMODE(replaced.st_mode) & 0o666
        try:
            os.close(os.open(partial, flags, mode))
        except OSError as error:  # nobody knows that name
            raise OSError(error.errno, error.strerror, str(path)) from None
        yield partial
        _sync(partial)
        if replaced is not None:
            _take_after(replaced, partial)
        _publish(partial, path, overwrite)
        _sync(path.parent)
    finally:
        try:
            _remove(partial)
        except BaseException:  # a signal that comes right now ends the program, not its cleaning up
            _remove(partial)
            raise


def _of(path: Path) -> os.stat_result | None:
    """Return what the system knows of a file, or None."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _take_after(replaced: os.stat_result, partial: Path) -> None:
    """Give a file the owner and the permissions of the one that it replaces, where that is allowed.

    Permissions last: a change of owner takes some away.
    """
    if os.name != "nt" and (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):
            os.chown(partial, replaced.st_uid, replaced.st_gid)
    with contextlib.suppress(OSError):
        os.chmod(partial, stat.S_IMODE(replaced.st_mode))


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
