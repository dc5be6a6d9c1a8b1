"""Enhance sound files: rate, channels, bit depth, level and length are kept, writing is atomic.

A file is read, enhanced and written in blocks, so memory does not grow with its length. The one
exception is a model whose norm needs the whole signal, which holds the whole file in memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soundfile as sf

from . import chunks, jit, mp3
from .aligned import AlignedStream
from .containers import (
    AUDIO_SUFFIXES,
    BITS,
    FOREIGN_SUFFIXES,
    LARGEST,
    RAW_SUFFIXES,
    check_encoder,
    target_format,
)
from .errors import AudioError
from .intact import bytes_of, check_intact, check_single
from .options import Precision, Progress, check_progress, dry_share, whole_rate
from .output import complete_or_absent
from .report import FileReport
from .samples import Samples, silence_nonfinite, to_steps

if TYPE_CHECKING:
    from .weights import Model

StrPath = str | os.PathLike[str]

#: Samples (frames x channels) per block: few enough for any machine's memory, and enough to make up
#: for the overhead of a block's matrix products.
BLOCK_SAMPLES = 1 << 16

# The tags of a CAF file, nine at most, share 16 KiB in libsndfile: nine of this length fit.
_TAG_BYTES = 1024


def enhance_file(
    src: StrPath,
    dst: StrPath,
    model: StrPath | Model | None = None,
    *,
    precision: Precision = "float32",
    norm: str | None = None,
    atten_lim_db: float | None = None,
    norm_horizon: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FileReport:
    """Enhance one sound file.

    Rate, channels, length, bit depth, container, level and tags (title, artist, comment, ...) are
    kept, and the output is aligned with the input. Time code and markers (`bext`, `iXML`, `cue`,
    ...) are kept from WAV or RF64 to either, and from AIFF to AIFF. A `dst` whose suffix differs
    from that of `src` names another container; bit depth and tags are kept where that container has
    them.
    Channels are enhanced one by one. A signal at another rate than the model's is resampled and
    resampled back, which limits the band to the model's. NaN and infinite samples become zero, and
    are counted in the report.

    Parameters
    ----------
    src, dst : path
        `dst` appears under its name only when it is complete. Missing folders are made.
    model : path, Model or None
        None: the weights that come with npfsn.
    precision, norm, atten_lim_db, norm_horizon
        As in `Enhancer`. A model with an offline norm is run on the whole signal: memory then
        grows with the length of the file. Offline norms ignore `norm_horizon`.
    overwrite : bool
        Replace `dst` if it exists.
    progress : callable
        Called after each block, or with an offline norm now and then, with the seconds of audio
        done and the seconds in total.

    Returns
    -------
    FileReport

    Raises
    ------
    AudioError
        If `src` cannot be read, is damaged, is written to meanwhile or has a rate that is not
        supported, if `dst` exists, is `src`, cannot be written or has a suffix of no known
        container.
    ModelError, NormError
        If the model is damaged or the norm unknown.
    TypeError, ValueError
        If `src` or `dst` is no path, `model` neither path nor Model, `progress` no function,
        `atten_lim_db` no number of dB from 0 up, `norm_horizon` no number of seconds from one hop
        up, or the precision unknown.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, soundfile, npfsn
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> soundfile.write(folder / "noisy.wav", np.zeros(32000), 16000)
    >>> report = npfsn.enhance_file(folder / "noisy.wav", folder / "clean.wav", atten_lim_db=12)
    >>> report.seconds, soundfile.info(folder / "clean.wav").frames
    (2.0, 32000)
    """
    started = time.perf_counter()
    dry_share(atten_lim_db)  # refuse wrong arguments before opening files
    options = {"norm": norm, "precision": precision, "norm_horizon": norm_horizon}
    for name, path in (("src", src), ("dst", dst)):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{name} is {path!r}: expected the path of a sound file")
        if os.fspath(path) in ("", b""):
            raise AudioError(f"{name} is empty: expected the path of a sound file")
    check_progress(progress)
    src, dst = Path(src), Path(dst)
    lost: BaseException | None = None
    with _open_source(src) as source:
        sound = source.file
        _check_destination(src, dst, overwrite)
        container, subtype, endian = target_format(sound, src, dst)
        check_encoder(sound, subtype, dst)
        _make_folder(dst)
        with bytes_of(src) as file:
            where = file, sound.format, os.fstat(file.fileno()).st_size
            notes = chunks.notes(*where)
            tags = sound.copy_metadata() | chunks.tags(*where)
        try:
            with (
                complete_or_absent(dst, overwrite) as partial,
                contextlib.closing(
                    _Sink(partial, dst, sound, container, subtype, endian, tags, notes)
                ) as sink,
            ):
                try:
                    ready = _run(source, sink, model, options, atten_lim_db, progress)
                except BaseException as error:
                    lost = error
                    raise
                sink.finish(source.n_frames)
        except OSError as error:
            if error is lost:  # from `progress`, for instance, not from writing
                raise
            if isinstance(error, FileExistsError):
                raise _exists(dst) from None
            raise _unwritable(dst, error) from error
    wall = _working_time() - ready
    return FileReport(
        samples=source.n_frames,
        seconds=source.n_frames / sound.samplerate,
        channels=sound.channels,
        sample_rate=sound.samplerate,
        n_clipped=sink.n_clipped,
        n_nonfinite=source.n_nonfinite,
        wall_seconds=wall,
        compile_seconds=time.perf_counter() - started - wall,
        peak=source.peak,
        tags_left_out=tuple(sink.tags_left_out),
    )


@dataclass
class _Source:
    """A sound file that is read once, in blocks, and statistics of the samples read so far.

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
    """

    path: Path
    found: os.stat_result
    file: sf.SoundFile
    n_frames: int = 0
    n_nonfinite: int = 0
    peak: float = 0.0

    def blocks(self) -> Iterator[Samples]:
        """Yield blocks, float32 [frames, channels]."""
        src, file = self.path, self.file
        step = max(1, BLOCK_SAMPLES // file.channels)
        # As floats, libsndfile 1.2.2 loses frames of PAF files of 24 bits, unless they have 1, 2,
        # 4 or 8 channels.
        as_integers = (file.format, file.subtype) == ("PAF", "PCM_24")
        while True:
            try:
                block = file.read(step, dtype="int32" if as_integers else "float32", always_2d=True)
            except (sf.SoundFileError, RuntimeError, AssertionError) as error:
                first, last = (
                    min(at, file.frames) / file.samplerate
                    for at in (self.n_frames, self.n_frames + step)
                )
                raise AudioError(
                    f"{src} is damaged between {first:.1f} and {last:.1f} s ({_reason(error)})"
                ) from error
            if not len(block):
                break
            if as_integers:
                block = block.astype(np.float32) / np.float32(1 << 31)
            self.n_frames += len(block)
            self.n_nonfinite += silence_nonfinite(block)
            self.peak = max(self.peak, float(block.max()), -float(block.min()))
            yield block
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


def _working_time() -> float:
    """Read a clock, s, that stops while kernels compile, which offline norms may do later, too."""
    return time.perf_counter() - jit.seconds_compiling()


def _run(
    source: _Source,
    sink: _Sink,
    model: StrPath | Model | None,
    options: dict[str, Any],
    atten_lim_db: float | None,
    progress: Progress | None,
) -> float:
    """Enhance `source` into `sink`; return the time of the first sample."""
    from .enhancer import Enhancer
    from .weights import load_model

    model = load_model(model)  # loaded once for all channels
    config = model.config.with_norm(options["norm"])
    channels, rate = source.file.channels, source.file.samplerate
    try:
        whole_rate(rate)
    except AudioError as error:
        raise AudioError(f"{source.path}: {error}") from None
    if not config.streams:
        try:
            limited = {**options, "atten_lim_db": atten_lim_db}
            return _run_whole(source, sink, model, limited, progress)
        except MemoryError:
            gigabytes = source.file.frames * channels * 4 / 1e9
            raise AudioError(
                f"{source.path} is too long for this machine's memory: an offline norm needs the "
                f"whole signal at once, {gigabytes:.1f} GB and more; choose a causal norm or cut "
                "the file"
            ) from None

    enhancers = [Enhancer(model, **options, on_nonfinite="zero") for _ in range(channels)]
    streams = [AlignedStream(each, rate, atten_lim_db=atten_lim_db) for each in enhancers]
    ready = _working_time()
    for block in source.blocks():
        sink.write([s.process(block[:, c]) for c, s in enumerate(streams)])
        if progress is not None:
            progress(source.n_frames / rate, max(source.file.frames, source.n_frames) / rate)
    sink.write([stream.flush() for stream in streams])
    return ready


def _run_whole(
    source: _Source, sink: _Sink, model: Model, options: dict[str, Any], progress: Progress | None
) -> float:
    """Do the same as `_run` with the whole signal in memory, for offline norms."""
    from .whole import enhance

    # Check the options and load what is needed before reading the file.
    channels, rate = source.file.channels, source.file.samplerate
    enhance(np.zeros(0, np.float32), rate, model, **options)
    ready = _working_time()
    blocks = list(source.blocks())
    signal = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    blocks.clear()
    # One by one, and in place: a short file may have more channels than samples.
    for c in range(channels):
        signal[:, c] = enhance(
            np.ascontiguousarray(signal[:, c]),
            rate,
            model,
            **options,
            progress=_of_channel(progress, c, channels),
        )
    step = max(1, BLOCK_SAMPLES // channels)
    for start in range(0, len(signal), step):
        sink.write(list(signal[start : start + step].T))
    return ready


def _of_channel(progress: Progress | None, channel: int, n_channel: int) -> Progress | None:
    """Return the progress of one channel, as a part of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress((channel * total + done) / n_channel, total)


def _expected(src: Path) -> str:
    """Return a hint on what can be read or, for other formats, on how to convert them."""
    if src.suffix.lower() in RAW_SUFFIXES:
        return "samples without a header are for `npfsn stream`"
    if src.suffix.lower() in FOREIGN_SUFFIXES:
        words = ["ffmpeg", "-i", str(src), str(src.with_suffix(".wav"))]
        command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
        return f"convert it first, for instance with: {command}"
    if src.suffix.lower() in AUDIO_SUFFIXES:
        return "it is damaged, or of another kind than its name says"
    return "expected a format that libsndfile knows, such as WAV, FLAC, OGG, MP3 or AIFF"


@contextlib.contextmanager
def _open_source(src: Path) -> Iterator[_Source]:
    """Open a sound file, check it and yield it, or raise AudioError."""
    try:
        found = os.stat(src)
        if stat.S_ISREG(found.st_mode):
            with open(src, "rb"):  # soundfile calls every failure "System error"
                pass
    except OSError as error:
        raise AudioError(f"cannot read {src}: {error.strerror or error}") from error
    except ValueError as error:  # a null character in the name
        raise AudioError(f"cannot read {str(src)!r}: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"{src} is a folder: expected a sound file")
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"{src} is not a regular file: pipe raw samples to `npfsn stream`")
    if found.st_size == 0:
        raise AudioError(f"{src} is empty: expected a sound file, found 0 bytes")
    try:
        source = sf.SoundFile(_native(src))
    except (sf.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        check_single(src, found.st_size)
        raise AudioError(
            f"cannot read {src} as audio ({_reason(error)}): {_expected(src)}"
        ) from error
    with source, contextlib.ExitStack() as stack:
        if source.subtype == "MPEG_LAYER_III" and source.format == "MP3":
            try:  # not `bytes_of`, which would take the errors of callers for its own
                file = stack.enter_context(open(src, "rb"))
                view = mp3.with_frame_table(file)
            except OSError as error:
                raise AudioError(f"cannot read {src}: {error.strerror or error}") from error
            if view is not None:
                source = stack.enter_context(sf.SoundFile(view))
        check_intact(source, src, found.st_size)
        if source.subtype == "ALAC_32":  # libsndfile 1.2.2, even where it wrote the file itself
            raise AudioError(
                f"cannot read {src}: libsndfile decodes some ALAC of 32 bits wrongly; save it as "
                "WAV or in 24 bits first, with the program that made it"
            )
        yield _Source(src, found, source)


def _native(path: Path) -> str | bytes:
    """Return a path as libsndfile takes it; on POSIX also one that is not valid Unicode."""
    if str(path) == "-":  # libsndfile takes it for standard input or output
        path = Path.cwd() / path
    return str(path) if os.name == "nt" else os.fsencode(path)


def _reason(error: BaseException) -> str:
    """Return libsndfile's error message without the file name."""
    text = str(getattr(error, "error_string", error)).strip()
    if "does not exist" in text:  # the file does exist, but holds no MP3
        return "nothing that decodes"
    return text.rstrip(".") or type(error).__name__


def _check_destination(src: Path, dst: Path, overwrite: bool) -> None:
    """Refuse to replace the source, a folder, or another file without `overwrite`."""
    try:
        if "\0" in os.fspath(dst):
            raise ValueError("no name may hold a null character")
        if dst.exists() and os.path.samefile(src, dst):
            raise AudioError(
                f"{dst} is the input itself: choose another folder or another name for the output"
            )
        if dst.is_dir():
            raise AudioError(f"cannot write {dst}: there is a folder of this name")
        if not overwrite and os.path.lexists(dst):
            raise _exists(dst)
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise _unwritable(dst, error) from error


def _make_folder(dst: Path) -> None:
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise AudioError(f"cannot write {dst}: {dst.parent} is a file, not a folder") from None
    except OSError as error:
        raise _unwritable(dst, error) from error


def _exists(dst: Path) -> AudioError:
    return AudioError(
        f"{dst} exists: choose another name or folder, or overwrite it (overwrite=True, --force)"
    )


def _unwritable(dst: Path, error: BaseException) -> AudioError:
    reason = getattr(error, "strerror", None)
    if reason is None:
        reason = _reason(error)
        with contextlib.suppress(OSError, ValueError):  # soundfile only says "System error"
            limit = _file_size_limit()
            # What an encoder for Ogg does not report shows at the end.
            if limit is not None and re.search("System error|frames arrived", reason):
                reason = f"files of this process may not be larger than {limit} bytes (ulimit -f)"
            if not dst.parent.exists():
                reason = "its folder is gone"
            elif shutil.disk_usage(dst.parent).free < 1 << 16:
                reason = "no space left on the disk"
    return AudioError(f"cannot write {dst}: {reason}")


def _file_size_limit() -> int | None:
    """Return the limit on the size of files, bytes, or None if there is none."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _checksum(file: sf.SoundFile) -> int:
    """Return the CRC of all samples as 32-bit integers."""
    crc = 0
    for block in file.blocks(BLOCK_SAMPLES // file.channels, dtype="int32", always_2d=True):
        crc = zlib.crc32(block, crc)
    return crc


class _Sink:
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
        self._tags = [name for name, text in tags.items() if text and name != "software"]
        self._partial, self._dst = partial, dst
        self._rate = source.samplerate  # an XI file that is written names its own
        self._bits, self._largest = BITS.get(subtype), LARGEST.get(subtype)
        # Checksum of what is written, for a codec that damages some of it.
        self._crc = 0 if subtype.startswith("ALAC_") else None
        said = re.search(r"Channel Mask\s*:\s*0x([0-9A-Fa-f]+)", source.extra_info)
        self._channel_mask = None if said is None else int(said[1], 16)
        try:
            self._file = sf.SoundFile(
                _native(partial),
                "w",
                source.samplerate,
                source.channels,
                subtype,
                endian,
                container,
            )
        except (sf.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            if "System error" in _reason(error):  # soundfile's word for a full disk, among others
                partial.write_bytes(bytes(4096))
            raise AudioError(
                f"cannot write {dst} as {container} with {subtype} samples, channels: "
                f"{source.channels}, {source.samplerate} Hz ({_reason(error)}): choose another "
                "container, for instance with --format wav"
            ) from error
        # Tags come before the first sample: most containers have them in front. Left out are tags
        # that this container cannot hold, texts that make some containers fail, and those that
        # libsndfile would write into an MP3 in the wrong encoding.
        for name in self._tags:
            text = tags[name]
            fits = len(text.encode()) <= _TAG_BYTES and (container != "MP3" or text.isascii())
            readable = "\ufffd" not in text  # else the text was not UTF-8
            if fits and readable:
                with contextlib.suppress(sf.SoundFileError, RuntimeError):
                    setattr(self._file, name, text)

    def write(self, channels: list[Samples]) -> None:
        """Append one block, given channel by channel."""
        block = np.stack(channels, axis=1)  # [frames, channels]
        if not len(block):
            return
        data: npt.NDArray[Any] = block
        if self._bits is not None:
            data, n_clipped = to_steps(block, self._bits)
            self.n_clipped += n_clipped
        elif self._largest is not None:
            data = np.clip(block, -self._largest, self._largest)
            self.n_clipped += int(np.count_nonzero(data != block))
        if self._crc is not None:
            self._crc = zlib.crc32(data.data, self._crc)
        try:
            # Lossy encoders put what they are given on the stack: write little at a time.
            for start in range(0, len(data), 4096):
                self._file.write(data[start : start + 4096])
        except (sf.SoundFileError, RuntimeError, AssertionError, OSError) as error:
            raise _unwritable(self._dst, error) from error

    def finish(self, n_frames: int) -> None:
        """Close the file and check that all frames were written, at the rate of the input."""
        try:
            self._file.close()
            self._keep_channel_mask()
            self._keep_notes()
            with sf.SoundFile(_native(self._partial)) as written:
                n_written, rate = written.frames, written.samplerate
                # libsndfile also drops tags without a word, for which a container has no place.
                lost = [tag for tag in self._tags if not getattr(written, tag)]
                self.tags_left_out = lost + self.tags_left_out
                crc = None if self._crc is None else _checksum(written)
        except (sf.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
            if n_frames == 0:  # FLAC and MP3 cannot be empty, or libsndfile cannot read them
                raise AudioError(
                    f"cannot write {self._dst}: there is no sound in the input, and this container "
                    "cannot hold none; --format wav can"
                ) from error
            raise _unwritable(self._dst, error) from error
        # Some encoders (ALAC, Opus) do not report a full disk. More frames are fine: block codecs
        # pad the last block.
        if n_written < n_frames:
            raise _unwritable(
                self._dst, RuntimeError(f"only {n_written} of {n_frames} frames arrived")
            )
        # SDS stores the time between two samples in whole nanoseconds: nobody hears that.
        subtype = self._file.subtype
        if abs(rate - self._rate) > 2e-4 * self._rate:
            raise AudioError(
                f"cannot write {self._dst}: with {subtype} samples this container cannot hold "
                f"{self._rate} Hz, and would play at {rate} Hz: choose another, for instance with "
                "--format wav"
            )
        if crc != self._crc:
            raise AudioError(
                f"cannot write {self._dst}: libsndfile damages this sound as {subtype}: "
                "choose another container, for instance with --format wav"
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
