"""Containers made of chunks: how far the chunks reach.

A chunk is a name, a size and that many bytes. libsndfile follows the sizes as long as they make
sense and takes what lies behind for something else. Where the size of the sound is too small, the
rest of the sound is what lies behind.
"""

from __future__ import annotations

import re
from typing import BinaryIO, Literal, NamedTuple

# What a whole file is called, in front of its chunks: another one has no place among them.
WHOLE = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff", b".snd", b"dns.")
# No sample that a voice has looks like this.
_NAME = re.compile(rb"[\w ()]{4}")
# Programs that do not know a length yet (pipes) write one that is not exceeded: this or more.
UNKNOWN_LENGTH = 0x7FFF0000


class _Layout(NamedTuple):
    """How chunks are written."""

    first: int  # where the first one stands
    name: int  # bytes of the name, of which the first four are letters
    size: int  # bytes of the size
    order: Literal["little", "big"]  # of the size
    even: int  # what their lengths are rounded up to
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


def end(file: BinaryIO, container: str, n_bytes: int) -> int:
    """Return where the last chunk ends, or the sound of an AU file.

    Parameters
    ----------
    file : binary file
    container : str
        soundfile's name of it.
    n_bytes : int
        The size of the file.

    Returns
    -------
    int
        `n_bytes` where nothing lies behind, where the last chunk promises more than there is, and
        for all other containers.
    """
    file.seek(0)
    head = file.read(12)
    if container == "AU":
        order: Literal["little", "big"] = "little" if head.startswith(b"dns.") else "big"
        start, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        return n_bytes if size >= UNKNOWN_LENGTH else min(start + size, n_bytes)
    layout = _LAYOUTS.get(container)
    if layout is None:
        return n_bytes
    if head.startswith(b"RIFX"):
        layout = _IFF
    return min(_end(file, layout, n_bytes), n_bytes)


def _end(file: BinaryIO, layout: _Layout, n_bytes: int) -> int:
    """Go from chunk to chunk as long as there are any; return where the last one says it ends."""
    at, long = layout.first, None
    head = layout.name + layout.size
    while at + head <= n_bytes:
        file.seek(at)
        name = file.read(layout.name)
        size = int.from_bytes(file.read(layout.size), layout.order)
        if name[:4] in WHOLE or not _NAME.match(name):
            break
        if name == b"ds64":  # the true size of `data`
            long = int.from_bytes(file.read(16)[8:], "little")
        if name == b"data" and size >= UNKNOWN_LENGTH:
            size = n_bytes if long is None else long
        if layout.own and size < head:  # damaged
            break
        at += size if layout.own else head + size
        if at >= n_bytes:
            break
        file.seek(at)
        if not _NAME.match(file.read(4)):  # else its padding has been forgotten
            at += -at % layout.even
    return at
