"""Whether all of a sound file is there, and all that is there can be read.

libsndfile gives what it finds and says nothing of the rest: a file that was cut short, a second
recording behind the first, samples that a header does not count. What it notes in its log, and what
it does not look at, is looked at here.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import soundfile as sf

from . import mp3
from .errors import AudioError

# libsndfile shortens a file that promises more than it holds and only tells its log.
_LENGTH_KEYS = {
    "WAV": "data",
    "WAVEX": "data",
    "CAF": "data",
    "AIFF": "SSND",
    "AU": "Data Size",
    "W64": "riff",
    "RF64": "Riff size",
    "SVX": "BODY",
}
# Others tell in their own words how many frames there should be, or that some are gone.
_FRAMES_SAID = {
    "AVR": r"Frames\s*:\s*(\d+)",
    "NIST": r"sample_count -i (\d+)",
    "WVE": r"Data length (\d+) should be",
}
_GONE = "Seems to be a truncated file"
# Lengths from here on are what programs write that do not know the length yet (pipes).
_UNKNOWN_LENGTH = 0x7FFF0000
# Headers that are off by a pad byte or by their own size are common and harmless.
_SLACK_BYTES = 64
# What stands for an unknown length is larger.
_MOST_FRAMES = 1 << 62
# No header without audio is as long as this.
_MAX_EMPTY_BYTES = 1 << 14
_SEVERAL = (
    "holds several recordings one after the other, of which only the first can be read: take them "
    "apart first, or save the file anew with an audio editor"
)
# Every byte with its bits in the other order.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_intact(source: sf.SoundFile, src: Path, n_bytes: int) -> None:
    """Raise AudioError for a file of which something would be lost.

    Parameters
    ----------
    source : SoundFile
        The file, open.
    src : Path
    n_bytes : int
        Its size.
    """
    key = _LENGTH_KEYS.get(source.format)
    if key is not None:
        pattern = rf"^\s*{key}\s*:\s*(\d+) \(should be (\d+)\)"
        for said, there in re.findall(pattern, source.extra_info, re.MULTILINE):
            missing = int(said) - int(there)
            if _SLACK_BYTES < missing and int(said) < _UNKNOWN_LENGTH:
                raise AudioError(
                    f"{src} is cut short: its header promises {said} bytes, {there} are there; "
                    "to enhance these, save the file anew with an audio editor first"
                )
    if _GONE in source.extra_info or _frames_promised(source, src) > source.frames:
        raise AudioError(
            f"{src} is cut short: its header promises more than the {source.frames} frames that "
            "are there; to enhance these, save the file anew with an audio editor first"
        )
    # A recorder that was stopped, or more bytes than 32 bits count: samples follow where libsndfile
    # looks for another chunk, and it goes no further.
    counted = re.search(r"^RIFF\s*:\s*(\d+)", source.extra_info, re.MULTILINE)
    if source.format in ("WAV", "WAVEX") and counted and "Exiting parser" in source.extra_info:
        beyond = n_bytes - 8 - int(counted[1])
        if beyond > _MAX_EMPTY_BYTES:
            raise AudioError(
                f"{src} has {beyond} bytes that its header does not count, which would be lost: "
                "repair it first, for instance with an audio editor that imports raw samples"
            )
    if source.format == "MP3" and _is_followed(src):
        raise AudioError(f"{src} {_SEVERAL}")
    if source.format == "OGG":
        _check_pages(src)
    if source.frames > _MOST_FRAMES:
        raise AudioError(
            f"{src} does not say how long it is, as happens when a pipe is written to: turn it "
            "into a WAV file first, such as with `flac -d`"
        )
    if source.frames == 0 and n_bytes > _MAX_EMPTY_BYTES:
        raise AudioError(
            f"{src} is damaged or was never closed by its recorder: it has {n_bytes} bytes, but "
            "no audio that can be found; repair it with an audio editor first"
        )


def _frames_promised(source: sf.SoundFile, src: Path) -> int:
    """Return how many frames there should be, of the formats in `_FRAMES_SAID`; else 0."""
    pattern = _FRAMES_SAID.get(source.format)
    if pattern is None:
        return 0
    said = source.extra_info
    if source.format == "NIST":  # libsndfile repeats nothing of its header
        with bytes_of(src) as file:
            said = file.read(1024).decode("latin-1")
    found = re.search(pattern, said)
    return int(found[1]) if found else 0


@contextlib.contextmanager
def bytes_of(src: Path) -> Iterator[BinaryIO]:
    """Open a file to look at what libsndfile does not tell."""
    try:
        with open(src, "rb") as file:
            yield file
    except OSError as error:
        raise AudioError(f"cannot read {src}: {error.strerror or error}") from error


def _check_pages(src: Path) -> None:
    """Raise AudioError for an Ogg file of several recordings, or whose pages are not all there.

    libsndfile leaves a damaged page out and shifts what follows.
    """
    begun, last = False, False
    numbers: dict[bytes, int] = {}  # of the page that comes next, by stream
    with bytes_of(src) as file:
        while len(head := file.read(27)) == 27:
            if last and not head.startswith(b"OggS"):
                return  # something else behind the sound
            lengths = file.read(head[26])
            body = file.read(sum(lengths))
            if head.startswith(b"OggS") and len(body) < sum(lengths):
                last = False
                break
            first, stream, number = head[5] & 2, head[14:18], int.from_bytes(head[18:22], "little")
            if head.startswith(b"OggS") and first and begun:
                raise AudioError(f"{src} {_SEVERAL}")
            page = head[:22] + bytes(4) + head[26:] + lengths + body
            whole = head.startswith(b"OggS") and head[22:26] == _ogg_checksum(page)
            if not whole or number != numbers.get(stream, number):
                raise AudioError(
                    f"{src} is damaged: a page of it is changed, missing or there twice; to "
                    "enhance what is left, save the file anew with an audio editor first"
                )
            begun, last = begun or not first, bool(head[5] & 4)
            numbers[stream] = number + 1
    if not last:
        raise AudioError(
            f"{src} is cut short: its last page is missing; to enhance what is there, save the "
            "file anew with an audio editor first"
        )


def _ogg_checksum(page: bytes) -> bytes:
    """Return the checksum of an Ogg page: that of zlib with all bits in the other order."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "big").translate(_MIRRORED)


def _is_followed(src: Path) -> bool:
    """Tell whether another MP3 file begins where one ends."""
    with bytes_of(src) as file:
        return mp3.is_followed(file)
