"""Simulated rooms: early reflections of a shoebox and a diffuse tail with faster treble decay."""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfilt

from .pool import SAMPLE_RATE, in_processes

LENGTH = 9_600
POSITIONS = 4
SPEED_OF_SOUND = 343.0


def make_rooms(count: int, seed: int) -> np.ndarray:
    """Draw impulse responses of many rooms, several sources in each.

    Returns
    -------
    ndarray, shape (rooms, positions, samples), float32
        Unit energy; the direct sound is the first strong tap. The first position is usually
        the nearest.
    """
    return np.stack([*in_processes(_room, [[seed, k] for k in range(count)])])


def _room(seed: list[int]) -> np.ndarray:
    """Draw one room with `POSITIONS` sources and one microphone."""
    rng = np.random.default_rng(seed)
    size = np.array([rng.uniform(2.5, 10), rng.uniform(2.5, 8), rng.uniform(2.2, 4)])
    volume, surface = size.prod(), 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    t60 = float(np.exp(rng.uniform(np.log(0.12), np.log(0.9))))
    absorption = min(0.95, 0.161 * volume / (surface * t60))
    reflection = np.sqrt(1 - absorption)
    treble = rng.uniform(0.35, 0.95)
    microphone = rng.uniform(0.15, 0.85, 3) * size
    responses = []
    for position in range(POSITIONS):
        # The talker is usually near the microphone; noise is anywhere.
        reach = np.exp(rng.uniform(np.log(0.25), np.log(2.5))) if position == 0 else 10.0
        source = rng.uniform(0.05, 0.95, 3) * size
        away = source - microphone
        source = microphone + away * min(1.0, reach / np.linalg.norm(away))
        early = _early(rng, size, source, microphone, reflection)
        late = _late(rng, t60, treble)
        # Far field energy of a room with this absorption, against the direct sound at one metre.
        late *= np.sqrt(16 * np.pi * (1 - absorption) / (surface * absorption) / np.sum(late**2))
        both = early + 4 * np.pi * 0.08 * late
        both[:12] = early[:12]
        responses.append(both / np.sqrt(np.sum(both**2)))
    return np.stack(responses).astype(np.float32)


def _early(
    rng: np.random.Generator,
    size: np.ndarray,
    source: np.ndarray,
    microphone: np.ndarray,
    reflection: float,
) -> np.ndarray:
    """Return direct sound, at sample 8, and reflections of up to three walls."""
    orders = np.arange(-2, 3)
    images, bounces = [], []
    for axis in range(3):
        even = orders % 2 == 0
        images.append(orders * size[axis] + np.where(even, source[axis], size[axis] - source[axis]))
        bounces.append(np.abs(orders))
    grid = np.meshgrid(*images, indexing="ij")
    distance = np.sqrt(sum((g - m) ** 2 for g, m in zip(grid, microphone, strict=True)))
    walls = sum(np.meshgrid(*bounces, indexing="ij"))
    keep = walls <= 3
    distance, walls = distance[keep], walls[keep]
    direct = distance.min()
    delays = 8 + (distance - direct) / SPEED_OF_SOUND * SAMPLE_RATE
    jitter = np.where(walls > 0, rng.uniform(0.6, 1.1, len(walls)), 1.0)
    gains = reflection**walls * jitter / np.maximum(distance, 0.1)
    out = np.zeros(LENGTH)
    whole = delays.astype(int)
    part = delays - whole
    inside = whole < LENGTH - 1
    np.add.at(out, whole[inside], (gains * (1 - part))[inside])
    np.add.at(out, whole[inside] + 1, (gains * part)[inside])
    return out


def _late(rng: np.random.Generator, t60: float, treble: float) -> np.ndarray:
    """Return noise that decays, faster in higher bands, and starts after the first reflections."""
    t = np.arange(LENGTH) / SAMPLE_RATE
    noise = rng.normal(size=LENGTH)
    out = np.zeros(LENGTH)
    edges = [60, 250, 1000, 3000, 7900]
    for band, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        decay = t60 * treble**band
        part = sosfilt(butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), noise)
        out += part * np.exp(-6.91 * t / decay)
    onset = 1 - np.exp(-t / rng.uniform(0.002, 0.015))
    return out * onset
