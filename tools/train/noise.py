"""Synthetic noise, in families; every function returns float32 of about unit power."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from .pool import SAMPLE_RATE, Clip, Pool, in_processes
from .speech import read_folder

CLIP_SECONDS = 8.0
RECORDED_CLIP_SECONDS = 15.0

Rng = np.random.Generator
Family = Callable[[Rng, int], np.ndarray]


def unit(x: np.ndarray) -> np.ndarray:
    """Scale to unit power; silence stays silence."""
    power = float(np.mean(np.square(x, dtype=np.float64)))
    return (x / np.sqrt(power)).astype(np.float32) if power > 1e-12 else x.astype(np.float32)


def shaped(rng: Rng, samples: int, slope_db: float, ripple_db: float = 0.0) -> np.ndarray:
    """Gaussian noise with ``slope_db`` per octave and a smooth random ripple."""
    bins = samples // 2 + 1
    freqs = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(freqs, 20.0) / 1000.0)
    gain_db = slope_db * octaves
    if ripple_db:
        knots = rng.normal(0.0, ripple_db, 14)
        gain_db = gain_db + np.interp(octaves, np.linspace(-5.7, 3.0, 14), knots)
    phase = rng.normal(size=bins) + 1j * rng.normal(size=bins)
    spectrum = phase * 10 ** (gain_db / 20) * (freqs > 15)
    return unit(np.fft.irfft(spectrum, samples))


def envelope(rng: Rng, samples: int, rate: float, depth_db: float) -> np.ndarray:
    """Gain that wanders smoothly ``rate`` times a second with a deviation of ``depth_db``."""
    count = max(4, int(samples / SAMPLE_RATE * rate) + 3)
    knots = rng.normal(0.0, depth_db, count)
    places = np.linspace(0, count - 1, samples)
    return (10 ** (np.interp(places, np.arange(count), knots) / 20)).astype(np.float32)


def drift(rng: Rng, samples: int) -> np.ndarray:
    """Offset and infrasound: what microphones, cables and cheap converters add below 40 Hz."""
    freqs = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    lowest, top = np.exp(rng.uniform(np.log(0.3), np.log(15))), rng.uniform(20, 38)
    gain = np.maximum(freqs, lowest) ** -rng.uniform(0, 2) / np.sqrt(1 + (freqs / top) ** 16)
    if lowest > 3:
        gain[freqs < lowest / 2] = 0.0
    spectrum = gain * (rng.normal(size=len(freqs)) + 1j * rng.normal(size=len(freqs)))
    out = unit(np.fft.irfft(spectrum, samples))
    if rng.random() < 0.3:
        out = out + np.float32(rng.choice([-1, 1]) * 10 ** (rng.uniform(-15, 20) / 20))
    return unit(out)


def bandpass(x: np.ndarray, low: float, high: float, order: int = 2) -> np.ndarray:
    """Butterworth band-pass between ``low`` and ``high`` hertz."""
    edges = [max(low, 10.0), min(high, 7900.0)]
    return sosfilt(butter(order, edges, "bandpass", fs=SAMPLE_RATE, output="sos"), x)


def scatter(
    rng: Rng, samples: int, rate: float, event: Callable[[Rng], np.ndarray], spread_db: float = 6.0
) -> np.ndarray:
    """Place events at random times, ``rate`` a second on average."""
    out = np.zeros(samples, np.float32)
    for _ in range(max(1, rng.poisson(rate * samples / SAMPLE_RATE))):
        sound = event(rng) * 10 ** (rng.normal(0.0, spread_db) / 20)
        at = int(rng.integers(0, samples))
        part = sound[: samples - at]
        out[at : at + len(part)] += part
    return out


def modes(
    rng: Rng,
    count: int,
    low: float,
    high: float,
    decay: tuple[float, float],
    seconds: float = 0.6,
) -> np.ndarray:
    """Make an impact: sinusoids at random frequencies that decay by e in ``decay`` seconds."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    freqs = np.exp(rng.uniform(np.log(low), np.log(high), count))
    falls = np.exp(rng.uniform(np.log(decay[0]), np.log(decay[1]), count)) * (low / freqs) ** 0.3
    gains = rng.exponential(1.0, count) * (freqs / low) ** rng.uniform(-0.8, 0.2)
    phases = rng.uniform(0, 2 * np.pi, count)
    waves = np.sin(2 * np.pi * freqs[:, None] * t + phases[:, None])
    body = (gains[:, None] * np.exp(-t / falls[:, None]) * waves).sum(0)
    knock = rng.normal(size=len(t)) * np.exp(-t / rng.uniform(0.0005, 0.006))
    out = body / (np.abs(body).max() + 1e-9) + rng.uniform(0, 1.0) * knock / 3.0
    return out.astype(np.float32)


def white(rng: Rng, samples: int) -> np.ndarray:
    """White noise."""
    return unit(rng.normal(size=samples))


def pink(rng: Rng, samples: int) -> np.ndarray:
    """Noise falling by 3 dB an octave."""
    return shaped(rng, samples, -3.0)


def brown(rng: Rng, samples: int) -> np.ndarray:
    """Noise falling by 6 dB an octave."""
    return shaped(rng, samples, -6.0)


def coloured(rng: Rng, samples: int) -> np.ndarray:
    """Noise of any slope and a rippled spectrum, standing or slowly swelling."""
    x = shaped(rng, samples, rng.uniform(-9, 3), rng.uniform(0, 10))
    if rng.random() < 0.5:
        x = x * envelope(rng, samples, rng.uniform(0.3, 3), rng.uniform(1, 5))
    return unit(x)


def modulated(rng: Rng, samples: int) -> np.ndarray:
    """Noise whose bands swell and fade independently."""
    x = shaped(rng, samples, rng.uniform(-7, 1), rng.uniform(0, 6))
    edges = np.exp(np.linspace(np.log(60), np.log(7800), int(rng.integers(3, 7))))
    rate = np.exp(rng.uniform(np.log(0.5), np.log(12)))
    out = np.zeros(samples)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        out += bandpass(x, low, high) * envelope(rng, samples, rate, rng.uniform(2, 10))
    return unit(out)


def hum(rng: Rng, samples: int) -> np.ndarray:
    """Mains and transformer hum with harmonics, over a little hiss."""
    t = np.arange(samples) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0, 100.0, 120.0]) * rng.uniform(0.99, 1.01)
    out = np.zeros(samples)
    fall = rng.uniform(0.6, 2.0)
    for k in range(1, int(rng.integers(4, 40))):
        if k * base < 7800:
            swing = rng.exponential() / k**fall
            out += swing * np.sin(2 * np.pi * k * base * t + rng.uniform(0, 6.3))
    return unit(unit(out) + rng.uniform(0.02, 0.6) * shaped(rng, samples, rng.uniform(-6, 0)))


def engine(rng: Rng, samples: int) -> np.ndarray:
    """Run a motor: harmonics of a wandering rate through a fixed resonance, with broadband wear."""
    rate = np.exp(rng.uniform(np.log(15), np.log(400)))
    speed = rate * envelope(rng, samples, rng.uniform(0.2, 2.0), rng.uniform(0.02, 1.0))
    phase = 2 * np.pi * np.cumsum(speed) / SAMPLE_RATE
    out = np.zeros(samples)
    for k in range(1, int(rng.integers(6, 30))):
        if k * rate < 7000:
            out += rng.exponential() / k ** rng.uniform(0.2, 1.0) * np.sin(k * phase + 6.3 * k * k)
    wear = shaped(rng, samples, rng.uniform(-6, 2), 6.0)
    wear = wear * (1 + rng.uniform(0, 0.9) * np.sin(phase * rng.integers(1, 5)))
    return unit(unit(out) * rng.uniform(0.2, 1.0) + unit(wear) * rng.uniform(0.2, 1.2))


def fan(rng: Rng, samples: int) -> np.ndarray:
    """Ventilation: falling noise with blade tones."""
    out = shaped(rng, samples, rng.uniform(-7, -2), 4.0)
    t = np.arange(samples) / SAMPLE_RATE
    blade = rng.uniform(60, 600)
    for k in range(1, 5):
        out = out + rng.uniform(0, 0.4) / k * np.sin(2 * np.pi * k * blade * t)
    return unit(out * (1 + rng.uniform(0, 0.3) * np.sin(2 * np.pi * rng.uniform(0.5, 20) * t)))


def clatter(rng: Rng, samples: int) -> np.ndarray:
    """Things knocked about: impacts of one set of bodies, wooden to metallic."""
    low = rng.uniform(100, 900)
    ring = rng.uniform(0.004, 0.08)

    def strike(r: Rng) -> np.ndarray:
        return modes(r, int(r.integers(4, 14)), low, low * r.uniform(4, 12), (ring / 2, ring * 2))

    return unit(scatter(rng, samples, rng.uniform(1, 12), strike))


def dishes(rng: Rng, samples: int) -> np.ndarray:
    """Crockery and cutlery: bright ringing impacts in flurries, scraping, some running water."""
    plates = [
        modes(rng, int(rng.integers(5, 16)), rng.uniform(500, 2200), 7800, (0.015, 0.25), 1.0)
        for _ in range(6)
    ]
    out = np.zeros(samples, np.float32)
    for _ in range(max(1, rng.poisson(rng.uniform(0.6, 2.0) * samples / SAMPLE_RATE))):
        at = rng.uniform(0, samples)
        plate = plates[rng.integers(len(plates))]
        gap = np.exp(rng.uniform(np.log(0.02), np.log(0.3)))
        for _ in range(int(rng.integers(1, 7))):
            start = int(at)
            if start >= samples:
                break
            hit = plate * 10 ** (rng.normal(0, 6) / 20)
            hit = np.convolve(hit, rng.normal(size=int(rng.integers(1, 6))))[: len(plate)]
            part = hit[: samples - start]
            out[start : start + len(part)] += part.astype(np.float32)
            at += gap * SAMPLE_RATE * rng.uniform(0.5, 1.5)
    out = unit(out)
    if rng.random() < 0.4:
        scrape = bandpass(rng.normal(size=samples), rng.uniform(1500, 3000), rng.uniform(5e3, 7800))
        out = out + rng.uniform(0.05, 0.5) * unit(scrape * envelope(rng, samples, 6, 14))
    if rng.random() < 0.4:
        out = out + rng.uniform(0.1, 0.7) * water(rng, samples)
    return unit(out + rng.uniform(0, 0.1) * shaped(rng, samples, rng.uniform(-6, 0)))


def water(rng: Rng, samples: int) -> np.ndarray:
    """Run water: hiss with many small rising bubbles."""
    hiss = bandpass(shaped(rng, samples, rng.uniform(-3, 2), 4.0), 300, 7800)

    def bubble(r: Rng) -> np.ndarray:
        t = np.arange(int(0.03 * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = r.uniform(400, 3000) * (1 + r.uniform(0, 8) * t)
        return np.exp(-t / r.uniform(0.003, 0.01)) * np.sin(2 * np.pi * np.cumsum(pitch) / 16e3)

    drops = scatter(rng, samples, rng.uniform(10, 60), bubble)
    return unit(unit(hiss) * envelope(rng, samples, 8, 2) + rng.uniform(0.2, 1.0) * unit(drops))


def typing(rng: Rng, samples: int) -> np.ndarray:
    """Keys and clicks: short dull impacts in runs."""
    key = modes(rng, 8, rng.uniform(300, 1200), 7000, (0.001, 0.012), 0.08)

    def press(r: Rng) -> np.ndarray:
        click = key * r.uniform(0.4, 1.0)
        gap = int(r.uniform(0.03, 0.12) * SAMPLE_RATE)
        release = np.concatenate([np.zeros(gap), -0.4 * key * r.uniform(0.3, 1.0)])
        release[: len(click)] += click
        return release

    out = unit(scatter(rng, samples, rng.uniform(3, 12), press, 3.0))
    return unit(out + rng.uniform(0, 0.2) * shaped(rng, samples, -4.0))


def wind(rng: Rng, samples: int) -> np.ndarray:
    """Wind on a microphone: low rumble in gusts, and whistling."""
    gusts = envelope(rng, samples, rng.uniform(0.5, 4), rng.uniform(4, 10))
    out = bandpass(shaped(rng, samples, rng.uniform(-9, -5)), 15, rng.uniform(150, 900)) * gusts
    hiss = shaped(rng, samples, rng.uniform(-6, -2), 5) * np.sqrt(gusts)
    return unit(unit(out) + rng.uniform(0.05, 0.5) * unit(hiss))


def passing_car(r: Rng) -> np.ndarray:
    """One vehicle going by: tyre noise and engine, swelling and dulling again."""
    n = int(r.uniform(2.0, 6.0) * SAMPLE_RATE)
    t = np.linspace(-1, 1, n)
    near = 1 / (1 + (t / r.uniform(0.15, 0.5)) ** 2)
    tyres = bandpass(shaped(r, n, r.uniform(-5, -1), 3.0), 100, r.uniform(1500, 5000), 1)
    motor = engine(r, n)
    return (near * (unit(tyres) + r.uniform(0.1, 1.0) * bandpass(motor, 40, 1500, 1))).astype("f4")


def horn(r: Rng) -> np.ndarray:
    """Sound a car's horn: two rich tones."""
    t = np.arange(int(r.uniform(0.1, 1.2) * SAMPLE_RATE)) / SAMPLE_RATE
    base = r.uniform(280, 520)
    out = np.zeros(len(t))
    for tone in (base, base * r.uniform(1.18, 1.3)):
        for k in range(1, 12):
            if k * tone < 7500:
                out += np.sin(2 * np.pi * k * tone * t + r.uniform(0, 6.3)) / k ** r.uniform(0.3, 1)
    fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    return (out * fade * 0.3).astype(np.float32)


def street(rng: Rng, samples: int) -> np.ndarray:
    """Stand by a street: rumble, cars going by, now and then a horn, steps or a door."""
    out = shaped(rng, samples, rng.uniform(-7, -3), 3.0) * envelope(rng, samples, 0.7, 3)
    out = out + rng.uniform(0.3, 2.0) * scatter(rng, samples, rng.uniform(0.1, 0.5), passing_car, 5)
    if rng.random() < 0.35:
        out = out + rng.uniform(0.1, 0.6) * scatter(rng, samples, 0.1, horn, 4)
    if rng.random() < 0.5:
        out = out + rng.uniform(0.05, 0.4) * steps(rng, samples)
    return unit(out)


def steps(rng: Rng, samples: int) -> np.ndarray:
    """Someone walking."""
    out = np.zeros(samples, np.float32)
    at, pace = rng.uniform(0, 0.5), rng.uniform(0.35, 0.8)
    sole = modes(rng, 6, rng.uniform(60, 200), 3000, (0.005, 0.03), 0.2)
    while at * SAMPLE_RATE < samples:
        start = int(at * SAMPLE_RATE)
        part = (sole * rng.uniform(0.5, 1.0))[: samples - start]
        out[start : start + len(part)] += part
        at += pace * rng.uniform(0.9, 1.1)
    return unit(out)


def bursts(rng: Rng, samples: int) -> np.ndarray:
    """Short bursts of noise of many colours, over a quiet bed."""

    def burst(r: Rng) -> np.ndarray:
        n = int(np.exp(r.uniform(np.log(0.02), np.log(0.8))) * SAMPLE_RATE)
        fade = np.minimum(1, np.arange(n) / (r.uniform(0.001, 0.05) * SAMPLE_RATE))
        x = shaped(r, n, r.uniform(-8, 4), 6)
        return x * fade * np.exp(-np.arange(n) / (n * r.uniform(0.15, 1.0)))

    out = unit(scatter(rng, samples, rng.uniform(0.7, 5), burst))
    return unit(out + rng.uniform(0, 0.3) * shaped(rng, samples, rng.uniform(-6, 0)))


def rustle(rng: Rng, samples: int) -> np.ndarray:
    """Paper, bags, dry leaves, chewing, fire: clicks of milliseconds in dense, uneven clusters."""
    density = np.full(samples, rng.choice([0.0, rng.uniform(0, 30)]))  # clicks a second
    busy = np.exp(rng.uniform(np.log(60), np.log(1500)))
    at = 0
    while at < samples:
        n = int(np.exp(rng.uniform(np.log(0.05), np.log(0.7))) * SAMPLE_RATE)
        swell = np.hanning(n + 2)[1:-1] ** rng.uniform(0.3, 2)
        part = density[at : at + n]
        part += busy * 10 ** (rng.normal(0, 5) / 20) * swell[: len(part)]
        at += n + int(rng.exponential(0.4) * SAMPLE_RATE)
    clicks = rng.random(samples) < density / SAMPLE_RATE
    loud = 10 ** (rng.normal(0, rng.uniform(5, 11), samples) / 20) * rng.choice([-1, 1], samples)
    out = np.zeros(samples)
    # A few kinds of click, each with its own sound.
    kind = rng.integers(0, 4, samples)
    for number in range(4):
        n = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
        click = rng.normal(size=n) * np.exp(-5 * np.arange(n) / n)
        click = bandpass(click, np.exp(rng.uniform(np.log(80), np.log(3000))), 7900, 1)
        out += fftconvolve(clicks * loud * (kind == number), unit(click))[:samples]
    return unit(unit(out) + rng.uniform(0, 0.1) * shaped(rng, samples, rng.uniform(-4, 2)))


def plucked(rng: Rng, pitch: float, seconds: float) -> np.ndarray:
    """One plucked string: a delay line whose loop loses its high harmonics (Karplus-Strong)."""
    n = int(seconds * SAMPLE_RATE)
    period = SAMPLE_RATE / pitch - 0.5
    whole = int(period)
    part = period - whole
    start = np.zeros(n)
    pluck = rng.uniform(-1, 1, whole + 1)
    soft = rng.uniform(0.0, 0.9)
    pluck = lfilter([1 - soft], [1, -soft], pluck)
    # The plucking point along the string cancels every n-th harmonic.
    spot = max(1, int(rng.uniform(0.08, 0.5) * whole))
    pluck = pluck - 0.8 * np.concatenate([np.zeros(spot), pluck[:-spot]])
    start[: min(n, len(pluck))] = pluck[:n]
    damping = 10 ** (-3 / (rng.uniform(0.8, 5.0) * pitch))
    blend = rng.uniform(0.35, 0.5)
    loop = np.convolve([1 - part, part], [1 - blend, blend]) * damping
    denominator = np.zeros(whole + 3)
    denominator[0] = 1.0
    denominator[whole : whole + 3] -= loop
    return lfilter([1.0], denominator, start)


SCALES = ([0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 3, 5, 7, 10], [0, 2, 4, 7, 9])
CHORDS = ([0, 4, 7], [0, 3, 7], [0, 4, 7, 10], [0, 3, 7, 10], [0, 5, 7], [0, 4, 7, 11])


def guitar(rng: Rng, samples: int) -> np.ndarray:
    """Plucked strings through a wooden body: strumming, picking or a melody."""
    out = np.zeros(samples + SAMPLE_RATE)
    root = rng.uniform(75, 165)
    beat = rng.uniform(0.12, 0.6)
    style = rng.integers(3)
    scale = SCALES[rng.integers(len(SCALES))]
    at, chord, count = rng.uniform(0, 0.3), [0, 7, 12, 16, 19, 24], 0
    while at * SAMPLE_RATE < samples:
        if count % int(rng.integers(4, 9)) == 0:
            base = scale[rng.integers(len(scale))]
            tones = CHORDS[rng.integers(len(CHORDS))]
            chord = sorted(base + tone + 12 * k for tone in tones for k in range(2))[:6]
        if style == 0:
            strings = chord if rng.random() < 0.5 else chord[::-1]
            spread = rng.uniform(0.005, 0.04)
        elif style == 1:
            strings, spread = [chord[rng.integers(len(chord))]], 0.0
        else:
            strings, spread = [scale[rng.integers(len(scale))] + 12 * rng.integers(1, 3)], 0.0
        for k, semitone in enumerate(strings):
            start = int((at + k * spread) * SAMPLE_RATE)
            length = min(rng.uniform(0.6, 2.5), (len(out) - start) / SAMPLE_RATE)
            if length <= 0.05:
                continue
            string = plucked(rng, root * 2 ** (semitone / 12), length)
            out[start : start + len(string)] += string * rng.uniform(0.3, 1.0)
        at += beat * rng.choice([1, 1, 1, 2, 0.5])
        count += 1
    body = modes(rng, 10, 90, 2500, (0.004, 0.03), 0.1)
    wet = fftconvolve(out, body / np.sqrt(np.sum(body**2)))[: len(out)]
    return unit((unit(out) + rng.uniform(0.0, 1.2) * unit(wet))[:samples])


def tone(rng: Rng, pitch: float, seconds: float, timbre: np.ndarray, attack: float) -> np.ndarray:
    """One note of an additive instrument with vibrato."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    vibrato = 1 + rng.uniform(0, 0.008) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
    phase = 2 * np.pi * pitch * np.cumsum(vibrato) / SAMPLE_RATE
    out = np.zeros(len(t))
    for k, gain in enumerate(timbre, 1):
        if k * pitch < 7500:
            out += gain * np.sin(k * phase)
    fade = np.minimum(1, t / attack) * np.minimum(1, t[::-1] / 0.05)
    return out * fade


def music(rng: Rng, samples: int) -> np.ndarray:
    """Chords, bass, melody and sometimes drums of made-up instruments."""
    out = np.zeros(samples + 4 * SAMPLE_RATE)
    root = rng.uniform(100, 220)
    scale = SCALES[rng.integers(len(SCALES))]
    beat = rng.uniform(0.2, 0.6)
    voices = []
    for _ in range(int(rng.integers(1, 4))):
        timbre = rng.exponential(1.0, 12) / np.arange(1, 13) ** rng.uniform(0.5, 2.0)
        octave = int(rng.integers(-1, 3))
        attack = np.exp(rng.uniform(np.log(0.003), np.log(0.1)))
        voices.append((timbre, octave, attack, rng.uniform(0, 4), rng.random() < 0.4))
    for timbre, octave, attack, decay, chordal in voices:
        at = 0.0
        while at * SAMPLE_RATE < samples:
            length = beat * rng.choice([0.5, 1, 1, 2, 4])
            degree = scale[rng.integers(len(scale))]
            tones = CHORDS[rng.integers(len(CHORDS))] if chordal else [0]
            for semitone in tones:
                pitch = root * 2 ** (octave + (degree + semitone) / 12)
                note = tone(rng, pitch, length * rng.uniform(0.7, 1.3), timbre, attack)
                note = note * np.exp(-decay * np.arange(len(note)) / SAMPLE_RATE)
                start = int(at * SAMPLE_RATE)
                out[start : start + len(note)] += note * rng.uniform(0.5, 1.0)
            at += length
    out = unit(out[:samples])
    if rng.random() < 0.4:
        out = out + rng.uniform(0.2, 0.8) * drums(rng, samples, beat)
    return unit(out)


def drums(rng: Rng, samples: int, beat: float) -> np.ndarray:
    """Beat a drum pattern: kick, snare, hat."""
    out = np.zeros(samples)
    t = np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    fall = 2 * np.pi * np.cumsum(rng.uniform(45, 70) + 120 * np.exp(-t / 0.02)) / SAMPLE_RATE
    kick = np.sin(fall) * np.exp(-t / 0.08)
    snare = (rng.normal(size=len(t)) + np.sin(2 * np.pi * 190 * t)) * np.exp(-t / 0.05) * 0.5
    hat = bandpass(rng.normal(size=len(t)), 4500, 7900) * np.exp(-t / rng.uniform(0.01, 0.06))
    pattern = rng.integers(0, 2, (3, 8))
    for step in range(int(samples / SAMPLE_RATE / (beat / 2)) + 1):
        start = int(step * beat / 2 * SAMPLE_RATE)
        for sound, on in zip((kick, snare, hat), pattern[:, step % 8], strict=True):
            if on and start < samples:
                part = sound[: samples - start]
                out[start : start + len(part)] += part
    return unit(out)


def alarm(rng: Rng, samples: int) -> np.ndarray:
    """Beeps, ringing and sirens."""
    t = np.arange(samples) / SAMPLE_RATE
    rate = rng.uniform(0.5, 8)
    base = rng.uniform(400, 3000)
    swing = np.sin(2 * np.pi * rate * t)
    pitch = base * (1 + rng.uniform(0, 0.4) * (swing if rng.random() < 0.5 else np.sign(swing)))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    out = sum(rng.exponential() / k * np.sin(k * phase) for k in range(1, 4))
    if rng.random() < 0.6:
        out = out * (np.sin(2 * np.pi * rate / rng.uniform(1, 4) * t) > 0)
    return unit(out + rng.uniform(0.01, 0.2) * shaped(rng, samples, -3.0))


FAMILIES: dict[str, tuple[float, Family]] = {
    "white": (1.0, white),
    "pink": (1.0, pink),
    "brown": (0.5, brown),
    "coloured": (2.0, coloured),
    "modulated": (2.0, modulated),
    "hum": (0.7, hum),
    "engine": (1.0, engine),
    "fan": (0.8, fan),
    "clatter": (1.2, clatter),
    "dishes": (2.5, dishes),
    "water": (0.6, water),
    "typing": (0.8, typing),
    "wind": (0.8, wind),
    "street": (2.5, street),
    "steps": (0.3, steps),
    "bursts": (1.0, bursts),
    "guitar": (2.5, guitar),
    "music": (1.8, music),
    "alarm": (0.5, alarm),
    "rustle": (2.0, rustle),
}
"""Each family with its share of the pool."""


def made(seconds: float, seed: int) -> Iterator[tuple[np.ndarray, Clip]]:
    """Make noise of all families by their shares.

    Parameters
    ----------
    seconds : float
        Length of all clips together.
    seed : int
        The same seed makes the same noise.
    """
    total = sum(share for share, _ in FAMILIES.values())
    jobs = [
        (name, [seed, index, clip], int(CLIP_SECONDS * SAMPLE_RATE))
        for index, (name, (share, _)) in enumerate(FAMILIES.items())
        for clip in range(max(1, round(seconds / CLIP_SECONDS * share / total)))
    ]
    for (name, *_), audio in zip(jobs, in_processes(_made, jobs), strict=True):
        yield audio, Clip(0, 0, name)


def _made(job: tuple[str, list[int], int]) -> np.ndarray:
    """Make one clip of a family, without reverberation, which is added when mixing."""
    name, seed, samples = job
    return 0.1 * FAMILIES[name][1](np.random.default_rng(seed), samples)


def recorded(folder: Path, until: float = 1.0) -> Iterator[tuple[np.ndarray, Clip]]:
    """Cut the recordings of a folder into clips; ``until`` < 1 keeps each file's end back."""
    samples = int(RECORDED_CLIP_SECONDS * SAMPLE_RATE)
    for _, audio in read_folder(folder):
        audio = audio[: int(len(audio) * until)]
        if len(audio) < SAMPLE_RATE // 2:
            continue
        for start in range(0, max(1, len(audio) - samples // 3), samples):
            yield 0.1 * unit(audio[start : start + samples]), Clip(0, 0, f"folder-{folder.name}")


def babbles(
    seconds: float,
    seed: int,
    pool: Pool,
    vary: Callable[[Rng, np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, Clip]]:
    """Make clips of several talkers of a pool at once.

    Parameters
    ----------
    seconds : float
        Length of all clips together.
    pool : Pool
        Speech of the talkers.
    vary : callable
        Changes a recording at random, so that no talker is heard twice alike.
    """
    make = functools.partial(_babble, pool, int(CLIP_SECONDS * SAMPLE_RATE), vary)
    seeds = [[seed, 1000, clip] for clip in range(max(1, round(seconds / CLIP_SECONDS)))]
    for audio in in_processes(make, seeds):
        yield audio, Clip(0, 0, "babble")


def _babble(
    pool: Pool, samples: int, vary: Callable[[Rng, np.ndarray], np.ndarray], seed: list[int]
) -> np.ndarray:
    return 0.1 * babble(np.random.default_rng(seed), pool, samples, vary)


def babble(
    rng: Rng, pool: Pool, samples: int, vary: Callable[[Rng, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Several talkers of a pool at once, each varied, near and far."""
    out = np.zeros(samples, np.float32)
    for _ in range(int(rng.integers(3, 11))):
        at, gain = -int(rng.integers(0, SAMPLE_RATE)), 10 ** (rng.normal(0, 4) / 20)
        while at < samples:
            clip = pool.clips[rng.integers(len(pool.clips))]
            talk = unit(vary(rng, pool.read(clip, 0, 6 * SAMPLE_RATE))) * gain
            first = max(0, -at)
            part = talk[first : first + samples - max(at, 0)]
            out[max(at, 0) : max(at, 0) + len(part)] += part
            at += len(talk) + int(rng.uniform(0, 0.4) * SAMPLE_RATE)
    return unit(out)
