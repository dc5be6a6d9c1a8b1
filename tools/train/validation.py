"""A varied set for validation: held-out talkers, with new rooms and noises.

Street, white, pink and half of the dishes come from the families that training draws from, with
other seeds; the guitar, the end of the kitchen and the babblers are not heard in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

from npfsn.terminal import number

from . import instruments, noise
from .mix import TRAINED_ON, faded, limit, open_voices, reverberate, unit_speech, vary
from .pool import SAMPLE_RATE, Pool
from .rooms import make_rooms
from .speech import read_folder

NOISES = ("dishes", "babble", "guitar", "street", "white", "pink")
SNRS = (0, 5, 10, 15)


def build(
    pools: Path, out: Path, noise_folders: list[Path], count: int = 60, seed: int = 77
) -> int:
    """Write pairs for ``tools.evaluate``.

    Parameters
    ----------
    pools : Path
        Pools of training; only its held-out talkers are used, in the babble too.
    noise_folders : list of Path
        Recordings whose end, not used for training (`TRAINED_ON`), is the noise of every other
        pair with dishes.

    Returns
    -------
    int
        Number of pairs.

    Raises
    ------
    ValueError
        No talker is held out, or no recording of noise can be used.
    """
    name = "real.npy" if (pools / "real.json").exists() else "synthetic.npy"
    pool = open_voices(pools / name, validation=True)
    rooms = make_rooms(40, seed)
    ends = [audio for folder in noise_folders for _, audio in read_folder(folder)]
    ends = [audio[int(TRAINED_ON * len(audio)) :] for audio in ends]
    if noise_folders and not ends:
        raise ValueError("no recording of --noise can be used")
    sources = sorted({clip.source for clip in pool.clips})
    if not sources:
        raise ValueError(f"no talker is held out under {pools}: one in sixteen is, by name")
    for folder in ("clean", "noisy"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        kind, snr = NOISES[index % len(NOISES)], SNRS[index // len(NOISES) % len(SNRS)]
        source = sources[(index + index // len(NOISES)) % len(sources)]
        speech, talker = _speech(rng, pool, source)
        background = _noise(rng, kind, len(speech), pool, ends if index // len(NOISES) % 2 else [])
        if rng.random() < 0.6:
            room = rooms[rng.integers(len(rooms))]
            speech = reverberate(speech, room[0])
            background = reverberate(background, room[1])
        speech = unit_speech(speech) * 10 ** (rng.uniform(-32, -18) / 20)
        gain = np.sqrt(np.mean(speech**2) / np.mean(background**2)) * 10 ** (-snr / 20)
        noisy, speech = limit(speech + gain * background, speech)
        file = f"{source}-{talker[:8]}-{index:02d}_{kind}_snr{snr}.wav"
        soundfile.write(out / "clean" / file, speech, SAMPLE_RATE, "FLOAT")
        soundfile.write(out / "noisy" / file, noisy, SAMPLE_RATE, "FLOAT")
    return count


def _speech(rng: np.random.Generator, pool: Pool, source: str) -> tuple[np.ndarray, str]:
    """Return four to six seconds of one source, unchanged; short takes are concatenated."""
    clips = [clip for clip in pool.clips if clip.source == source]
    first = clips[rng.integers(len(clips))]
    clip, parts, length = first, [], 0
    while length < 4 * SAMPLE_RATE:
        part = faded(pool.read(clip, 0, 6 * SAMPLE_RATE))
        parts += [part, np.zeros(int(rng.uniform(0.1, 0.5) * SAMPLE_RATE), np.float32)]
        length += len(part) + len(parts[-1])
        clip = clips[rng.integers(len(clips))]
    return np.concatenate(parts)[: 7 * SAMPLE_RATE], first.talker


def _noise(
    rng: np.random.Generator, kind: str, samples: int, pool: Pool, recordings: list[np.ndarray]
) -> np.ndarray:
    if kind == "babble":
        return noise.babble(rng, pool, samples, vary)
    if kind == "dishes" and recordings:
        recording = recordings[rng.integers(len(recordings))]
        start = int(rng.integers(0, max(1, len(recording) - samples)))
        part = np.resize(recording[start:], samples)
        if part.any():  # silence has no gain that gives it an SNR
            return part
    if kind == "guitar" and instruments.available():
        seed = int(rng.integers(2**31))
        played = instruments.played(16, seed, (instruments.NYLON_GUITAR,))
        return np.resize(next(iter(played))[0], samples)
    return noise.FAMILIES[kind][1](rng, samples)


def main(arguments: list[str] | None = None) -> None:
    """Write the validation pairs of a training's pools."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.validation", description="Write pairs for tools.evaluate."
    )
    parser.add_argument("--pools", type=Path, required=True, help="the pools of a training")
    parser.add_argument("--out", type=Path, required=True, help="folder for clean/ and noisy/")
    parser.add_argument(
        "--noise", type=Path, action="append", default=[], help="a folder of recorded noise"
    )
    count = number(int, 1, 1 << 31, "a whole number from 1 up")
    parser.add_argument("--count", type=count, default=60, help="how many pairs (default: 60)")
    options = parser.parse_args(arguments)
    try:
        if not any(options.pools.glob("*.npy")):
            raise ValueError(f"there are no pools under {options.pools}: tools.train makes them")
        made = build(options.pools, options.out, options.noise, options.count)
    except (OSError, ValueError) as error:
        raise SystemExit(f"tools.train.validation: {error}") from None
    print(made, "pairs in", options.out)


if __name__ == "__main__":
    main()
