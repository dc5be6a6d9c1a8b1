"""What libsndfile's encoder for ALAC does wrong, found before it does harm."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

from .errors import AudioError
from .source import BLOCK_SAMPLES

# libsndfile 1.2.2 writes beyond its table of a file's packets, which corrupts the heap, where more
# than 76 of them (4096 frames each) take 16 KiB or more: the limits here have a margin.
_PACKET_FRAMES, _LARGE_BYTES, _MOST_LARGE = 4096, 15 << 10, 70
# It keeps packets in the folder for temporary files first, and crashes where there is no room. So
# much is left there: more than a few packets.
_ROOM_BYTES = 1 << 20


class AlacGuard:
    """The checks of one file that is written.

    Parameters
    ----------
    dst : Path
        Its name in messages.
    rate, channels, bits : int
    subtype : str
        In soundfile's terms.
    """

    def __init__(self, dst: Path, rate: int, channels: int, bits: int, subtype: str) -> None:
        self._dst, self._rate, self._channels, self._subtype = dst, rate, channels, subtype
        self._may_be_large = _PACKET_FRAMES * channels * bits // 8 >= _LARGE_BYTES
        self._n_large = 0
        self._packet = np.zeros((0, channels), np.int32)  # one that is not full yet
        self._checksum = 0

    def check(self, data: npt.NDArray[np.int32]) -> None:
        """Raise AudioError if the encoder would crash on more frames, int32[N <= 4096, channels].

        That is, for want of room or with more large packets than it can list.
        """
        self._checksum = zlib.crc32(data.data, self._checksum)
        folder = tempfile.gettempdir()
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < _ROOM_BYTES:
                raise AudioError(
                    f"cannot write {self._dst}: no space left in {folder}, where ALAC is kept first"
                )
        if not self._may_be_large:
            return
        # As libsndfile cuts them, however long the blocks are.
        self._packet = np.concatenate((self._packet, data))
        if len(self._packet) < _PACKET_FRAMES:
            return
        packet, self._packet = np.split(self._packet, [_PACKET_FRAMES])
        self._n_large += self._size(packet) >= _LARGE_BYTES
        if self._n_large > _MOST_LARGE:
            raise AudioError(
                f"cannot write {self._dst}: so long a sound that {self._subtype} hardly compresses "
                "would crash libsndfile: choose another container, for instance with --format wav"
            )

    def _size(self, packet: npt.NDArray[np.int32]) -> int:
        """Return how many bytes a packet takes: encoded once more, alone."""
        alone = io.BytesIO()
        with sf.SoundFile(
            alone, "w", self._rate, self._channels, self._subtype, format="CAF"
        ) as file:
            file.write(packet)
        # After the name: its size in 8 bytes, 4 bytes, the packet.
        return int.from_bytes(alone.getvalue().partition(b"data")[2][:8], "big") - 4

    def is_same(self, written: sf.SoundFile) -> bool:
        """Tell whether a file holds what was given to `check`: some it damages, as short ends."""
        found = 0
        for block in written.blocks(BLOCK_SAMPLES // self._channels, dtype="int32", always_2d=True):
            found = zlib.crc32(block, found)
        return found == self._checksum
