"""Music played by a sampled synthesiser, where one is installed: chords, picking, melodies."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .noise import CHORDS, SCALES, unit
from .pool import SAMPLE_RATE, Clip
from .speech import read_audio

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
TICKS = 480
CLIP_SECONDS = 16.0
NYLON_GUITAR = 24
# General MIDI programs. The nylon guitar is kept for validation.
PROGRAMS = (25, 25, 25, 26, 27, 28, 29, 32, 0, 0, 4, 6, 11, 12, 16, 21, 40, 42, 46, 56, 65, 73, 105)

Event = tuple[float, bytes]


def available() -> bool:
    """Whether the synthesiser and its sounds are installed."""
    return shutil.which("fluidsynth") is not None and SOUND_FONT.exists()


def played(
    seconds: float, seed: int, programs: tuple[int, ...] = PROGRAMS
) -> Iterator[tuple[np.ndarray, Clip]]:
    """Compose pieces and render them.

    Parameters
    ----------
    seconds : float
        Length of all clips together. Without a synthesiser there are none.
    programs : tuple of int
        General MIDI instruments to choose from.
    """
    for number in range(max(1, round(seconds / CLIP_SECONDS)) if available() else 0):
        rng = np.random.default_rng([seed, 2000, number])
        parts = [_part(rng, int(rng.choice(programs)), 0, CLIP_SECONDS)]
        if rng.random() < 0.3 and len(programs) > 1:
            parts.append(_part(rng, int(rng.choice(programs)), 1, CLIP_SECONDS))
        audio = _render([event for part in parts for event in part])
        samples = int(CLIP_SECONDS * SAMPLE_RATE)
        if len(audio) >= samples // 2:
            yield 0.1 * unit(audio[:samples]), Clip(0, 0, "instrument")


def _part(rng: np.random.Generator, program: int, channel: int, seconds: float) -> list[Event]:
    """Compose one instrument's part: strummed chords, broken chords or a melody."""
    events: list[Event] = [(0.0, bytes([0xC0 | channel, program]))]
    root = int(rng.integers(40, 57))
    scale = SCALES[rng.integers(len(SCALES))]
    beat = rng.uniform(0.12, 0.55)
    style = rng.integers(3)
    at = 0.0
    while at < seconds:
        degree = scale[rng.integers(len(scale))]
        tones = CHORDS[rng.integers(len(CHORDS))]
        notes = [root + degree + tone + 12 * octave for octave in (0, 1) for tone in tones][:6]
        for _ in range(int(rng.integers(3, 9))):
            loud = int(rng.integers(50, 120))
            if style == 0:
                picked, spread = notes if rng.random() < 0.6 else notes[::-1], 0.015
            elif style == 1:
                picked, spread = [notes[rng.integers(len(notes))]], 0.0
            else:
                picked, spread = [root + 12 + scale[rng.integers(len(scale))]], 0.0
            length = beat * rng.choice([1, 1, 2, 0.5])
            for index, note in enumerate(picked):
                start = at + index * spread
                events.append((start, bytes([0x90 | channel, note, loud])))
                events.append((start + length * 1.5, bytes([0x80 | channel, note, 0])))
            at += length
    return events


def _render(events: list[Event]) -> np.ndarray:
    """Render a MIDI file of one track at 120 beats a minute."""
    track, last = b"", 0
    # At the same time, instruments come first: a note sounds as the one it begins with.
    for when, message in sorted(events, key=lambda each: (each[0], each[1][0] < 0xC0, each[1])):
        tick = round(when * 2 * TICKS)
        track += _variable(tick - last) + message
        last = tick
    track += b"\x00\xff\x2f\x00"
    with tempfile.TemporaryDirectory() as folder:
        score, out = Path(folder) / "score.mid", Path(folder) / "out.wav"
        head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
        score.write_bytes(head + b"MTrk" + struct.pack(">I", len(track)) + track)
        command = ["fluidsynth", "-ni", "-g", "0.5", "-r", "48000", "-F", str(out)]
        command += [str(SOUND_FONT), str(score)]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        return read_audio(out)


def _variable(value: int) -> bytes:
    """Encode a number in MIDI's variable-length format."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | (value & 0x7F))
    return bytes(reversed(out))
