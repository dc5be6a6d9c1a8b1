"""Pools: many clips in one memory-mapped file, so that mixing never waits for a decoder."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from npfsn.output import complete_or_absent

SAMPLE_RATE = 16_000
FULL_SCALE = 32_767
# Fewer jobs than this take less time than starting processes.
FEW = 200

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], few: int = FEW
) -> Iterator[Result]:
    """Run independent jobs on all cores; yield the results in order."""
    jobs = list(jobs)
    if len(jobs) < few or os.cpu_count() == 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as workers:
        yield from workers.map(function, jobs, chunksize=1 + len(jobs) // 500)


@dataclass(frozen=True)
class Clip:
    """One clip of a pool: its position, in samples, and its origin.

    Parameters
    ----------
    start, stop : int
        First sample and one past the last.
    source : str
        Folder or program it came from; for noise, the family.
    talker : str
        Who speaks; empty for noise.
    floor_db : float
        Level of the quietest moments relative to the loudest, dB (see `speech.noise_floor`).
    """

    start: int
    stop: int
    source: str
    talker: str = ""
    floor_db: float = 0.0


def read_list(path: Path) -> list[Clip]:
    """Read the list of a pool's clips.

    Raises
    ------
    ValueError
        It is damaged.
    """
    try:
        return [Clip(**row) for row in json.loads(path.read_text())]
    except (ValueError, TypeError):
        raise ValueError(f"{path} is no list of clips: delete it, and make it anew") from None


def write_list(path: Path, clips: list[Clip]) -> None:
    """Write the list of a pool's clips, with which the pool is complete."""
    with complete_or_absent(path, overwrite=True) as partial:
        partial.write_text(json.dumps([asdict(clip) for clip in clips]))


def read_array(path: Path) -> np.ndarray:
    """Map the array of a pool.

    Raises
    ------
    ValueError
        It is damaged.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        raise ValueError(f"{path} is damaged: delete it with its .json, and make it anew") from None


def made_of(path: Path) -> dict[str, Any] | None:
    """Read which options a pool (``.npy``) was made with, or None if nothing tells."""
    try:
        options = json.loads(path.with_suffix(".made-of.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return options if isinstance(options, dict) else None


def write_made_of(path: Path, options: dict[str, Any]) -> None:
    """Write beside a pool that is about to be made with which options; none fit any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path.with_suffix(".made-of.json"), overwrite=True) as partial:
        partial.write_text(json.dumps(options))


class Pool:
    """Clips of 16 kHz audio, read as float32 in [-1, 1]."""

    def __init__(self, samples: np.ndarray, clips: list[Clip]) -> None:
        self.samples = samples
        self.clips = clips

    def __reduce__(self) -> Any:
        # Pickled as a file name, so that other processes map the file and do not copy the samples.
        name = getattr(self.samples, "filename", None)
        return (Pool.load, (Path(name),), {"clips": self.clips}) if name else super().__reduce__()

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Open ``path`` (``.npy``, with its ``.json`` beside it) without reading it."""
        return cls(read_array(path), read_list(path.with_suffix(".json")))

    @staticmethod
    def write(path: Path, clips: Iterable[tuple[np.ndarray, Clip]]) -> None:
        """Write audio (float32, [-1, 1]) and its clips; ``start`` and ``stop`` are set here."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)  # that of an older pool of this name
        parts, placed, at = [], [], 0
        for audio, clip in clips:
            part = np.round(np.clip(audio, -1.0, 1.0) * FULL_SCALE).astype(np.int16)
            parts.append(part)
            placed.append(replace(clip, start=at, stop=at + len(part)))
            at += len(part)
        if not parts:
            raise ValueError(f"no clips for {path}: nothing that it is made of can be used")
        try:
            np.save(path, np.concatenate(parts))
            write_list(path.with_suffix(".json"), placed)
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error}") from None

    def select(self, keep: Iterable[Clip]) -> Pool:
        """Return a pool of some of the clips, which shares the samples."""
        return Pool(self.samples, list(keep))

    def read(self, clip: Clip, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read one clip, or samples ``start:stop`` of it, as float32."""
        last = clip.stop if stop is None else min(clip.start + stop, clip.stop)
        return self.samples[clip.start + start : last].astype(np.float32) / FULL_SCALE

    @property
    def seconds(self) -> float:
        """Length of all clips together."""
        return sum(clip.stop - clip.start for clip in self.clips) / SAMPLE_RATE
