"""Training items: speech and noise in a room at some level, each item drawn from its own seed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, sosfilt

from npfsn.output import complete_or_absent

from . import instruments, noise, speech
from .pool import SAMPLE_RATE, Clip, Pool, made_of, read_array, write_made_of
from .rooms import make_rooms

Rng = np.random.Generator


#: Share of each noise recording that is used for training; the rest is for validation.
TRAINED_ON = 0.75


@dataclass(frozen=True)
class MixConfig:
    """How items are drawn; shares are probabilities.

    Parameters
    ----------
    snr_db : tuple of float
        Lowest and highest signal-to-noise ratio, drawn evenly between.
    level_db : tuple of float
        Lowest and highest level of the mixture, dBFS.
    synthetic : float
        Share of synthetic voices if there are recorded ones too.
    long_talkers : float
        Share of recorded speech from sources with whole sentences.
    floor_db : float
        Recordings with a noise floor above this are not used as targets.
    """

    snr_db: tuple[float, float] = (-5.0, 20.0)
    level_db: tuple[float, float] = (-45.0, -14.0)
    synthetic: float = 0.2
    long_talkers: float = 0.55
    floor_db: float = -30.0
    clean: float = 0.07
    noise_only: float = 0.04
    silent: float = 0.01
    room: float = 0.6
    babble: float = 0.2
    folder_noise: float = 0.1
    two_noises: float = 0.3
    band_limit: float = 0.08
    clip: float = 0.03
    rumble: float = 0.1
    no_rumble: float = 0.25
    infrasound: float = 0.3
    hiss: float = 0.35


@dataclass(frozen=True)
class Item:
    """One item: microphone signal and target, both float32 ``[samples]``."""

    noisy: np.ndarray
    target: np.ndarray
    noise: str
    talker: str


class Mixer:
    """Draws items from pools.

    Parameters
    ----------
    recorded, synthetic : Pool or None
        Speech; one of them may be missing.
    noises : Pool
        Noise, synthetic and recorded.
    rooms : ndarray, shape (rooms, positions, samples)
        Impulse responses.
    seed : int
        The same seed, pools and numbers give the same item.
    config : MixConfig, optional
    """

    def __init__(
        self,
        recorded: Pool | None,
        synthetic: Pool | None,
        noises: Pool,
        rooms: np.ndarray,
        seed: int,
        config: MixConfig | None = None,
    ) -> None:
        self.config = config or MixConfig()
        self.noises = noises
        self.rooms = rooms
        self.seed = seed
        self.groups: list[tuple[float, Pool, list[Clip]]] = []
        share = self.config.synthetic if recorded and recorded.clips else 1.0
        if synthetic and synthetic.clips:
            self.groups.append((share, synthetic, synthetic.clips))
        if recorded and recorded.clips:
            quiet = [clip for clip in recorded.clips if clip.floor_db < self.config.floor_db]
            rest = 1.0 - (share if self.groups else 0.0)
            long = [clip for clip in quiet if clip.stop - clip.start > 5 * SAMPLE_RATE]
            short = [clip for clip in quiet if clip.stop - clip.start <= 5 * SAMPLE_RATE]
            part = self.config.long_talkers if long and short else float(bool(long))
            self.groups.append((rest * part, recorded, long))
            self.groups.append((rest * (1 - part), recorded, short))
        self.groups = [group for group in self.groups if group[0] > 0 and group[2]]
        self.folders: dict[str, list[Clip]] = {}
        for clip in noises.clips:
            if clip.source.startswith("folder-"):
                self.folders.setdefault(clip.source, []).append(clip)
        self.babble = [clip for clip in noises.clips if clip.source == "babble"]
        others = {*self.babble, *(clip for clips in self.folders.values() for clip in clips)}
        self.made = [clip for clip in noises.clips if clip not in others]

    def item(self, number: int, samples: int) -> Item:
        """Draw one item.

        Parameters
        ----------
        number : int
            Number of the item; with the seed it determines everything but the length.
        samples : int
            Its length.
        """
        rng = np.random.default_rng([self.seed, number])
        config = self.config
        kind = rng.random()
        silence = np.zeros(samples, np.float32)
        if kind < config.silent:
            return Item(silence, silence, "silent", "")
        response = None
        if rng.random() < config.room:
            response = self.rooms[rng.integers(len(self.rooms))]
        level = 10 ** (rng.uniform(*config.level_db) / 20)
        if kind < config.silent + config.noise_only:
            background, name = self.background(rng, samples, response)
            return Item(limit(background * level, background)[0], silence, name, "")
        target, talker = self.speech(rng, samples)
        if response is not None:
            target = reverberate(target, response[0])
        target = unit_speech(target)
        if rng.random() < config.rumble:
            # Recordings called clean contain rumble of rooms and microphones, too. It stays in the
            # target, or such talkers would come out damaged.
            top = rng.uniform(50, 130)
            rumble = noise.bandpass(noise.shaped(rng, samples, rng.uniform(-6, 0)), 45, top, 4)
            target = target + noise.unit(rumble) * 10 ** (rng.uniform(-30, -10) / 20)
        # Below 30 Hz nothing is speech or audible: traffic, wind, handling, offsets, often louder
        # than all else. The target is freed of it, even where it was recorded with the speech.
        heard, target = target, without_infrasound(target)
        if rng.random() < config.infrasound:
            heard = heard + noise.drift(rng, samples) * 10 ** (rng.uniform(-30, 6) / 20)
        if kind < config.silent + config.noise_only + config.clean:
            noisy, target = limit((heard + hiss(rng, samples, (-70, -30))) * level, target * level)
            return Item(noisy, target, "clean", talker)
        background, name = self.background(rng, samples, response)
        if rng.random() < config.no_rumble:
            background = noise.unit(noise.bandpass(background, rng.uniform(50, 150), 7900))
        noisy = heard + background * 10 ** (-rng.uniform(*config.snr_db) / 20)
        if rng.random() < config.hiss:
            noisy = noisy + hiss(rng, samples, (-45, -12))
        if rng.random() < config.band_limit:
            noisy, target = band_limit(rng, noisy, target)
        noisy, target = limit(noisy * level, target * level)
        if rng.random() < config.clip:
            ceiling = np.abs(noisy).max() * rng.uniform(0.2, 0.7)
            noisy = np.clip(noisy, -ceiling, ceiling)
        return Item(noisy, target, name, talker)

    def speech(self, rng: Rng, samples: int) -> tuple[np.ndarray, str]:
        """Return one talker with pauses, varied, dry, at the level of the recording."""
        shares = np.array([share for share, _, _ in self.groups])
        _, pool, clips = self.groups[rng.choice(len(shares), p=shares / shares.sum())]
        out = np.zeros(samples, np.float32)
        clip = clips[rng.integers(len(clips))]
        talker = clip.talker
        style = Voice.draw(rng)
        at = int(rng.uniform(0, 0.8) * SAMPLE_RATE) if rng.random() < 0.5 else 0
        while at < samples - SAMPLE_RATE // 4:
            need = int((samples - at) * style.speed) + 512
            length = clip.stop - clip.start
            offset = int(rng.integers(0, max(1, length - need)))
            part = style.apply(pool.read(clip, offset, offset + need))
            part = faded(part)[: samples - at]
            out[at : at + len(part)] = part
            at += len(part) + int(rng.exponential(0.25) * SAMPLE_RATE)
            clip = clips[rng.integers(len(clips))]
        return out, talker

    def background(
        self, rng: Rng, samples: int, response: np.ndarray | None
    ) -> tuple[np.ndarray, str]:
        """Return one noise or two, varied, in the room, at unit power."""
        out, names = np.zeros(samples, np.float32), []
        for number in range(1 + (rng.random() < self.config.two_noises)):
            kind = rng.random()
            clips = self.made
            if self.babble and kind < self.config.babble:
                clips = self.babble
            elif self.folders and kind > 1 - self.config.folder_noise:
                clips = self.folders[rng.choice(list(self.folders))]
            clip = clips[rng.integers(len(clips))]
            names.append(clip.source)
            # As much as the fastest playback can need.
            need = int(1.7 * samples) + 2_048
            start = int(rng.integers(0, max(1, clip.stop - clip.start - need)))
            part = vary(rng, self.noises.read(clip, start, start + need), clip.source != "babble")
            part = cut(rng, part, samples)
            if response is not None:
                part = reverberate(part, response[rng.integers(1, len(response))])
            part = noise.unit(part)
            out = out + part * (1.0 if number == 0 else 10 ** (rng.uniform(-12, 0) / 20))
        return noise.unit(out), "+".join(names)


@dataclass(frozen=True)
class Voice:
    """A variation of recordings, by resampling and equalising, that is the same within an item."""

    speed: float
    gains_db: np.ndarray

    @classmethod
    def draw(cls, rng: Rng, strong: bool = False) -> Voice:
        """Draw a variation, stronger if `strong`, for noise."""
        spread = 1.6 if strong else 1.25
        speed = float(np.exp(rng.uniform(-np.log(spread), np.log(spread))))
        if rng.random() < 0.25:
            speed = 1.0
        tilt = rng.uniform(-1, 1) * (4.0 if strong else 2.0) * np.linspace(-4, 3, 8)
        bumps = rng.normal(0, 4.0 if strong else 2.0, 8)
        plain = 0.0 if rng.random() < 0.2 else 1.0
        return cls(speed, plain * (tilt + bumps))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Play ``x`` faster by ``speed`` and equalise it, both in one transform."""
        size = next_fast_len(len(x) + 512, real=True)
        wanted = int(round(size / self.speed)) // 2 * 2
        spectrum = rfft(x, size)
        bins = wanted // 2 + 1
        moved = np.zeros(bins, spectrum.dtype)
        shared = min(bins, len(spectrum))
        moved[:shared] = spectrum[:shared]
        octaves = np.log2(np.maximum(np.arange(bins) * (SAMPLE_RATE / wanted), 40.0) / 1000)
        gain_db = np.interp(octaves, np.linspace(-4, 3, 8), self.gains_db)
        out = irfft(moved * 10 ** (gain_db / 20).astype(np.float32), wanted) * (wanted / size)
        return out[: int(len(x) / self.speed)].astype(np.float32)


def vary(rng: Rng, x: np.ndarray, strong: bool = False) -> np.ndarray:
    """Apply a random variation to a recording; if `strong`, for noise, it may also be reversed."""
    if strong and rng.random() < 0.3:
        x = x[::-1]
    return Voice.draw(rng, strong).apply(x)


def cut(rng: Rng, x: np.ndarray, samples: int) -> np.ndarray:
    """Cut ``samples`` of a noise at a random offset, looped with a short cross-fade if needed."""
    overlap = 800
    while len(x) < samples + overlap:
        ramp = np.linspace(0, 1, overlap, dtype=np.float32)
        seam = x[-overlap:] * (1 - ramp) + x[:overlap] * ramp
        x = np.concatenate([x[:-overlap], seam, x[overlap:]])
    start = int(rng.integers(0, len(x) - samples))
    return x[start : start + samples]


def faded(x: np.ndarray, edge: int = 80) -> np.ndarray:
    """Fade 5 ms in and out, so that a cut is not a click."""
    if len(x) > 2 * edge:
        ramp = np.linspace(0, 1, edge, dtype=np.float32)
        x = x.copy()
        x[:edge] *= ramp
        x[-edge:] *= ramp[::-1]
    return x


def reverberate(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve a signal with a room's response, keeping its length."""
    return fftconvolve(x, response)[: len(x)]


def unit_speech(x: np.ndarray) -> np.ndarray:
    """Scale speech to unit power over the frames that contain speech."""
    frames = x[: len(x) // 256 * 256].reshape(-1, 256)
    power = np.square(frames).mean(-1)
    active = power[power > 1e-3 * power.max(initial=0.0)]
    mean = float(active.mean()) if len(active) else 0.0
    return x / np.float32(np.sqrt(mean)) if mean > 1e-12 else x


def hiss(rng: Rng, samples: int, level_db: tuple[float, float]) -> np.ndarray:
    """Draw the steady noise of microphones and converters, at a level relative to unit speech."""
    level = np.float32(10 ** (rng.uniform(*level_db) / 20))
    return noise.shaped(rng, samples, rng.uniform(-4, 3)) * level


def without_infrasound(x: np.ndarray) -> np.ndarray:
    """Remove what is below 30 Hz, with a slope from 20 to 40 Hz and zero phase."""
    size = next_fast_len(len(x) + SAMPLE_RATE // 4, real=True)
    spectrum = rfft(x, size)
    lowest = np.arange(40 * size // SAMPLE_RATE)
    slope = np.clip(lowest * (SAMPLE_RATE / size) / 20 - 1, 0, 1)
    spectrum[: len(lowest)] *= (0.5 - 0.5 * np.cos(np.pi * slope)).astype(np.float32)
    return irfft(spectrum, size)[: len(x)].astype(np.float32)


def limit(noisy: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale both down together if the mixture would exceed full scale."""
    scale = np.float32(min(1.0, 0.99 / max(float(np.abs(noisy).max()), 1e-9)))
    return (noisy * scale).astype(np.float32), (target * scale).astype(np.float32)


def band_limit(rng: Rng, noisy: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limit both to the band of a telephone or a cheap microphone."""
    low, high = rng.uniform(40, 350), rng.uniform(3000, 7500)
    sos = butter(int(rng.integers(1, 5)), [low, high], "bandpass", fs=SAMPLE_RATE, output="sos")
    return sosfilt(sos, noisy).astype(np.float32), sosfilt(sos, target).astype(np.float32)


def build_pools(
    folder: Path,
    speech_folders: list[Path],
    noise_folders: list[Path],
    seed: int,
    synthetic_seconds: float,
    noise_seconds: float,
    rooms: int,
) -> None:
    """Make all pools for mixing under ``folder``; those made with the same options are kept.

    Raises
    ------
    ValueError
        A pool was made with other options, its list is damaged, there are too few talkers, or no
        recording can be used.
    OSError
        A pool cannot be written.
    """
    real, voices = folder / "real.npy", folder / "synthetic.npy"
    noises, responses = folder / "noise.npy", folder / "rooms.npy"
    carried = folder / "carried.npy"
    recorded_speech = {"speech": [_contents(path) for path in speech_folders]}
    made_speech = {"synthetic-seconds": synthetic_seconds, "seed": seed}
    options = {
        real: recorded_speech,
        voices: made_speech,
        noises: {
            "noise": [_contents(path) for path in noise_folders],
            "noise-seconds": noise_seconds,
            "seed": seed,
            # Babble is made of it, of recordings if there are any.
            **(recorded_speech if speech_folders else made_speech),
        },
        responses: {"rooms": rooms, "seed": seed},
    }
    _check_kept(options)

    def begin(path: Path) -> None:
        print(f"making {path} ...", file=sys.stderr, flush=True)
        write_made_of(path, options[path])

    if speech_folders and not _complete(real):
        begin(real)
        Pool.write(real, (row for path in speech_folders for row in speech.recordings(path)))
    if synthetic_seconds and not speech.programs():
        if not (_complete(real) or _complete(voices)):
            raise ValueError("no speech: none of festival, flite and espeak-ng, and no recordings")
        print("no synthetic speech: none of festival, flite and espeak-ng is there", flush=True)
    elif synthetic_seconds and not _complete(voices):
        begin(voices)
        Pool.write(voices, speech.synthetic(synthetic_seconds, seed))
    load_voices(folder, validation=True)  # some must be held out
    trained_on, synthesised = load_voices(folder, validation=False)
    if not _complete(noises):
        begin(noises)
        recorded = [row for path in noise_folders for row in noise.recorded(path, until=TRAINED_ON)]
        if noise_folders and not recorded:
            raise ValueError(f"no recording of --noise can be used for {noises}")
        rows = [*noise.made(noise_seconds, seed), *recorded]
        talkers = trained_on if trained_on and trained_on.clips else synthesised
        rows += noise.babbles(noise_seconds / 4, seed, talkers, vary)
        rows += instruments.played(noise_seconds / 4, seed)
        if carried.exists():  # see `travel`
            pool = Pool.load(carried)
            rows += [(pool.read(clip), clip) for clip in pool.clips]
        Pool.write(noises, rows)
    if not _complete(responses):
        begin(responses)
        made = make_rooms(rooms, seed)
        # There is no list with which it would be complete.
        with complete_or_absent(responses, overwrite=True) as partial, partial.open("wb") as file:
            np.save(file, made)


def _complete(path: Path) -> bool:
    """Whether a pool is there; rooms have no list."""
    return (path if path.stem == "rooms" else path.with_suffix(".json")).exists()


def _contents(folder: Path) -> str:
    """Describe a folder of recordings, so that another one, or more in it, are noticed."""
    files = speech.audio_files(folder)
    sizes = [path.stat().st_size if path.exists() else 0 for path in files]  # 0: a broken link
    return f"{folder.resolve()}: {len(sizes)} files, {sum(sizes)} bytes"


def _check_kept(options: dict[Path, dict[str, Any]]) -> None:
    """Refuse pools that are damaged or were made with other options, before any work."""
    reasons: dict[str, list[str]] = {}
    for path, now in options.items():
        if not _complete(path):
            continue
        (read_array if path.stem == "rooms" else Pool.load)(path)  # refuses what is damaged
        then = made_of(path)
        if then is None:
            reason = "nothing tells the options (an older version made it)"
            reasons.setdefault(reason, []).append(str(path))
        elif changed := [f"--{name}" for name, value in then.items() if now.get(name) != value]:
            reasons.setdefault(f"other {' and '.join(changed)}", []).append(str(path))
    if reasons:
        found = "; ".join(f"{' and '.join(paths)}: {why}" for why, paths in reasons.items())
        raise ValueError(
            f"pools are not of these options: {found}; delete them with their .json, to have them "
            "made anew, or give another --work"
        )


def open_voices(path: Path, validation: bool) -> Pool:
    """Open a pool of speech without the talkers held out, or with them alone."""
    pool = Pool.load(path)
    return pool.select(clip for clip in pool.clips if speech.held_out(clip) == validation)


def load_voices(
    folder: Path, validation: bool, config: MixConfig | None = None
) -> tuple[Pool | None, Pool | None]:
    """Open the pools of recorded and of synthetic speech, with the talkers held out or the others.

    Raises
    ------
    ValueError
        There are none.
    """

    def voices(name: str) -> Pool | None:
        path = folder / name
        return open_voices(path, validation) if _complete(path) else None

    real, synthetic = voices("real.npy"), voices("synthetic.npy")
    floor_db = (config or MixConfig()).floor_db
    quiet = real is not None and any(clip.floor_db < floor_db for clip in real.clips)
    if not quiet and not (synthetic and synthetic.clips):
        use = "validation" if validation else "training"
        raise ValueError(
            f"no talker for {use} under {folder}: one in sixteen is held out, by name, and "
            f"recordings whose noise is above {floor_db:g} dB are not used; give more"
        )
    return real, synthetic


def load_mixer(
    folder: Path, seed: int, config: MixConfig | None = None, validation: bool = False
) -> Mixer:
    """Open the pools of a folder; talkers held out are in one or the other, never both."""
    real, synthetic = load_voices(folder, validation, config)
    return Mixer(
        real,
        synthetic,
        Pool.load(folder / "noise.npy"),
        read_array(folder / "rooms.npy"),
        seed,
        config,
    )
