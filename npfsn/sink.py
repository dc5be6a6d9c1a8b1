"""The sound file that is written: under a temporary name, checked before it is given its own."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf

from . import chunks, mp3
from .containers import BITS, LARGEST
from .errors import AudioError
from .samples import Samples, to_steps
from .source import SYSTEM_ERROR, native, reason_of

# Samples of a block of an SDS file. libsndfile 1.2.2 writes the last one wrongly unless it is full,
# and reads none of a file of a single block.
_SDS_BLOCK = {"PCM_S8": 60, "PCM_16": 40, "PCM_24": 30}

# The tags of a CAF file, nine at most, share 16 KiB in libsndfile: nine of this length fit.
_TAG_BYTES = 1024

# libsndfile's number of `SYSTEM_ERROR`.
_SYSTEM_CODE = 2


class Sink:
    """The output file under its temporary name.

    Parameters
    ----------
    partial, dst : Path
        The temporary file, and the name to use in messages.
    source : soundfile.SoundFile
        The input: its rate, channels and loudspeakers are used.
    container, subtype, endian : str
        In soundfile's terms.
    tags : dict of str to str
        Those of the input.
    notes : list of Note
        Other chunks of the input to keep.
    """

    def __init__(
        self,
        partial: Path,
        dst: Path,
        source: sf.SoundFile,
        container: str,
        subtype: str,
        endian: str,
        tags: dict[str, str],
        notes: list[chunks.Note],
    ) -> None:
        self.n_clipped = 0
        self._notes = notes
        self.tags_left_out: list[str] = []
        # Without the program that wrote the input.
        self._tags = {name: text for name, text in tags.items() if text and name != "software"}
        self._partial, self._dst = partial, dst
        self._rate = source.samplerate  # an XI file that is written names its own
        self._bits, self._largest = BITS.get(subtype), LARGEST.get(subtype)
        said = re.search(r"Channel Mask\s*:\s*0x([0-9A-Fa-f]+)", source.extra_info)
        self._channel_mask = None if said is None else int(said[1], 16)
        try:
            self._file = sf.SoundFile(
                native(partial), "w", source.samplerate, source.channels, subtype, endian, container
            )
        except (sf.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, sf.LibsndfileError) and error.code == _SYSTEM_CODE:
                partial.write_bytes(bytes(4096))  # fails on a full disk
                if SYSTEM_ERROR not in reason_of(error):
                    raise unwritable(dst, error) from error
            raise AudioError(
                f"cannot write {dst} as {container} with {subtype} samples, channels: "
                f"{source.channels}, {source.samplerate} Hz ({reason_of(error)}): choose another "
                "container, for instance with --format wav"
            ) from error
        # Tags come before the first sample: most containers have them in front. Left out are tags
        # that this container cannot hold, texts that make some containers fail, and those that
        # libsndfile would write into an MP3 in the wrong encoding.
        for name, text in self._tags.items():
            fits = len(text.encode()) <= _TAG_BYTES and (container != "MP3" or text.isascii())
            readable = "\ufffd" not in text  # else the text was not UTF-8
            if fits and readable:
                with contextlib.suppress(sf.SoundFileError, RuntimeError):
                    setattr(self._file, name, text)

    def write(self, channels: list[Samples]) -> None:
        """Append one block, given channel by channel."""
        block = np.stack(channels, axis=1)  # [frames, channels]
        data: npt.NDArray[Any] = block
        if self._bits is not None:
            data, n_clipped = to_steps(block, self._bits)
            self.n_clipped += n_clipped
        elif self._largest is not None:
            data = np.clip(block, -self._largest, self._largest)
            self.n_clipped += int(np.count_nonzero(data != block))
        self._append(data)

    def _append(self, data: npt.NDArray[Any]) -> None:
        """Write steps or floats, [frames, channels]."""
        try:
            # Lossy encoders put what they are given on the stack: write little at a time.
            for start in range(0, len(data), 4096):
                self._file.write(data[start : start + 4096])
        except (sf.SoundFileError, RuntimeError, AssertionError, OSError) as error:
            raise unwritable(self._dst, error, self._file) from error

    def finish(self, n_frames: int) -> None:
        """Close the file and check that all frames were written, at the rate of the input."""
        if self._file.format == "SDS" and n_frames:
            block = _SDS_BLOCK[self._file.subtype]
            n_more = max(-n_frames % block, 2 * block - n_frames)
            self._append(np.zeros((n_more, 1), np.int32))
        try:
            self._file.close()
            self._keep_channel_mask()
            self._count_g711(n_frames)
            self._keep_notes()
            with sf.SoundFile(native(self._partial)) as written:
                rate, n_written = written.samplerate, written.frames
                cut_off = _is_cut_off(written, self._partial, n_frames)
                # libsndfile also drops tags without a word, for which a container has no place, or
                # cuts them off: of a date, some MP3 files hold the year.
                lost = [
                    name
                    for name, text in self._tags.items()
                    if len(_shown(getattr(written, name))) < len(_shown(text))
                ]
                self.tags_left_out = lost + self.tags_left_out
        except (sf.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
            if n_frames == 0:  # FLAC and MP3 cannot be empty, or libsndfile cannot read them
                raise AudioError(
                    f"cannot write {self._dst}: there is no sound in the input, and this container "
                    "cannot hold none; --format wav can"
                ) from error
            raise unwritable(self._dst, error) from error
        # Some encoders (Opus, FLAC, MP3) do not report a full disk. More frames are fine: block
        # codecs pad the last block.
        if n_written < n_frames or cut_off:
            said = "the last frames have not arrived"
            if n_written < n_frames:
                said = f"only {n_written} of {n_frames} frames arrived"
            raise unwritable(self._dst, RuntimeError(said))
        # SDS stores the time between two samples in whole nanoseconds: nobody hears that.
        if abs(rate - self._rate) > 2e-4 * self._rate:
            raise AudioError(
                f"cannot write {self._dst}: with {self._file.subtype} samples this container "
                f"cannot hold {self._rate} Hz, and would play at {rate} Hz: choose another, for "
                "instance with --format wav"
            )

    def _keep_channel_mask(self) -> None:
        """Copy the channel mask (loudspeaker positions) of the input, which soundfile does not."""
        if self._channel_mask is None:
            return
        with open(self._partial, "r+b") as file:
            head = file.read(512)
            at = head.find(b"fmt ") + 8  # after name and size
            if at >= 8 and head[at : at + 2] == b"\xfe\xff":  # WAVE_FORMAT_EXTENSIBLE
                file.seek(at + 20)
                file.write(self._channel_mask.to_bytes(4, "little"))

    def _count_g711(self, n_frames: int) -> None:
        """Correct the length of a VOC file with one channel of u-law or A-law.

        libsndfile 1.2.2 counts one byte too many: the zero that ends the file would be heard as a
        last sample close to full scale.
        """
        file = self._file
        if (file.format, file.channels) != ("VOC", 1) or file.subtype not in ("ULAW", "ALAW"):
            return
        with open(self._partial, "r+b") as header:
            header.seek(27)  # the length of the block: a header of 12 bytes and the samples
            if int.from_bytes(header.read(3), "little") == 12 + n_frames + 1:
                header.seek(27)
                header.write((12 + n_frames).to_bytes(3, "little"))

    def _keep_notes(self) -> None:
        """Append time code, markers and such of the input, if the output is of the same kind."""
        if self._notes:
            with open(self._partial, "r+b") as file:
                left = chunks.append(file, self._notes)
            self.tags_left_out += [note.kind for note in left]

    def close(self) -> None:
        """Close the file in any state: Windows cannot remove an open file."""
        with contextlib.suppress(sf.SoundFileError, RuntimeError, OSError):
            self._file.close()


def unwritable(dst: Path, error: BaseException, file: sf.SoundFile | None = None) -> AudioError:
    """Return what to say if `dst` cannot be written: the reason, as far as it can be told.

    Parameters
    ----------
    dst : Path
    error : Exception
    file : SoundFile, optional
        The file, if the error is of writing it.
    """
    reason = getattr(error, "strerror", None)
    if reason is None:
        reason = reason_of(error, file)
        with contextlib.suppress(OSError, ValueError):
            limit = _file_size_limit()
            # What an encoder for Ogg does not report shows at the end.
            vague = f"{SYSTEM_ERROR}|arrived|{re.escape(os.strerror(errno.EFBIG))}"
            if limit is not None and re.search(vague, reason):
                reason = f"files of this process may not be larger than {limit} bytes (ulimit -f)"
            if not dst.parent.exists():
                reason = "its folder is gone"
            elif shutil.disk_usage(dst.parent).free < 1 << 16:
                reason = "no space left on the disk"
    return AudioError(f"cannot write {dst}: {reason}")


def _is_cut_off(file: sf.SoundFile, path: Path, n_frames: int) -> bool:
    """Tell whether the last of `n_frames` frames are missing though the header counts them.

    That of a FLAC or MP3 file, or by some versions of libsndfile of an Ogg file, which lost its end
    on a full disk does not tell: it counts frames that are not there, or none.
    """
    if n_frames and file.format in ("FLAC", "OGG"):
        try:
            file.seek(n_frames - 1)
            return len(file.read(1)) == 0
        except (sf.SoundFileError, RuntimeError, AssertionError):
            return True
    if file.format == "MP3":  # libmpg123 prints errors when it seeks
        with open(path, "rb") as content:
            return mp3.is_shorter(content)
    return False


def _shown(tag: str) -> str:
    """Return a tag without what says nothing: a track number, "03", may come back as "3"."""
    return tag.strip().lstrip("0")


def _file_size_limit() -> int | None:
    """Return the limit on the size of files, bytes, or None if there is none."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
