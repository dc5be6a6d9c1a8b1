"""Check that a sound file is complete, and that all of its audio can be read.

libsndfile reads what it finds and does not report the rest: a file that was cut short, a second
recording after the first, samples that the header does not count. This module checks libsndfile's
log, and the parts of a file that libsndfile does not look at.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import soundfile as sf

from . import chunks, mp3
from .errors import AudioError

# Log entries with the declared length: libsndfile reads a truncated file to its end, and logs that.
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
# Other formats log or declare the number of frames in words of their own, or log a truncation.
_FRAMES_SAID = {
    "AVR": r"Frames\s*:\s*(\d+)",
    "CAF": r"Valid frames\s*:\s*(\d+)",  # of packets: without their end the last one is dropped
    "MAT5": r"Cols : (\d+)\s+Type : \d+\s+Size : \d+\s+Name : wavedata",
    "MPC2K": r"Frames\s*:\s*(\d+)",
    "NIST": r"sample_count -i (\d+)",
    "WVE": r"Data length (\d+) should be",
}
_GONE = ("Seems to be a truncated file", "File seems to be truncated")
# In a VOC file libsndfile reads on, and takes the bytes between two recordings for audio.
_SEGMENTS = "Seems to be a multi-segment file"
# Headers that are off by a pad byte or by their own size are common and harmless, but not where a
# missing byte spoils a block of samples.
_SLACK_BYTES = 64
_IN_BLOCKS = re.compile("ADPCM|GSM|G72")
# An unknown length is given as a larger number; by libsndfile 1.2.0 also that of an Ogg file with
# anything behind its sound.
_MOST_FRAMES = 1 << 62
# A file without audio is a header, no longer than the first. Bytes after the last chunk are ignored
# if there are no more than the second.
_MAX_EMPTY_BYTES, _MAX_REST_BYTES = 1 << 14, 1 << 10
# In these, libsndfile takes whatever follows the sound for sound, up to the end of the file.
_TO_THE_END = {"W64": b"data", "SVX": b"BODY"}
# First bytes of tags that players append to files.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
# Start of a FLAC file: the marker and the header of STREAMINFO, always 34 bytes, maybe the last.
_FLAC, _FLAC_BYTES = re.compile(rb"fLaC[\0\x80]\0\0\x22"), 8
_SEVERAL = (
    "holds several recordings one after the other, of which only the first can be read: take them "
    "apart first, or save the file anew with an audio editor"
)
# Every byte with its bits reversed.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_intact(source: sf.SoundFile, src: Path, n_bytes: int) -> None:
    """Raise AudioError for a file whose audio could not all be read.

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
        slack = 0 if _IN_BLOCKS.search(source.subtype) else _SLACK_BYTES
        pattern = rf"^\s*{key}\s*:\s*(\d+) \(should be (\d+)\)"
        for said, there in re.findall(pattern, source.extra_info, re.MULTILINE):
            missing = int(said) - int(there)
            if slack < missing and int(said) < chunks.UNKNOWN_LENGTH:
                raise AudioError(
                    f"{src} is cut short: its header promises {said} bytes, {there} are there; "
                    "to enhance these, save the file anew with an audio editor first"
                )
    promised = _frames_promised(source, src)
    if any(said in source.extra_info for said in _GONE) or promised > source.frames:
        raise AudioError(
            f"{src} is cut short: its header promises more than the {source.frames} frames that "
            "are there; to enhance these, save the file anew with an audio editor first"
        )
    if source.format == "OGG":
        _check_pages(src)
    if source.frames > _MOST_FRAMES:
        raise AudioError(
            f"{src} does not say how long it is, as happens when a pipe is written to: turn it "
            "into a WAV file first, such as with `flac -d` or ffmpeg"
        )
    if source.frames == 0 and n_bytes > _MAX_EMPTY_BYTES:
        raise AudioError(
            f"{src} is damaged or was never closed by its recorder: it has {n_bytes} bytes, but "
            "no audio that can be found; repair it with an audio editor first"
        )
    _check_rest(source, src, n_bytes, promised)


def check_single(src: Path, n_bytes: int) -> None:
    """Raise AudioError if libsndfile cannot open a file because a second one follows in it."""
    with bytes_of(src) as file:
        file.seek(chunks.behind_tag(file))
        container = {b"RIFF": "WAV", b"FORM": "AIFF"}.get(file.read(4), "")
        file.seek(chunks.end(file, container, n_bytes))
        if file.read(4) in chunks.WHOLE:
            raise AudioError(f"{src} {_SEVERAL}")


def _check_rest(source: sf.SoundFile, src: Path, n_bytes: int, promised: int) -> None:
    """Raise AudioError for a file that holds more audio than its header declares."""
    container = source.format
    with bytes_of(src) as file:
        rest = _rest(file, n_bytes - chunks.end(file, container, n_bytes))
        if (
            rest.startswith(chunks.WHOLE)
            or _SEGMENTS in source.extra_info
            or (container == "MP3" and mp3.is_followed(file))
            or (container == "FLAC" and _is_followed(file))
        ):
            raise AudioError(f"{src} {_SEVERAL}")
        if (
            rest
            or (container != "CAF" and promised in range(1, source.frames))
            or (container == "MP3" and mp3.is_longer(file))
        ):
            raise AudioError(
                f"{src} holds more sound than its header counts, which would be lost: repair it "
                "first, for instance with an audio editor that imports raw samples"
            )
        name = _TO_THE_END.get(container)
        if name and chunks.is_followed(file, container, n_bytes, name):
            raise AudioError(
                f"{src} has more behind its sound, which libsndfile would take for sound: save it "
                "as WAV first, with the program that made it"
            )


def _rest(file: BinaryIO, n_bytes: int) -> bytes:
    """Return the start of the last `n_bytes` of a file if they may be audio, else nothing."""
    file.seek(-n_bytes, os.SEEK_END)
    start = rest = file.read(_MAX_REST_BYTES + 1)
    if len(start) <= _MAX_REST_BYTES or start.startswith(_TAGS):
        return b""
    while rest and not any(rest):  # space that a recorder reserved and did not fill
        rest = file.read(1 << 20)
    return start if rest else b""


def _is_followed(flac: BinaryIO) -> bool:
    """Tell whether a FLAC file contains the start of a second one."""
    # Not with mmap: a bad disk, or a file that becomes shorter, would end the process.
    flac.seek(0)
    n_start, end = 0, b""
    while block := flac.read(1 << 20):
        piece = end + block
        n_start += len(_FLAC.findall(piece))
        if n_start > 1:
            return True
        end = piece[1 - _FLAC_BYTES :]  # a start may lie across two blocks
    return False


def _frames_promised(source: sf.SoundFile, src: Path) -> int:
    """Return the declared number of frames for the formats in `_FRAMES_SAID`; else 0."""
    pattern = _FRAMES_SAID.get(source.format)
    if pattern is None:
        return 0
    said = source.extra_info
    if source.format == "NIST":  # its header is not in libsndfile's log
        with bytes_of(src) as file:
            said = file.read(1024).decode("latin-1")
    found = re.search(pattern, said)
    return int(found[1]) if found else 0


def unreadable(src: Path, error: OSError) -> AudioError:
    """Return what to say if the system does not let a sound file be read."""
    return AudioError(f"cannot read {src}: {error.strerror or error}")


@contextlib.contextmanager
def bytes_of(src: Path) -> Iterator[BinaryIO]:
    """Open a sound file as bytes, or raise AudioError."""
    try:
        with open(src, "rb") as file:
            yield file
    except OSError as error:
        raise unreadable(src, error) from error


def _check_pages(src: Path) -> None:
    """Raise AudioError for an Ogg file with several recordings, or with missing or damaged pages.

    libsndfile skips a damaged page, which shifts what follows.
    """
    damaged = AudioError(
        f"{src} is damaged: a page of it is changed, missing or there twice; to enhance what is "
        "left, save the file anew with an audio editor first"
    )
    begun, last = False, False
    numbers: dict[bytes, int] = {}  # number of the next page, by stream
    with bytes_of(src) as file:
        while len(head := file.read(27)) == 27:
            if not head.startswith(b"OggS"):
                if last:
                    return  # something else follows the audio
                raise damaged
            lengths = file.read(head[26])
            body = file.read(sum(lengths))
            if len(body) < sum(lengths):
                last = False
                break
            first, stream, number = head[5] & 2, head[14:18], int.from_bytes(head[18:22], "little")
            if first and begun:
                raise AudioError(f"{src} {_SEVERAL}")
            page = head[:22] + bytes(4) + head[26:] + lengths + body
            if head[22:26] != _ogg_checksum(page) or number != numbers.get(stream, number):
                raise damaged
            begun, last = begun or not first, bool(head[5] & 4)
            numbers[stream] = number + 1
    if not last:
        raise AudioError(
            f"{src} is cut short: its last page is missing; to enhance what is there, save the "
            "file anew with an audio editor first"
        )


def _ogg_checksum(page: bytes) -> bytes:
    """Return the checksum of an Ogg page: zlib's CRC-32 with the bits reversed, in and out."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "big").translate(_MIRRORED)
