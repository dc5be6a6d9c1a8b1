"""Atomic output: a file appears under its name when it is complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# Part of the names of all unfinished files of this process.
_mark = [secrets.token_hex(8)]


def mark_unfinished(mark: str) -> None:
    """Mark the names of this process's unfinished files with `mark`, which no other uses."""
    _mark[0] = mark


def remove_unfinished(folder: Path, mark: str) -> None:
    """Remove the unfinished files of a killed process with that mark from `folder`."""
    for partial in folder.glob(f".npfsn-{mark}-*.part"):
        _remove(partial)


def is_folder(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a folder: there is one, or the name ends as only theirs do.

    `Path` drops the separator at the end, and would name a file.
    """
    return os.fspath(name).endswith(("/", os.sep)) or os.path.isdir(name)


@contextlib.contextmanager
def complete_or_absent(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield the path of an empty file in the same folder, which is renamed to `path` at the end.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    overwrite : bool
        Whether to replace an existing file, or a link. The new file is as open to others as the old
        one was, also while it is written, and no more.

    Raises
    ------
    FileExistsError
        `path` exists, and `overwrite` is False.
    OSError
        The folder or the disk refuses, or `path` is a pipe, a device or a folder.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a pipe, a device or a folder: name a file", str(path))
    # Independent of the name of `path`, which may be as long as the system allows.
    partial = path.parent / f".npfsn-{_mark[0]}-{secrets.token_hex(4)}.part"
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        replaced = path.stat() if overwrite and os.name != "nt" and path.exists() else None
        try:
            handle = os.open(partial, flags, 0o666 if replaced is None else 0o600)
            try:
                if replaced is not None:
                    _limit_access(handle, replaced)
            finally:
                os.close(handle)
        except OSError as error:  # report `path`, not the temporary name
            raise OSError(error.errno, error.strerror, str(path)) from None
        yield partial
        _sync(partial)
        _publish(partial, path, overwrite)
        _sync(path.parent)
    finally:
        try:
            _remove(partial)
        except BaseException:  # a signal right now must not end the cleaning up
            _remove(partial)
            raise


def _limit_access(handle: int, replaced: os.stat_result) -> None:
    """Give a new file the permissions of the one that it replaces; its owner may always write it.

    If its group is another one, group and others get only what both had. By the handle: whoever
    owns the folder could put a link in the place of the name.
    """
    mode = replaced.st_mode & 0o777
    if os.fstat(handle).st_gid != replaced.st_gid:
        both = mode >> 3 & mode & 0o7
        mode = mode & 0o700 | both << 3 | both
    with contextlib.suppress(OSError):  # not every file system has permissions
        os.fchmod(handle, mode | 0o600)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, as far as the system can promise that."""
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
        # A folder may be unreadable, and some file systems cannot sync one: the file has its name
        # all the same.
        if not folder:
            raise


def _publish(partial: Path, path: Path, overwrite: bool) -> None:
    """Rename the complete file; without `overwrite`, only if the name is still free."""
    if not overwrite:
        try:
            os.link(partial, path)
            return
        except OSError:  # it exists, or no hard links here: check, then rename
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists already") from None
    os.replace(partial, path)
