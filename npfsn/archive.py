"""Reads zip archives that may be untrusted.

Both file formats npfsn reads (`.npz` and torch's) are zip archives. The standard library's reader
is lenient and allocates memory as it reads; this one accepts only what NumPy and torch write, and
checks every size against the file's before it allocates memory: names are unique, members do not
overlap, offsets are those in the file, nothing follows the archive, checksums hold, and all members
together are at most `max_ratio` times as large as the file (and 1 MiB more).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import printable
from .reading import ReadError, read_at, read_into

MAX_ENTRIES = 10_000
SLACK_BYTES = 1 << 20  # small files of zeros compress to almost nothing
_CHUNK = 1 << 20

_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 << 0
_UTF8 = 1 << 11

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """One member of an archive: sizes in bytes, `offset` of its local header in the file."""

    name: str
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int

    @property
    def is_stored(self) -> bool:
        """Whether the member is not compressed."""
        return self.method == _STORED


class Archive:
    """The members of a zip file, checked.

    Parameters
    ----------
    file : BinaryIO
    file_size : int
        Bytes.
    max_ratio : float
        Limit on the uncompressed size of all members: this many times the file's size, plus 1 MiB.
    ignore_missing_crc : bool
        Accept checksums that are all zero, as torch writes when told not to compute any.

    Attributes
    ----------
    entries : dict of str to Entry

    Raises
    ------
    ReadError
    """

    def __init__(
        self, file: BinaryIO, file_size: int, *, max_ratio: float, ignore_missing_crc: bool = False
    ) -> None:
        self._file = file
        offset, size = _find_directory(file, file_size)
        self._directory_offset = offset
        self.entries = _read_directory(read_at(file, offset, size))
        self._check_crc = not ignore_missing_crc or any(e.crc for e in self.entries.values())

        total = sum(entry.size for entry in self.entries.values())
        if total > max_ratio * file_size + SLACK_BYTES:
            raise ReadError(
                f"its members unpack to {total:,} bytes, more than {max_ratio:g} times the file's "
                f"{file_size:,} bytes"
            )
        # Overlapping members would let a small file unpack to a large one.
        end, previous = 0, ""
        for entry in sorted(self.entries.values(), key=lambda e: e.offset):
            if entry.offset < end:
                raise ReadError(
                    f"its members {printable(previous)} and {printable(entry.name)} overlap"
                )
            end = entry.offset + _LOCAL.size + len(entry.name) + entry.packed_size
            previous = entry.name
        if end > offset:
            raise ReadError(f"its member {printable(previous)} reaches beyond the archive")

    def read(self, entry: Entry) -> npt.NDArray[np.uint8]:
        """Read one member, unpacked.

        Returns
        -------
        uint8 array, shape (entry.size,)

        Raises
        ------
        ReadError
        """
        start = self._data_offset(entry)
        out = np.empty(entry.size, np.uint8)
        if entry.is_stored:
            read_into(self._file, start, out)
        else:
            self._inflate(entry, start, out)
        if self._check_crc and zlib.crc32(out.data) != entry.crc:
            raise ReadError(f"its member {printable(entry.name)} is damaged (checksum)")
        return out

    def head(self, entry: Entry, size: int) -> bytes:
        """Return at most the first `size` bytes of one member, unpacked, checksum unchecked."""
        start = self._data_offset(entry)
        if entry.is_stored:
            return read_at(self._file, start, min(size, entry.size))
        if not entry.size:
            return b""  # zlib takes a limit of 0 for no limit
        packed = read_at(self._file, start, min(entry.packed_size, size + 1024))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, min(size, entry.size))
        except zlib.error:
            raise ReadError(f"its member {printable(entry.name)} is damaged") from None

    def _data_offset(self, entry: Entry) -> int:
        """Check the member's local header against the directory; return where its data begins."""
        header = _LOCAL.unpack(read_at(self._file, entry.offset, _LOCAL.size))
        signature, method = header[0], header[3]
        name_size, extra_size = int(header[9]), int(header[10])
        name_offset = entry.offset + _LOCAL.size
        start = name_offset + name_size + extra_size
        intact = (
            signature == b"PK\3\4"
            and method == entry.method
            and start + entry.packed_size <= self._directory_offset
            and _decode(read_at(self._file, name_offset, name_size), header[2]) == entry.name
        )
        if not intact:
            raise ReadError(f"its member {printable(entry.name)} is damaged (header)")
        return start

    def _inflate(self, entry: Entry, start: int, out: npt.NDArray[np.uint8]) -> None:
        """Unpack one member into `out`, which it must fill exactly."""
        damaged = ReadError(f"its member {printable(entry.name)} is damaged (compression)")
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        view = out.data
        done, taken, packed = 0, 0, b""
        while not inflater.eof:
            if not packed and taken < entry.packed_size:
                size = min(_CHUNK, entry.packed_size - taken)
                packed = read_at(self._file, start + taken, size)
                taken += size
            fed = bool(packed)
            try:  # one byte more than expected, to notice excess data
                piece = inflater.decompress(packed, min(_CHUNK, len(view) - done + 1))
            except zlib.error:
                raise damaged from None
            packed = inflater.unconsumed_tail
            if done + len(piece) > len(view) or not (piece or fed or inflater.eof):
                raise damaged
            view[done : done + len(piece)] = piece
            done += len(piece)
        if done != len(view) or inflater.unused_data or packed or taken != entry.packed_size:
            raise damaged


def _find_directory(file: BinaryIO, file_size: int) -> tuple[int, int]:
    """Find the central directory from the record at the end of the file; return offset and size."""
    tail_size = min(file_size, _EOCD.size + _FULL16)
    tail = read_at(file, file_size - tail_size, tail_size)
    position = tail.rfind(b"PK\5\6")
    while position >= 0:
        if position + _EOCD.size <= tail_size:
            record = _EOCD.unpack_from(tail, position)
            if position + _EOCD.size + record[7] == tail_size:
                break
        position = tail.rfind(b"PK\5\6", 0, position)
    else:
        raise ReadError("it is cut off or no zip archive (no directory at its end)")

    disk, directory_disk, n_disk, n_total, size, offset = record[1:7]
    end = file_size - tail_size + position
    if disk not in (0, _FULL16) or directory_disk not in (0, _FULL16) or n_disk != n_total:
        raise ReadError("it is one part of an archive in several files")
    # torch always writes the record with 64-bit sizes, needed or not.
    wide = _find_directory64(file, end)
    if wide is not None:
        if size not in (wide[0], _FULL32) or offset not in (wide[1], _FULL32):
            raise ReadError("its two directory records contradict each other")
        size, offset, end = wide
    # NumPy and torch write nothing between the directory and its end record. A prefix before the
    # archive would shift every offset.
    if offset + size != end:
        raise ReadError("its directory is not where it should be")
    if size > MAX_ENTRIES * (_CENTRAL.size + 512):
        raise ReadError(f"its directory has {size:,} bytes, more than any model needs")
    return offset, size


def _find_directory64(file: BinaryIO, end: int) -> tuple[int, int, int] | None:
    """Read the 64-bit record before the end record; return size, offset and its own offset."""
    if end < _EOCD64_LOCATOR.size + _EOCD64.size:
        return None
    locator = read_at(file, end - _EOCD64_LOCATOR.size, _EOCD64_LOCATOR.size)
    signature, _, record_offset, _ = _EOCD64_LOCATOR.unpack(locator)
    if signature != b"PK\6\7":
        return None
    damaged = ReadError("its directory is damaged (64-bit record)")
    if record_offset != end - _EOCD64_LOCATOR.size - _EOCD64.size:
        raise damaged
    record = _EOCD64.unpack(read_at(file, record_offset, _EOCD64.size))
    if record[0] != b"PK\6\6":
        raise damaged
    size, offset = record[8:10]
    return size, offset, record_offset


def _read_directory(data: bytes) -> dict[str, Entry]:
    """Read the central directory."""
    entries: dict[str, Entry] = {}
    position = 0
    while position < len(data):
        if len(entries) >= MAX_ENTRIES:
            raise ReadError(f"it has more than {MAX_ENTRIES:,} members")
        if position + _CENTRAL.size > len(data):
            raise ReadError("its directory is damaged")
        fields = _CENTRAL.unpack_from(data, position)
        signature, _, _, flags, method, _, _, crc, packed_size, size = fields[:10]
        name_size, extra_size, comment_size, disk, _, _, offset = fields[10:]
        name_start = position + _CENTRAL.size
        extra_start = name_start + name_size
        position = extra_start + extra_size + comment_size
        if signature != b"PK\1\2" or position > len(data):
            raise ReadError("its directory is damaged")
        name = _decode(data[name_start:extra_start], flags)
        if name in entries:
            raise ReadError(f"its member {printable(name)} occurs twice")
        extra = data[extra_start : extra_start + extra_size]
        size, packed_size, offset = _widen(extra, size, packed_size, offset)
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED) or disk:
            raise ReadError(
                f"its member {printable(name)} is encrypted, in another file or compressed in an "
                "unknown way"
            )
        if method == _STORED and size != packed_size:
            raise ReadError(f"its member {printable(name)} contradicts itself about its size")
        entries[name] = Entry(name, method, crc, packed_size, size, offset)
    return entries


def _widen(extra: bytes, size: int, packed_size: int, offset: int) -> tuple[int, int, int]:
    """Replace sizes that did not fit into 32 bits by those in the extra field."""
    values = (size, packed_size, offset)
    n_wide = values.count(_FULL32)
    if n_wide == 0:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind == 1 and length >= 8 * n_wide and position + length <= len(extra):
            found = iter(struct.unpack_from(f"<{n_wide}Q", extra, position))
            size, packed_size, offset = (next(found) if v == _FULL32 else v for v in values)
            return size, packed_size, offset
        position += length
    raise ReadError("its directory is damaged (64-bit sizes)")


def _decode(name: bytes, flags: int) -> str:
    """Decode a member's name; the flag says whether it is UTF-8 or the original code page."""
    try:
        return name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise ReadError("the name of one of its members is damaged") from None
