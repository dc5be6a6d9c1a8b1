"""Enhance sound files: rate, channels, bit depth, level and length are kept, writing is atomic.

A file is read, enhanced and written in blocks, so memory does not grow with its length. The one
exception is a model whose norm needs the whole signal, which holds the whole file in memory.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import chunks, machine_code
from .aligned import AlignedStream
from .containers import check_encoder, target_format
from .errors import AudioError
from .intact import bytes_of
from .options import (
    Precision,
    Progress,
    check_precision,
    check_progress,
    dry_share,
    horizon_frames,
    whole_rate,
)
from .output import complete_or_absent, is_folder
from .report import FileReport
from .sink import Sink, unwritable
from .source import Source, open_source
from .weights import Model

StrPath = str | os.PathLike[str]


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

    Channels are enhanced one by one. A signal at another rate than the model's is resampled there
    and back, which limits it to the model's band. NaN and infinite samples become zero and are
    counted in the report.

    Parameters
    ----------
    src, dst : path
        `dst` appears under its name only when it is complete. Missing folders are made.
    model : path, Model or None
        None: the built-in weights.
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
        If `src` cannot be read, is damaged, is written to meanwhile or has an unsupported rate; if
        `dst` exists, is `src`, cannot be written or has a suffix of no known container.
    ModelError, NormError
        If the model is damaged or the norm unknown.
    TypeError, ValueError
        If `src` or `dst` is not a path, `model` neither a path nor a Model, `progress` not a
        function, `atten_lim_db` not a number of dB from 0 up, `norm_horizon` not a number of
        seconds from one hop up, or the precision unknown.

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
    from .weights import load_model

    dry_share(atten_lim_db)  # refuse wrong arguments before opening files
    check_precision(precision)
    options = {"norm": norm, "precision": precision, "norm_horizon": norm_horizon}
    for name, path in (("src", src), ("dst", dst)):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{name} is {path!r}: expected the path of a sound file")
        if os.fspath(path) in ("", b""):
            raise AudioError(f"{name} is empty: expected the path of a sound file")
    check_progress(progress)
    named, src, dst = dst, Path(src), Path(dst)
    lost: BaseException | None = None
    with open_source(src) as source:
        sound = source.file
        _check_destination(src, named, overwrite)
        container, subtype, endian = target_format(sound, src, dst)
        check_encoder(sound, subtype, dst)
        try:
            whole_rate(sound.samplerate)
        except AudioError as error:
            raise AudioError(f"{src}: {error}") from None
        loaded = load_model(model)  # once for all channels
        config = loaded.config.with_norm(norm)  # or refuse it
        horizon_frames(norm_horizon, config.sample_rate, config.hop_length)
        _make_folder(dst)
        with bytes_of(src) as file:
            where = file, sound.format, os.fstat(file.fileno()).st_size
            notes = chunks.notes(*where)
            tags = sound.copy_metadata() | chunks.tags(*where)
        try:
            with (
                complete_or_absent(dst, overwrite) as partial,
                contextlib.closing(
                    Sink(partial, dst, sound, container, subtype, endian, tags, notes)
                ) as sink,
            ):
                try:
                    ready = _run(source, sink, loaded, options, atten_lim_db, progress)
                except BaseException as error:
                    lost = error
                    raise
                sink.finish(source.n_frames)
        except OSError as error:
            if error is lost:  # from `progress`, for instance, not from writing
                raise
            if isinstance(error, FileExistsError):
                raise _exists(dst) from None
            raise unwritable(dst, error) from error
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


def _working_time() -> float:
    """Read a clock, s, that stops while kernels compile, which offline norms may do later, too."""
    return time.perf_counter() - machine_code.seconds_compiling()


def _run(
    source: Source,
    sink: Sink,
    model: Model,
    options: dict[str, Any],
    atten_lim_db: float | None,
    progress: Progress | None,
) -> float:
    """Enhance `source` into `sink`; return the time of the first sample."""
    from .enhancer import Enhancer

    config = model.config.with_norm(options["norm"])
    channels, rate = source.file.channels, source.file.samplerate
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
    source: Source, sink: Sink, model: Model, options: dict[str, Any], progress: Progress | None
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
        told = _of_channel(progress, c, channels)
        signal[:, c] = enhance(signal[:, c], rate, model, **options, progress=told)
    for start in range(0, len(signal), source.step):
        sink.write(list(signal[start : start + source.step].T))
    return ready


def _of_channel(progress: Progress | None, channel: int, n_channel: int) -> Progress | None:
    """Return the progress of one channel, as a part of the whole."""
    if progress is None:
        return None

    def tell(done: float, total: float) -> None:
        part = done / total if total else 1.0
        progress(total * ((channel + part) / n_channel), total)  # in the end exactly the total

    return tell


def _check_destination(src: Path, named: StrPath, overwrite: bool) -> None:
    """Refuse to replace the source, a folder, or another file without `overwrite`."""
    dst = Path(named)
    try:
        if "\0" in os.fspath(dst):
            raise ValueError("no name may hold a null character")
        if dst.exists() and os.path.samefile(src, dst):
            raise AudioError(
                f"{dst} is the input itself: choose another folder or another name for the output"
            )
        if dst.is_dir():
            raise AudioError(f"cannot write {dst}: there is a folder of this name")
        if is_folder(named):
            raise AudioError(f"cannot write {named}: only names of folders end so")
        if not overwrite and os.path.lexists(dst):
            raise _exists(dst)
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise unwritable(dst, error) from error


def _make_folder(dst: Path) -> None:
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise AudioError(f"cannot write {dst}: {dst.parent} is a file, not a folder") from None
    except OSError as error:
        raise unwritable(dst, error) from error


def _exists(dst: Path) -> AudioError:
    return AudioError(
        f"{dst} exists: choose another name or folder, or overwrite it (overwrite=True, --force)"
    )
