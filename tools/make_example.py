"""Make `examples/noisy.wav`: four seconds of synthetic speech in noise, the same bytes every time.

The voice is a formant synthesiser: glottal pulses whose pitch falls over each phrase, and fricative
noise, through resonators that glide from sound to sound. It says roughly "hello, this is a noisy
room". No recording is involved, and so no licence.

    python -m tools.make_example                  # examples/noisy.wav
    python -m tools.make_example --clean clean.wav --snr 0 noisy.wav
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile as sf

from npfsn.terminal import number
from tools.results import result_file

try:
    from scipy.signal import butter, sosfilt
except ModuleNotFoundError:
    raise SystemExit("tools.make_example needs SciPy: pip install -e '.[test]'") from None

SAMPLE_RATE = 16000
SEED = 20
SNR_DB = 5.0
PEAK = 0.5  # of the clean speech

GLIDE = 0.045  # seconds in which one sound turns into the next

Signal = npt.NDArray[np.float64]


class Sound(NamedTuple):
    """One speech sound.

    Attributes
    ----------
    f1, f2, f3 : float
        Formants in Hz.
    voice, breath, hiss : float
        Strength of the glottis, of noise through the formants, and of noise past them.
    hiss_hz : float
        Centre of the hissing noise.
    """

    f1: float
    f2: float
    f3: float
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 5000.0


SOUNDS = {
    "-": Sound(500, 1500, 2500),
    "h": Sound(520, 1750, 2500, breath=0.25),
    "e": Sound(550, 1770, 2490, voice=1.0),
    "l": Sound(360, 1050, 2750, voice=0.55),
    "o": Sound(500, 900, 2400, voice=1.0),
    "u": Sound(330, 950, 2250, voice=0.8),
    "D": Sound(300, 1400, 2600, voice=0.4, hiss=0.02, hiss_hz=5600),
    "i": Sound(400, 1950, 2570, voice=0.9),
    "s": Sound(400, 1700, 2600, hiss=0.10, hiss_hz=5600),
    "z": Sound(300, 1700, 2600, voice=0.35, hiss=0.05, hiss_hz=5600),
    "@": Sound(500, 1450, 2450, voice=0.7),
    "n": Sound(280, 1500, 2450, voice=0.5),
    "O": Sound(570, 880, 2430, voice=1.0),
    "y": Sound(290, 2250, 2950, voice=0.85),
    "r": Sound(350, 1150, 1550, voice=0.6),
    "U": Sound(310, 880, 2250, voice=0.9),
    "m": Sound(270, 1150, 2150, voice=0.5),
}

# (sounds with their seconds, pitch in Hz at the start and at the end)
PHRASES: list[tuple[list[tuple[str, float]], float, float]] = [
    ([("-", 0.30)], 120, 120),
    ([("h", 0.08), ("e", 0.11), ("l", 0.08), ("o", 0.14), ("u", 0.12)], 138, 104),
    ([("-", 0.38)], 120, 120),
    (
        [("D", 0.06), ("i", 0.09), ("s", 0.12), ("i", 0.10), ("z", 0.09), ("@", 0.08)]
        + [("n", 0.09), ("O", 0.14), ("i", 0.10), ("z", 0.10), ("y", 0.16)]
        + [("r", 0.10), ("U", 0.22), ("m", 0.16)],
        132,
        92,
    ),
    ([("-", 0.34)], 120, 120),
    ([("h", 0.07), ("e", 0.10), ("l", 0.08), ("o", 0.16), ("u", 0.20)], 150, 88),
    ([("-", 0.23)], 120, 120),
]


def speech(rng: np.random.Generator) -> Signal:
    """Synthesise the clean voice.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    float64 array, shape (N,), values within `PEAK`
    """
    tracks, pitch = _tracks()
    n = len(pitch)
    glottis = _glottis(pitch, rng)
    noise = rng.standard_normal(n)
    # [N] each, smooth: steps would click.
    f1, f2, f3, voice, breath, hiss, hiss_hz = tracks.T

    out = glottis * voice + noise * breath
    formants = ((f1, 70.0), (f2, 90.0), (f3, 130.0), (3400.0, 220.0), (4300.0, 300.0))
    for hz, width in (*formants, (5400.0, 500.0), (6700.0, 700.0)):
        out = _resonate(out, hz, width)
    out += 2.0 * hiss * _resonate(noise, hiss_hz, 1800.0)
    return out * (PEAK / np.abs(out).max())


def _tracks() -> tuple[Signal, Signal]:
    """Return the tracks over time: smoothed targets per sample [N, 7], and pitch [N] in Hz."""
    rows, pitch = [], []
    for sounds, first, last in PHRASES:
        total = sum(seconds for _, seconds in sounds)
        pitch.append(np.linspace(first, last, round(total * SAMPLE_RATE)))
        lengths = np.diff(np.rint(np.cumsum([0.0, *(s for _, s in sounds)]) * SAMPLE_RATE))
        for (name, _), length in zip(sounds, lengths, strict=True):
            rows.append(np.tile(np.asarray(SOUNDS[name], float), (int(length), 1)))
    tracks = np.concatenate(rows)
    window = np.hanning(round(GLIDE * SAMPLE_RATE))
    window /= window.sum()
    padded = np.pad(tracks, ((len(window) // 2, (len(window) - 1) // 2), (0, 0)), "edge")
    smooth = [np.convolve(padded[:, k], window, "valid") for k in range(tracks.shape[1])]
    return np.stack(smooth, axis=1), np.concatenate(pitch)[: len(tracks)]


def _glottis(pitch: Signal, rng: np.random.Generator) -> Signal:
    """Make glottal pulses that open slowly and close fast, a little irregular as human ones are."""
    wobble = sosfilt(butter(2, 12.0, fs=SAMPLE_RATE, output="sos"), rng.standard_normal(len(pitch)))
    phase = np.cumsum(pitch * (1.0 + 0.6 * wobble)) / SAMPLE_RATE
    within = phase % 1.0
    flow = np.where(
        within < 0.55,
        0.5 - 0.5 * np.cos(np.pi * within / 0.55),
        np.where(within < 0.75, np.cos(np.pi / 2 * (within - 0.55) / 0.2), 0.0),
    )
    shimmer = 1.0 + 0.06 * rng.standard_normal(int(phase[-1]) + 2)
    pulses = np.diff(flow * shimmer[phase.astype(int)], prepend=0.0)  # lips radiate the slope
    return pulses / pulses.std()


def _resonate(x: Signal, hz: Signal | float, width: float) -> Signal:
    """Filter by a two-pole resonator with unit gain at 0 Hz whose frequency may glide."""
    # Coefficients change with every sample: steps, however small, would click.
    radius = np.exp(-np.pi * width / SAMPLE_RATE)
    turn = np.cos(2.0 * np.pi * np.broadcast_to(hz, x.shape) / SAMPLE_RATE)
    a1 = (2.0 * radius * turn).tolist()
    a2 = radius * radius
    y, y1, y2 = [], 0.0, 0.0
    for value, b1 in zip(x.tolist(), a1, strict=True):
        y1, y2 = (1.0 - b1 + a2) * value + b1 * y1 - a2 * y2, y1
        y.append(y1)
    return np.array(y)


def room_noise(n: int, rng: np.random.Generator) -> Signal:
    """Make the noise of a room with a fan: falling spectrum, a hum, slow swells, some clatter.

    Parameters
    ----------
    n : int
        Samples.
    rng : numpy.random.Generator

    Returns
    -------
    float64 array, shape (n,), standard deviation 1
    """
    t = np.arange(n) / SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1.0 / SAMPLE_RATE)
    fan = np.fft.irfft(spectrum / (1.0 + (hz / 350.0)) ** 1.3, n)
    fan *= 1.0 + 0.25 * np.sin(2 * np.pi * 0.4 * t + 1.0)
    hum = sum(np.sin(2 * np.pi * 100.0 * k * t + k) / k for k in (1, 2, 3, 5))
    clatter = np.zeros(n)
    for at in rng.uniform(0.0, t[-1], 9):
        since = t - at
        ring = np.sin(2 * np.pi * rng.uniform(1200, 4200) * since) * np.exp(-since / 0.03)
        clatter += np.where(since >= 0.0, rng.uniform(0.5, 1.5) * ring, 0.0)
    noise = fan / fan.std() + 0.25 * hum + 1.2 * clatter
    return noise / noise.std()


def make(snr_db: float = SNR_DB, seed: int = SEED) -> tuple[Signal, Signal]:
    """Make speech and the same speech in noise.

    Parameters
    ----------
    snr_db : float
        Power of the speech, pauses included, over that of the noise.
    seed : int

    Returns
    -------
    clean, noisy : float64 arrays, shape (N,)
    """
    rng = np.random.default_rng(seed)
    clean = speech(rng)
    noise = room_noise(len(clean), rng)
    noise *= clean.std() / 10.0 ** (snr_db / 20.0)
    noisy = clean + noise
    scale = min(1.0, 0.95 / np.abs(noisy).max())
    return clean * scale, noisy * scale


def main(argv: list[str] | None = None) -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_example",
        description="Make synthetic speech in noise, 16 kHz mono.",
    )
    default = Path(__file__).resolve().parent.parent / "examples" / "noisy.wav"
    parser.add_argument(
        "noisy", nargs="?", type=result_file, default=default, help="default: examples/noisy.wav"
    )
    parser.add_argument("--clean", type=result_file, help="also write the speech alone")
    decibels = number(float, -100.0, 100.0, "a number of decibels from -100 to 100")
    parser.add_argument(
        "--snr", type=decibels, default=SNR_DB, metavar="DB", help="default: %(default)g"
    )
    seed = number(int, 0, 1 << 31, "a whole number from 0 up")
    parser.add_argument("--seed", type=seed, default=SEED, help="default: %(default)s")
    args = parser.parse_args(argv)
    clean, noisy = make(args.snr, args.seed)
    for path, signal in ((args.noisy, noisy), (args.clean, clean)):
        if path is not None:
            sf.write(path, signal, SAMPLE_RATE, "PCM_16", format="WAV")
            print(path)


if __name__ == "__main__":
    main()
