"""Framing and overlap-add of one stream: periodic Hann window, centred frames, reflected edges."""

from __future__ import annotations

import numpy as np

from .config import BaseConfig
from .program import Program
from .state import Fields, State


def factors(n: int) -> np.ndarray:
    """Return int64 factors of `n`: fours first, then the primes that are left."""
    found = []
    for p in [4, *range(2, n + 1)]:
        while n % p == 0 and n > 1:
            found.append(p)
            n //= p
        if n == 1:
            break
    return np.array(found or [1], np.int64)


def twiddles(n: int) -> np.ndarray:
    """Return twiddle factors, float64[2, n]: cos and -sin of 2 pi k / n."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), -np.sin(angle)])


class Stft:
    """Window and twiddle factors of one acoustic setting, and scratch for one stream's transforms.

    Parameters
    ----------
    config : Config
        Gives `n_fft` (N), `hop_length` and `look_ahead` (L).
    state : dict of str to array

    Attributes
    ----------
    n_fft, hop : int
        N and the hop, in samples.
    window : float64 array, shape (N,)
        Periodic Hann window.
    factors : int64 array
        Radices of the complex transform of N / 2 points.
    twiddle, twiddle_real : float64 array, shape (2, N / 2), (2, N)
        Twiddle factors of that transform, and of the step from it to the real one.
    z, work : float64 array, shape (2, N / 2)
        Scratch.
    ola, env : float64 array, shape (N,)
        Entries of the state: overlap-added frames and squared windows.
    """

    def __init__(self, config: BaseConfig, state: State) -> None:
        n_fft = config.n_fft
        self.n_fft, self.hop = n_fft, config.hop_length
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        self.factors = factors(n_fft // 2)
        self.twiddle = twiddles(n_fft // 2)
        self.twiddle_real = twiddles(n_fft)
        self.z = np.zeros((2, n_fft // 2))
        self.work = np.zeros((2, n_fft // 2))
        self.ola, self.env = state["stft.ola"], state["stft.env"]

    @staticmethod
    def fields(config: BaseConfig) -> Fields:
        """Entries of the state.

        The signal buffer ends with the newest sample. It is long enough for the first two frames,
        which become complete at the same hop, because frame 0 reflects sample N / 2.
        """
        n_fft, hop = config.n_fft, config.hop_length
        return {
            "stft.signal": ((n_fft + hop,), np.float32),
            "stft.spec": ((config.look_ahead, 2, config.n_freq), np.float64),
            "stft.ola": ((n_fft,), np.float64),
            "stft.env": ((n_fft,), np.float64),
        }

    def write_analysis(
        self, program: Program, signal: np.ndarray, spec: np.ndarray, mag: np.ndarray
    ) -> None:
        """Add the transform of T frames to a program (`spectrum.analyse`)."""
        program.add(
            "analyse", signal, self.hop, self.window, self.factors, self.twiddle, self.twiddle_real,
            self.z, self.work, spec, mag, stage="analysis",
        )  # fmt: skip

    def write_synthesis(self, program: Program, spec: np.ndarray) -> None:
        """Add overlap-add to a program: T frames into T hops (`spectrum.synthesise`)."""
        program.add(
            "synthesise", spec, self.hop, self.window, self.factors, self.twiddle,
            self.twiddle_real, self.z, self.work, self.ola, self.env, stage="synthesis",
        )  # fmt: skip
