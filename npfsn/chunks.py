"""Containers made of chunks: where the chunks end, and which ones to keep along with the audio.

A chunk is a name, a size and that many bytes. libsndfile follows the sizes as long as they make
sense and ignores what follows the last chunk. If the size of the audio chunk is too small, the rest
of the audio is ignored with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

# First bytes of a whole file: where a chunk should begin, they begin a second file.
WHOLE = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff", b".snd", b"dns.")
# Chunk names. Samples of voices do not look like this.
_NAME = re.compile(rb"[\w ()]{4}")
# Programs that write to a pipe, and do not know the length yet, write this size or a larger one.
UNKNOWN_LENGTH = 0x7FFF0000


# Chunks that recording programs use and libsndfile drops: time code and origin of a broadcast WAV,
# a recorder's notes on a take, markers and their names (in a LIST), loops.
_RIFF_NOTES = (b"bext", b"iXML", b"cue ", b"adtl", b"smpl")
_NOTES = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64"), _RIFF_NOTES),
    "AIFF": (b"MARK", b"INST"),
}
# First bytes of WAV files up to 4 GiB and of longer ones: their chunks are the same.
_RIFF_HEADS = (b"RIFF", b"RF64")
# Most bytes kept of these chunks, and the overhead counted for each: this bounds the memory used.
_MOST_NOTES, _NOTE_COST = 4 << 20, 1 << 10
# Most bytes read of a text.
_MOST_TEXT = 1 << 14
_LARGEST_FILE = (1 << 32) - 1024


class Note(NamedTuple):
    """A chunk to keep along with the audio."""

    head: bytes  # the first four bytes of the file
    name: bytes
    kind: str  # its name in messages
    content: bytes | None  # None: it exceeded the limit


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    size: int  # as declared
    end: int  # where the next chunk begins


class _Layout(NamedTuple):
    """How chunks are written."""

    first: int  # offset of the first chunk
    name: int  # bytes of the name, whose first four are letters
    size: int  # bytes of the size
    order: Literal["little", "big"]  # of the size
    even: int  # what chunk lengths are padded to a multiple of
    own: bool = False  # whether a size counts the name and itself


_RIFF = _Layout(12, 4, 4, "little", 2)
_IFF = _RIFF._replace(order="big")
_LAYOUTS = {
    "WAV": _RIFF,
    "WAVEX": _RIFF,
    "RF64": _RIFF,
    "AIFF": _IFF,
    "SVX": _IFF,
    "CAF": _Layout(8, 4, 8, "big", 1),
    "W64": _Layout(40, 16, 8, "little", 8, own=True),
}


def behind_tag(file: BinaryIO) -> int:
    """Return where an ID3 tag at the start of a sound file ends: the file proper begins there."""
    file.seek(0)
    tag = file.read(10)
    if not tag.startswith(b"ID3"):
        return 0
    # Its size is stored in seven bits per byte.
    return 10 + functools.reduce(lambda size, byte: size << 7 | byte & 127, tag[6:], 0)


def end(file: BinaryIO, container: str, n_bytes: int) -> int:
    """Return where the last chunk ends, or the audio of an AU file.

    Parameters
    ----------
    file : binary file
    container : str
        soundfile's name of the container.
    n_bytes : int
        The size of the file.

    Returns
    -------
    int
        `n_bytes` if nothing follows, if the last chunk claims more than the file holds, and for all
        other containers.
    """
    first = behind_tag(file)
    if container == "AU":
        file.seek(first)
        head = file.read(12)
        order: Literal["little", "big"] = "little" if head.startswith(b"dns.") else "big"
        start, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        return n_bytes if size >= UNKNOWN_LENGTH else min(first + start + size, n_bytes)
    if container not in _LAYOUTS:
        return n_bytes
    at = first + _LAYOUTS[container].first
    for chunk in _chunks(file, container, n_bytes):
        at = chunk.end
    return min(at, n_bytes)


def is_followed(file: BinaryIO, container: str, n_bytes: int, name: bytes) -> bool:
    """Return whether anything follows the first chunk of that name."""
    ends = (c.end for c in _chunks(file, container, n_bytes) if c.name.startswith(name))
    return next(ends, n_bytes) < n_bytes


def notes(file: BinaryIO, container: str, n_bytes: int) -> list[Note]:
    """Return the chunks of a WAV or AIFF file that also apply to its enhanced audio.

    Parameters
    ----------
    file, container, n_bytes
        As of `end`.
    """
    if container not in _NOTES:
        return []
    file.seek(behind_tag(file))
    head, found, room = file.read(4), dict[tuple[bytes, int], Note](), _MOST_NOTES
    for chunk in _chunks(file, container, n_bytes):
        file.seek(chunk.start)
        kind = file.read(min(chunk.size, 4)) if chunk.name == b"LIST" else chunk.name
        if kind not in _NOTES[container] or chunk.start + chunk.size > n_bytes:
            continue
        content, need = None, _NOTE_COST + chunk.size
        if need <= room:
            file.seek(chunk.start)
            content, room = file.read(chunk.size), room - need
        # Report each kind that does not fit once, however many chunks of it there are.
        key = kind, chunk.start if content is not None else -1
        found[key] = Note(head, chunk.name, kind.decode().strip(), content)
    return [*found.values()]


def tags(file: BinaryIO, container: str, n_bytes: int) -> dict[str, str]:
    """Return the tags that libsndfile would read otherwise than they are.

    Of the copyright of an AIFF file it keeps only what is ASCII; a character that is not UTF-8
    comes back as U+FFFD.

    Parameters
    ----------
    file, container, n_bytes
        As of `end`.
    """
    if container != "AIFF":
        return {}
    found = {}
    for chunk in _chunks(file, container, n_bytes):
        if chunk.name == b"(c) ":
            file.seek(chunk.start)
            text = file.read(min(chunk.size, _MOST_TEXT)).rstrip(b"\0")
            found["copyright"] = text.decode(errors="replace")
    return found


def append(file: BinaryIO, found: list[Note]) -> list[Note]:
    """Append notes to a complete file, open to read and write; return those that do not fit.

    These are notes that exceeded the limit, notes of another container, and those for which the
    file is too large.
    """
    head, n_bytes, left = file.read(4), file.seek(0, 2), []
    order: Literal["little", "big"] = "little" if head in _RIFF_HEADS else "big"
    # Where the file's size is; in an RF64 in its first chunk, ds64.
    size_at, size_bytes = (20, 8) if head == b"RF64" else (4, 4)
    for note in found:
        content = note.content
        alike = note.head == head or (note.head in _RIFF_HEADS and head in _RIFF_HEADS)
        if (
            content is None
            or not alike
            or (size_bytes == 4 and n_bytes + len(content) > _LARGEST_FILE)
        ):
            left.append(note)
            continue
        chunk = note.name + len(content).to_bytes(4, order) + content
        n_bytes += file.write(bytes(n_bytes % 2) + chunk + bytes(len(content) % 2))
    file.seek(size_at)
    if len(left) < len(found):
        file.write((n_bytes - 8).to_bytes(size_bytes, order))
    return left


def holds_mpeg(file: BinaryIO, n_bytes: int) -> bool:
    """Return whether a WAV file says that its audio is MPEG's."""
    for chunk in _chunks(file, "WAV", n_bytes):
        if chunk.name == b"fmt ":
            file.seek(chunk.start)
            return file.read(2) in (b"\x50\0", b"\x55\0")
    return False


def _chunks(file: BinaryIO, container: str, n_bytes: int) -> Iterator[_Chunk]:
    """Yield the chunks up to the first that is damaged or none."""
    first = behind_tag(file)
    file.seek(first)
    layout = _IFF if file.read(4) == b"RIFX" else _LAYOUTS[container]
    at, long = first + layout.first, None
    head = layout.name + layout.size
    while at + head <= n_bytes:
        file.seek(at)
        name = file.read(layout.name)
        size = said = int.from_bytes(file.read(layout.size), layout.order)
        if name[:4] in WHOLE or not _NAME.match(name):
            break
        if name == b"ds64":  # the true size of `data`
            long = int.from_bytes(file.read(16)[8:], "little")
        if name == b"data" and size >= UNKNOWN_LENGTH:
            size = n_bytes if long is None else long
        if layout.own and size < head:  # damaged
            break
        start = at + head
        at += size if layout.own else head + size
        if at < n_bytes:
            file.seek(at)
            if not _NAME.match(file.read(4)):  # a name here: the padding is missing
                at += -at % layout.even
        yield _Chunk(name, start, said, at)
