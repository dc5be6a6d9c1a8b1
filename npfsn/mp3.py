"""MP3 files: count the frames if no header does.

An MP3 file is a row of frames, each with a header of four bytes. The first may hold a table with
the number of the others. Without it, libsndfile guesses the length from the size of the first
frames and reads no further: half of a recording may be lost. So this module counts the frames, and
libsndfile reads a view of the file that begins with a table.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .chunks import behind_tag, holds_mpeg
from .errors import AudioError

# Layer III, by the version bits of the header: 3 for MPEG 1, 2 for MPEG 2, 0 for MPEG 2.5.
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MONO = 3

# Bytes searched for the next frame in one read: more than decoders search after a tag.
_SEARCHED = 1 << 16


# What names entries of tags with comments, texts and lyrics. For each, mpg123 looks for its like
# among all before in the same tag: one of a megabyte takes many seconds.
_ENTRIES = (b"COM", b"TXX", b"ULT", b"USLT")
# More than any program writes into a tag, and one in so many bytes: recorded broadcasts have a tag
# now and then.
_MOST_ENTRIES, _BYTES_PER_ENTRY = 5_000, 4096


def check_tags(src: Path, file: BinaryIO) -> None:
    """Raise AudioError for MP3 sound whose tags have more entries than any program writes.

    Call it before libsndfile opens the file.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(3)
    in_wav = head == b"RIF" and holds_mpeg(file, n_bytes)
    if not (head == b"ID3" or head.startswith(b"\xff") or in_wav):
        return
    file.seek(0)
    n_entry = 0
    while block := file.read(1 << 20):
        n_entry += sum(block.count(name) for name in _ENTRIES)
    if n_entry > _MOST_ENTRIES + n_bytes // _BYTES_PER_ENTRY:
        raise AudioError(
            f"{src} has {n_entry:,} comments and texts in its tags, more than any program writes: "
            "remove them first, for instance with a tag editor"
        )


class _Frame(NamedTuple):
    """The header of a frame."""

    version: int
    rate: int
    channels: int
    size: int  # bytes, the header included

    @property
    def side(self) -> int:
        """Bytes between the header and the audio, or the table."""
        return ((17, 32) if self.version == 3 else (9, 17))[self.channels - 1]


def _frame(header: bytes) -> _Frame | None:
    """Parse a header of layer III; None if these bytes are not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, kbits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or kbits in (0, 15) or rate == 3:
        return None
    hertz = _RATES[version][rate]
    bits = 1000 * (_KBITS_1 if version == 3 else _KBITS_2)[kbits - 1]
    size = (144 if version == 3 else 72) * bits // hertz + (header[2] >> 1 & 1)
    return _Frame(version, hertz, 1 if header[3] >> 6 == _MONO else 2, size)


def _next(file: BinaryIO, at: int, alike: _Frame | None = None) -> int | None:
    """Find the next frame, in the format of `alike`, within `_SEARCHED` bytes from `at`."""
    file.seek(at)
    near = file.read(_SEARCHED)
    place = near.find(b"\xff")
    while place >= 0:
        frame = _frame(near[place : place + 4])
        if frame and (alike is None or frame[:2] == alike[:2]):
            file.seek(at + place + frame.size)
            after = file.read(4)
            follower = _frame(after)
            if not after or (follower and follower[:2] == frame[:2]):
                return at + place
        place = near.find(b"\xff", place + 1)
    return None


class _Start(NamedTuple):
    """How a file begins."""

    tag: int  # where a tag in front of the frames ends
    first: int  # where the first frame is
    frame: _Frame
    #: The table in it, from its name on; empty if the frame holds audio.
    table: bytes


def _start(file: BinaryIO) -> _Start | None:
    """Find the first frame, if there is one."""
    tag = behind_tag(file)
    if (first := _next(file, tag)) is None or (frame := _read(file, first)) is None:
        return None
    inside, table = file.read(64), b""
    for at, names in ((frame.side, (b"Xing", b"Info")), (32, (b"VBRI",))):
        if inside[at : at + 4] in names:
            table = inside[at:]
            break
    return _Start(tag, first, frame, table)


def _table_has(table: bytes, what: int) -> bool:
    """Whether a table that mpg123 reads has the number of frames (1), of bytes (2) or both (3)."""
    told = int.from_bytes(table[4:8], "big")
    return table[:4] in (b"Xing", b"Info") and len(table) >= 16 and told & what == what


def is_followed(file: BinaryIO) -> bool:
    """Tell whether another MP3 file begins at the end that the table of a file declares."""
    start = _start(file)
    if start is None or not _table_has(start.table, 3):
        return False
    file.seek(start.first + int.from_bytes(start.table[12:16], "big"))
    after = file.read(4)
    return after.startswith(b"ID3") or _frame(after) is not None


def is_longer(file: BinaryIO) -> bool:
    """Tell whether there are more frames than a table counts."""
    told, there = _counts(file)
    return there > told + 1  # some tables count their own frame


def is_shorter(file: BinaryIO) -> bool:
    """Tell whether there are fewer frames than a table counts."""
    told, there = _counts(file)
    return there < told


def _counts(file: BinaryIO) -> tuple[int, int]:
    """Return the number of frames that a table tells, and that of those behind it; 0, 0 without."""
    start = _start(file)
    if start is None or not _table_has(start.table, 1):
        return 0, 0
    there = _count_frames(file, start.first + start.frame.size, start.frame)
    return int.from_bytes(start.table[8:12], "big"), there


def with_frame_table(file: BinaryIO) -> Spliced | None:
    """Return a view of an MP3 file with a table that counts its frames, if it has none.

    Parameters
    ----------
    file : binary file
        Must stay open while the result is in use.

    Returns
    -------
    binary file or None
        None if there is nothing to add.
    """
    start = _start(file)
    if start is None or _table_has(start.table, 1):
        return None
    # The table lies in a silent frame of the same format: highest bit rate, no checksum.
    file.seek(start.first)
    header = bytearray(file.read(4))
    header[1] |= 0x01
    header[2] = header[2] & 0x0D | 0xE0
    silent = _frame(bytes(header))
    assert silent is not None  # its version and its rate are those of the first frame
    begin = bytes(header) + bytes(silent.side)
    # A table that mpg123 does not read would be decoded as audio: drop it.
    first = start.first + (start.frame.size if start.table else 0)
    count = (_count_frames(file, first, start.frame) + 1).to_bytes(4, "big")
    # A second silent frame for mpg123 to skip: its own decoder delay of 529 samples and the delay
    # in the table add up to one frame.
    more = (1152 if silent.version == 3 else 576) - 529
    table = b"Xing\0\0\0\1" + count + b"LAME3.100" + bytes(12) + (more << 12).to_bytes(3, "big")
    frames = [(begin + inside).ljust(silent.size, b"\0") for inside in (table, b"")]
    return Spliced(file, start.tag, b"".join(frames), first)


def _count_frames(file: BinaryIO, at: int, model: _Frame) -> int:
    """Count the frames from an offset on."""
    size, count = file.seek(0, os.SEEK_END), 0
    while at < size:
        frame = _read(file, at)
        if frame is None or frame[:2] != model[:2]:
            # Damage, or tags between two recordings: search to the end, so that no frame is missed.
            found = _next(file, at + 1, alike=model)
            at = at + _SEARCHED - 3 if found is None else found
        elif at + frame.size > size:  # incomplete: no decoder outputs it
            break
        else:
            count += 1
            at += frame.size
    return count


def _read(file: BinaryIO, at: int) -> _Frame | None:
    """Read the header at an offset."""
    file.seek(at)
    return _frame(file.read(4))


class Spliced(io.RawIOBase):
    """A file up to one offset, then other bytes, then the file from another offset on.

    Reads are short only at the end: decoders take a short read for the end.

    Attributes
    ----------
    failure : OSError or None
        Why a read was short before the end: an exception would not get through soundfile.
    """

    def __init__(self, file: BinaryIO, end: int, more: bytes, start: int) -> None:
        self._file, self._end, self._more = file, end, more
        self._shift = end + len(more) - start  # of the second part of the file
        self._at = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset and return it."""
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            offset += self._file.seek(0, os.SEEK_END) + self._shift
        self._at = max(offset, 0)
        return self._at

    def readinto(self, target: object) -> int:
        """Fill a buffer; return the number of bytes."""
        out = memoryview(target).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(out):
            into, wanted = self._at - self._end, len(out) - done
            if 0 <= into < len(self._more):
                part = self._more[into : into + wanted]
            else:
                try:
                    self._file.seek(self._at if into < 0 else self._at - self._shift)
                    part = self._file.read(min(wanted, -into) if into < 0 else wanted)
                except OSError as error:
                    self.failure = self.failure or error
                    break
            if not part:
                break
            out[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        return done
