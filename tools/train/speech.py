"""Clean speech: folders of recordings, and free speech synthesisers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from scipy.ndimage import uniform_filter
from scipy.signal import ShortTimeFFT, resample_poly
from scipy.signal.windows import hann

from .pool import SAMPLE_RATE, Clip

SUFFIXES = {".flac", ".ogg", ".wav", ".opus", ".mp3"}
LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+$")
ESPEAK_LANGUAGES = "en-us en-gb en-gb-scotland de fr es it pl pt-br nl sv ru hi tr el id".split()
ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 Alex Alicia Andrea Andy "
    "Annie antonio aunty belinda benjamin david ed edward Gene Henrique Hugo linda Lee Marco "
    "Michael miguel Mike paul pedro quincy steph steph2 steph3 victor zac shelby travis"
).split()
SUBJECTS = (
    "the old teacher|my younger sister|a tall stranger|nobody here|the whole village|our doctor|"
    "each of the children|the captain|that quiet farmer|her favourite uncle|the next visitor|"
    "two engineers|a patient nurse|everyone in the office|the shopkeeper|your neighbour|they|we|"
    "the judge|a hungry fox|some musicians|the third witness|this machine|the north wind"
).split("|")
VERBS = (
    "carried|has never seen|will bring|forgot|was looking for|measured|bought|could not find|"
    "painted|is thinking about|left behind|had to choose|remembers|usually washes|threw away|"
    "promised to repair|opened|would rather keep|just noticed|should have checked|sold|mixed"
).split("|")
OBJECTS = (
    "a large box of oranges|the yellow umbrella|seventeen letters|a cup of strong tea|the bridge|"
    "five hundred sheep|the broken window|fresh bread and cheese|an unusual question|the long road|"
    "his grandfather's watch|a pair of shoes|the smallest island|some juicy peaches|the red engine|"
    "those photographs|half of the money|a very thin book|the garden fence|a piece of chalk|"
    "what the others wanted|zinc and copper|the weather report|a valuable vase|the first chapter"
).split("|")
ENDINGS = (
    "before the sun came up|on a cold Thursday in March|without saying a word|near the harbour|"
    "because it was raining|and laughed loudly|at a quarter past eight|for the second time|"
    "under the wooden stairs|if there is enough time|while the others slept|with great pleasure|"
    "as usual|in the big city|to save the journey|through the thick fog|although nobody asked|"
    "just above the treasure|so the boys joined in|until the church bells rang|, didn't they"
).split("|")


def noise_floor(audio: np.ndarray) -> float:
    """Measure how quiet a recording's quietest moments are.

    Parameters
    ----------
    audio : ndarray, shape (samples,)
        One recording at 16 kHz.

    Returns
    -------
    float
        Mean power of the quietest twentieth of its 32 ms frames over that of the loudest twentieth,
        dB: about -50 for a studio, -20 for a noisy take.
    """
    frames = audio[: len(audio) // 512 * 512].reshape(-1, 512).astype(np.float64)
    if len(frames) < 4:
        return 0.0
    # Digital silence tells nothing about the recording, nor DC about its noise.
    power = np.sort(frames.var(-1))
    power = power[power > 1e-10]
    if len(power) < 4:
        return 0.0
    count = max(1, len(power) // 20)
    return float(10 * np.log10(power[:count].mean() / power[-count:].mean()))


def read_audio(path: Path) -> np.ndarray:
    """Read a file as mono float32 at 16 kHz."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = audio.mean(1)
    if rate != SAMPLE_RATE:
        common = np.gcd(rate, SAMPLE_RATE)
        audio = resample_poly(audio, SAMPLE_RATE // common, rate // common).astype(np.float32)
    return audio


def audio_files(folder: Path) -> list[Path]:
    """List the audio files under a folder, sorted, so that every run has the same order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def opens(path: Path) -> bool:
    """Whether a file begins like a recording."""
    try:
        soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    return True


def read_folder(folder: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Read the recordings under a folder; damaged ones are named and left out."""
    left_out = 0
    for path in audio_files(folder):
        try:
            audio = read_audio(path)
            problem = "" if np.isfinite(audio).all() else "it contains NaN or infinity"
        except soundfile.LibsndfileError as error:
            problem = error.error_string
        if not problem:
            yield path, audio
            continue
        left_out += 1
        print(f"left out: {path}: {problem}", file=sys.stderr, flush=True)
    if left_out > 1:
        print(f"left out under {folder}: {left_out} recordings", file=sys.stderr, flush=True)


def recordings(folder: Path) -> Iterator[tuple[np.ndarray, Clip]]:
    """Read every recording under a folder that is not damaged.

    The talker is the first number of a LibriSpeech name, else the file itself. Steady noise is
    reduced in what is used for training.
    """
    for path, audio in read_folder(folder):
        audio = trim(audio)
        if len(audio) < SAMPLE_RATE // 3:
            continue
        match = LIBRISPEECH.match(path.stem)
        talker = match.group(1) if match else path.stem
        source = path.relative_to(folder).parts[0] if path.parent != folder else folder.name
        clip = Clip(0, 0, source, talker, noise_floor(audio))
        # Held-out recordings, for validation, stay as they are.
        yield audio if held_out(clip) else without_floor(audio), clip


def without_floor(audio: np.ndarray) -> np.ndarray:
    """Reduce a recording's steady noise by up to 20 dB: networks keep noise that targets contain.

    Spectral subtraction (Boll 1979) of the power in the quietest sixth of its frames, above 150 Hz:
    rumble below that may be most of the energy of a recording whose speech should stay as it is.

    Parameters
    ----------
    audio : ndarray, shape (samples,), float32
        One recording at 16 kHz.

    Returns
    -------
    ndarray, same shape and dtype
    """
    size, hop = 512, 128
    if len(audio) < 8 * size:
        return audio
    transform = ShortTimeFFT(hann(size, sym=False), hop, SAMPLE_RATE)
    spectrum = transform.stft(audio)
    power = uniform_filter(np.square(np.abs(spectrum)), (3, 5))
    # The quietest sixth of noise smoothed like this lies below three fifths of its mean power.
    floor = 1.7 * np.quantile(power, 1 / 6, axis=1, keepdims=True)
    gain = np.sqrt(np.maximum(1 - 2 * floor / (power + 1e-20), 0.01))
    gain[: 150 * size // SAMPLE_RATE] = 1.0
    return transform.istft(spectrum * gain, k1=len(audio)).astype(np.float32)


def trim(audio: np.ndarray, margin: int = 1600) -> np.ndarray:
    """Cut both ends where they are 45 dB below the peak, except for ``margin`` samples."""
    loud = np.flatnonzero(np.abs(audio) > 10 ** (-45 / 20) * np.abs(audio).max(initial=1e-9))
    if not len(loud):
        return audio[:0]
    return audio[max(0, loud[0] - margin) : loud[-1] + margin]


def held_out(clip: Clip) -> bool:
    """Whether a talker is held out for validation: one in sixteen, by name, on every machine."""
    return zlib.crc32(clip.talker.encode()) % 16 == 0


def sentences(rng: np.random.Generator) -> str:
    """Make six random sentences."""
    picked = (
        f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(ENDINGS)}"
        for _ in range(6)
    )
    return ". ".join(text[0].upper() + text[1:] for text in picked) + "."


def festival_voices() -> list[str]:
    """Name the festival voices installed here."""
    folders = Path("/usr/share/festival/voices").glob("*/*")
    return sorted(path.name for path in folders if path.is_dir())


def synthetic(seconds: float, seed: int) -> Iterator[tuple[np.ndarray, Clip]]:
    """Make speech with those of the programs that are installed.

    Parameters
    ----------
    seconds : float
        How much to make; half of it by festival and flite, half by espeak-ng.
    seed : int
        Chooses texts, voices, rates and pitches.
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"voices")])
    jobs: list[tuple[str, str, list[str], str]] = []
    natural = [("festival", voice) for voice in festival_voices()] if _has("text2wave") else []
    if _has("flite"):
        natural += [("flite", voice) for voice in ("awb", "kal16", "rms", "slt")]
    # A sentence lasts about three seconds, and a job has six.
    half = max(1, int(seconds / 2 / 18))
    for index in range(half if natural else 0):
        program, voice = natural[index % len(natural)]
        jobs.append((program, voice, [], sentences(rng)))
    for _ in range(half if _has("espeak-ng") else 0):
        voice = f"{rng.choice(ESPEAK_LANGUAGES)}+{rng.choice(ESPEAK_VARIANTS)}"
        options = ["-p", str(rng.integers(15, 85)), "-s", str(rng.integers(120, 210))]
        jobs.append(("espeak", voice, options, sentences(rng)))
    with ThreadPoolExecutor(2) as workers:
        for (program, voice, *_), audio in zip(jobs, workers.map(_say, jobs), strict=True):
            if audio is not None and len(audio) > SAMPLE_RATE:
                yield audio, Clip(0, 0, program, f"{program}-{voice}", noise_floor(audio))


def programs() -> list[str]:
    """Name the installed programs that make speech."""
    return [name for name in ("text2wave", "flite", "espeak-ng") if _has(name)]


def _has(program: str) -> bool:
    return shutil.which(program) is not None


def _say(job: tuple[str, str, list[str], str]) -> np.ndarray | None:
    """Run one program; None when it fails, as a voice without its lexicon does."""
    program, voice, options, text = job
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.wav"
        commands = {
            "festival": ["text2wave", "-eval", f"(voice_{voice})", "-o", str(out)],
            "flite": ["flite", "-voice", voice, "-t", text, "-o", str(out)],
            "espeak": ["espeak-ng", "-v", voice, *options, "-w", str(out), text],
        }
        try:
            subprocess.run(
                commands[program],
                input=text if program == "festival" else None,
                text=True,
                capture_output=True,
                timeout=60,
                check=True,
            )
            audio = trim(read_audio(out))
        except (subprocess.SubprocessError, OSError, soundfile.LibsndfileError):
            return None
    # Programs differ by 20 dB in level; mixing sets the level anyway.
    peak = np.abs(audio).max(initial=0.0)
    return 0.5 * audio / peak if peak > 0 else None
