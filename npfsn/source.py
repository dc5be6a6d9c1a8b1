"""The sound file that is enhanced: opened, checked, and read once, in blocks."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from . import mp3
from .containers import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, RAW_SUFFIXES
from .errors import AudioError, in_shell
from .intact import bytes_of, check_intact, check_single, unreadable
from .samples import Samples, silence_nonfinite

#: Samples (frames x channels) per block: few enough for any machine's memory, and enough to make up
#: for the overhead of a block's matrix products.
BLOCK_SAMPLES = 1 << 16

#: soundfile's word for all that the operating system refuses.
SYSTEM_ERROR = "System error"


@dataclass
class Source:
    """A sound file that is read once, and statistics of the samples read so far.

    Attributes
    ----------
    path : Path
    found : os.stat_result
        Its status before it was opened.
    file : soundfile.SoundFile
    n_frames, n_nonfinite : int
        Frames, and samples that were not finite.
    peak : float
        Largest magnitude of a finite sample.
    view : mp3.Spliced, optional
        What `file` reads from, if that is not the file of this path.
    """

    path: Path
    found: os.stat_result
    file: sf.SoundFile
    n_frames: int = 0
    n_nonfinite: int = 0
    peak: float = 0.0
    view: mp3.Spliced | None = None

    @property
    def step(self) -> int:
        """Frames per block."""
        return max(1, BLOCK_SAMPLES // self.file.channels)

    def blocks(self) -> Iterator[Samples]:
        """Yield blocks, float32 [frames, channels]."""
        src, file, step = self.path, self.file, self.step
        # As floats, libsndfile 1.2.2 loses frames of PAF files of 24 bits, unless they have 1, 2,
        # 4 or 8 channels.
        as_integers = (file.format, file.subtype) == ("PAF", "PCM_24")
        while True:
            try:
                block = file.read(step, dtype="int32" if as_integers else "float32", always_2d=True)
            except (sf.SoundFileError, RuntimeError, AssertionError) as error:
                _check_view(src, self.view)
                first, last = (
                    min(at, file.frames) / file.samplerate
                    for at in (self.n_frames, self.n_frames + step)
                )
                reason = reason_of(error, file)
                raise AudioError(
                    f"{src} is damaged between {first:.1f} and {last:.1f} s ({reason})"
                ) from error
            if not len(block):
                break
            if as_integers:
                block = block.astype(np.float32) / np.float32(1 << 31)
            self.n_frames += len(block)
            self.n_nonfinite += silence_nonfinite(block)
            self.peak = max(self.peak, float(block.max()), -float(block.min()))
            yield block
        _check_view(src, self.view)
        self._check_unchanged()
        if self.n_frames < file.frames:
            raise AudioError(
                f"{src} is cut short: its header promises {file.frames} frames, "
                f"{self.n_frames} could be read; to enhance these, save the file anew with an "
                "audio editor first"
            )

    def _check_unchanged(self) -> None:
        """Raise AudioError for a file that was written to since it was opened."""
        src, found = self.path, self.found
        try:
            now = os.stat(src)
        except OSError:
            return  # deleted: what was opened could be read all the same
        if not os.path.samestat(now, found):
            return  # so it was if another file has taken the name
        if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise AudioError(
                f"{src} was changed while it was read: wait until nothing writes to it, and try "
                "again"
            )


@contextlib.contextmanager
def open_source(src: Path) -> Iterator[Source]:
    """Open a sound file, check it and yield it, or raise AudioError."""
    try:
        found = os.stat(src)
    except OSError as error:
        raise unreadable(src, error) from error
    except ValueError as error:  # a null character in the name
        raise AudioError(f"cannot read {str(src)!r}: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"{src} is a folder: expected a sound file")
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"{src} is not a regular file: pipe raw samples to `npfsn stream`")
    with bytes_of(src) as file:  # soundfile would call every failure to open it "System error"
        mp3.check_tags(src, file)
    if found.st_size == 0:
        raise AudioError(f"{src} is empty: expected a sound file, found 0 bytes")
    try:
        source = sf.SoundFile(native(src))
    except (sf.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        check_single(src, found.st_size)
        raise AudioError(
            f"cannot read {src} as audio ({reason_of(error)}): {_expected(src)}"
        ) from error
    view = None
    with source, contextlib.ExitStack() as stack:
        if source.subtype == "MPEG_LAYER_III" and source.format == "MP3":
            try:  # not `bytes_of`, which would take the errors of callers for its own
                file = stack.enter_context(open(src, "rb"))
                view = mp3.with_frame_table(file)
            except OSError as error:
                raise unreadable(src, error) from error
            if view is not None:
                try:
                    source = stack.enter_context(sf.SoundFile(view))
                except sf.SoundFileError:
                    _check_view(src, view)
                    raise
        check_intact(source, src, found.st_size)
        if source.subtype == "ALAC_32":  # libsndfile 1.2.2, even where it wrote the file itself
            raise AudioError(
                f"cannot read {src}: libsndfile decodes some ALAC of 32 bits wrongly; save it as "
                "WAV or in 24 bits first, with the program that made it"
            )
        if source.subtype.startswith("DWVW"):  # soundfile seeks in it, libsndfile cannot
            raise AudioError(
                f"cannot read {src}: DWVW cannot be read in blocks here; save it as WAV or as "
                "ordinary AIFF first, with the program that made it"
            )
        yield Source(src, found, source, view=view)


def _check_view(src: Path, view: mp3.Spliced | None) -> None:
    """Raise AudioError if a view of the file could not be read."""
    if view is not None and view.failure is not None:
        raise unreadable(src, view.failure) from view.failure


def _expected(src: Path) -> str:
    """Return a hint on what can be read or, for other formats, on how to convert them."""
    if src.suffix.lower() in RAW_SUFFIXES:
        return "samples without a header are for `npfsn stream`"
    if src.suffix.lower() in FOREIGN_SUFFIXES:
        words = ["ffmpeg", "-i", str(src), str(src.with_suffix(".wav"))]
        return f"convert it first, for instance with: {in_shell(words)}"
    if src.suffix.lower() in AUDIO_SUFFIXES:
        return "it is damaged, or of another kind than its name says"
    return "expected a format that libsndfile knows, such as WAV, FLAC, OGG, MP3 or AIFF"


def native(path: Path) -> str | bytes:
    """Return a path as libsndfile takes it; on POSIX also one that is not valid Unicode."""
    if str(path) == "-":  # libsndfile takes it for standard input or output
        path = Path.cwd() / path
    return str(path) if os.name == "nt" else os.fsencode(path)


def reason_of(error: BaseException, file: sf.SoundFile | None = None) -> str:
    """Return libsndfile's error message without the name of the file.

    Parameters
    ----------
    error : Exception
    file : SoundFile, optional
        The file, unless it could not be opened.
    """
    text = str(getattr(error, "error_string", error)).strip()
    if "does not exist" in text:  # the file does exist, but holds no MP3
        return "nothing that decodes"
    if "This is a bug in libsndfile" in text:  # not where the system fails to close a file
        return "the system failed to close it"
    if text.startswith(SYSTEM_ERROR):
        return _system_reason(file) or text.rstrip(".")
    return text.rstrip(".") or type(error).__name__


def _system_reason(file: sf.SoundFile | None) -> str:
    """Return what the operating system said, which libsndfile knows and soundfile does not tell."""
    with contextlib.suppress(Exception):  # soundfile has no public name for it
        handle = sf._ffi.NULL if file is None else file._file
        said = sf._ffi.string(sf._snd.sf_strerror(handle)).decode(errors="replace")
        before, found, reason = said.partition(f"{SYSTEM_ERROR} : ")
        if found and not before:
            return str(reason.strip().rstrip("."))
    return ""
