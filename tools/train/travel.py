"""Pools as Ogg Vorbis, to train on a machine that they must be carried to.

    python -m tools.train.travel pack POOL.npy FOLDER --quality 0.4
    python -m tools.train.travel unpack FOLDER POOLS

A tenth of the size, in parts of ten minutes, so that all cores unpack. Noise that is not made by
code, packed with ``--source instrument --source folder --name carried``, becomes a part of the pool
of noise that the recipe makes where it is unpacked.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from .pool import (
    SAMPLE_RATE,
    Clip,
    Pool,
    in_processes,
    read_list,
    write_list,
    write_made_of,
)

PART_SECONDS = 600
# libsndfile's encoder copies each write to its stack.
BLOCK = 65_536


def pack(
    path: Path,
    folder: Path,
    quality: float,
    seconds: float | None = None,
    sources: tuple[str, ...] = ("",),
    name: str | None = None,
) -> None:
    """Write a pool's clips, or some of them, as ``NAME-000.ogg`` and so on, and ``NAME.json``.

    Parameters
    ----------
    quality : float
        Vorbis quality, 0 to 1; 0.4 is some 40 kbit/s.
    seconds : float, optional
        About how much to pack, spread evenly.
    sources : tuple of str
        Prefixes of the sources to pack.
    name : str, optional
        Name of the new pool; by default that of the old one.

    Raises
    ------
    ValueError
        There is nothing to pack.
    """
    pool, name = Pool.load(path), name or path.stem
    pool = pool.select(clip for clip in pool.clips if clip.source.startswith(sources))
    keep = 1.0 if seconds is None or not pool.clips else min(1.0, seconds / pool.seconds)
    clips = [clip for i, clip in enumerate(pool.clips) if int((i + 1) * keep) > int(i * keep)]
    if not clips:
        raise ValueError(f"no clip of {path} is of these sources, or within these seconds")
    folder.mkdir(parents=True, exist_ok=True)
    for old in _parts(folder, name):
        old.unlink()
    placed: list[Clip] = []
    part, parts, at = [], 0, 0
    for index, clip in enumerate(clips):
        audio = pool.read(clip)
        part.append(audio)
        placed.append(replace(clip, start=at, stop=at + len(audio)))
        at += len(audio)
        if sum(map(len, part)) >= PART_SECONDS * SAMPLE_RATE or index == len(clips) - 1:
            _write(folder / f"{name}-{parts:03d}.ogg", np.concatenate(part), quality)
            part, parts = [], parts + 1
    write_list(folder / f"{name}.json", placed)
    files = [folder / f"{name}.json", *_parts(folder, name)]
    size = sum(file.stat().st_size for file in files)
    print(f"{name}: {len(clips)} clips, {at / SAMPLE_RATE:.0f} s, {size} bytes")


def _parts(folder: Path, name: str) -> list[Path]:
    """List the parts of one packed pool: its name may begin another's."""
    return sorted(folder.glob(f"{name}-[0-9][0-9][0-9].ogg"))


def _write(path: Path, audio: np.ndarray, quality: float) -> None:
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, 1, "VORBIS", compression_level=1.0 - quality
    ) as file:
        for start in range(0, len(audio), BLOCK):
            file.write(audio[start : start + BLOCK])


def unpack(folder: Path, pools: Path) -> None:
    """Make pools of all that was packed into a folder, to be trained on with any options."""
    listings = sorted(folder.glob("*.json"))
    if not listings:
        raise ValueError(f"there are no packed pools under {folder}")
    for listing in listings:
        files = _parts(folder, listing.stem)
        audio = np.concatenate([*in_processes(_read, files, few=8)])
        clips = read_list(listing)
        if len(audio) != clips[-1].stop:
            raise ValueError(f"{listing}: {len(audio)} samples, not {clips[-1].stop}")
        path = pools / f"{listing.stem}.npy"
        write_made_of(path, {})
        Pool.write(path, ((audio[c.start : c.stop], c) for c in clips))


def _read(path: Path) -> np.ndarray:
    audio, _ = soundfile.read(path, dtype="float32")
    return audio


def main(arguments: list[str] | None = None) -> None:
    """Pack or unpack pools."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.travel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write a pool as files of Ogg Vorbis")
    packing.add_argument("pool", type=Path, help="the .npy of a pool")
    packing.add_argument("folder", type=Path, help="where the files go")
    packing.add_argument("--quality", type=float, default=0.4, help="0 to 1 (default: 0.4)")
    packing.add_argument("--seconds", type=float, help="about so many (default: all)")
    packing.add_argument(
        "--source", action="append", default=[], help="only clips whose source begins so"
    )
    packing.add_argument("--name", help="of the packed pool (default: as it is)")
    unpacking = commands.add_parser("unpack", help="make pools of what was packed")
    unpacking.add_argument("folder", type=Path, help="what `pack` wrote")
    unpacking.add_argument("pools", type=Path, help="folder of pools")
    options = parser.parse_args(arguments)
    try:
        if options.command == "pack":
            sources = tuple(options.source) or ("",)
            pack(options.pool, options.folder, options.quality, options.seconds, sources,
                 options.name)  # fmt: skip
        else:
            unpack(options.folder, options.pools)
    except (OSError, ValueError) as error:
        raise SystemExit(f"tools.train.travel: {error}") from None


if __name__ == "__main__":
    main()
