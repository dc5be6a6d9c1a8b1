"""Sound files for tests: made, read back and compared."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from npfsn.audio import enhance_file
from npfsn.errors import AudioError

RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000)


def noise(n, channels=1, seed=0, scale=0.1):
    """Return noise float32[n, channels]."""
    return (np.random.default_rng([seed, n]).standard_normal((n, channels)) * scale).astype("f4")


def hiss(seconds, rate=16000, level=0.1):
    """Return noise float32[N]."""
    rng = np.random.default_rng(1)
    return rng.normal(0.0, level, int(seconds * rate)).astype(np.float32)


def write(path, x, rate=16000, subtype="PCM_16", container=None):
    with sf.SoundFile(path, "w", rate, x.shape[1], subtype, None, container) as file:
        file.write(x)
    return path


def read(path):
    with sf.SoundFile(path) as file:
        shape = (file.samplerate, file.channels, file.format, file.subtype)
        return file.read(dtype="float64", always_2d=True), shape


def lag(x, y):
    """Where the cross-correlation of two signals peaks."""
    n = 1 << int(2 * x.size - 1).bit_length()
    corr = np.fft.irfft(np.fft.rfft(y, n) * np.conj(np.fft.rfft(x, n)), n)
    peak = int(np.argmax(corr))
    return peak if peak < n // 2 else peak - n


def tagged(path, tags):
    with sf.SoundFile(path, "w", 16000, 1) as file:
        for name, text in tags.items():
            setattr(file, name, text)
        file.write(noise(1000))
    return path


def tags(path):
    with sf.SoundFile(path) as file:
        assert file.frames >= 1000
        return file.copy_metadata()


def refuse(src, dst, match):
    """Check that a file is refused in one sentence and that nothing is left behind."""
    before = sorted(os.listdir(dst.parent))
    with pytest.raises(AudioError, match=match) as caught:
        enhance_file(src, dst)
    assert "\n" not in str(caught.value) and "Path(" not in str(caught.value)
    assert sorted(os.listdir(dst.parent)) == before


def recording(path, n=2000, subtype="PCM_16"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(n), 16000, subtype)
    return path


def tree(folder="."):
    return sorted(
        str(path.relative_to(folder)).replace(os.sep, "/")
        for path in Path(folder).rglob("*")
        if path.is_file()
    )


def speech(rate=16000, seconds=1.0):
    """Something with the swells and gaps of speech, within the band of every model."""
    t = np.arange(round(rate * seconds)) / rate
    swell = np.maximum(0.0, np.sin(2 * np.pi * 2.3 * t)) ** 2
    x = swell * (np.sin(2 * np.pi * 200 * t) + 0.5 * np.sin(2 * np.pi * 1130 * t))
    return (0.2 * x + 0.01 * np.random.default_rng(3).standard_normal(t.size)).astype("f4")
