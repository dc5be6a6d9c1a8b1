"""Framing and overlap-add of one stream: periodic Hann window, centred frames, reflected edges."""

from __future__ import annotations

import numpy as np

from .config import BaseConfig
from .kernels import spectrum as kernels
from .program import Program
from .state import Fields, State


class Stft:
    """Window and twiddles of one acoustic setting, and scratch for one stream's transforms.

    Parameters
    ----------
    config : Config
        Gives `n_fft` (N), `hop_length` and `look_ahead` (L).
    state : dict of str to array
    """

    def __init__(self, config: BaseConfig, state: State) -> None:
        n_fft = config.n_fft
        self.n_fft, self.hop = n_fft, config.hop_length
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        self.factors = kernels.factors(n_fft // 2)
        self.wheel = kernels.twiddles(n_fft // 2)
        self.half = kernels.twiddles(n_fft)
        self.z = np.zeros((2, n_fft // 2))
        self.work = np.zeros((2, n_fft // 2))
        self.ola, self.env = state["stft.ola"], state["stft.env"]

    @staticmethod
    def fields(config: BaseConfig) -> Fields:
        """Entries of the state.

        The signal buffer ends with the newest sample and reaches back far enough for the first two
        frames, which become complete at once: frame 0 reflects sample N / 2.
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
        """Make `analyse` a part of a program."""
        program.add(
            "analyse", signal, self.hop, self.window, self.factors, self.wheel, self.half,
            self.z, self.work, spec, mag, stage="analysis",
        )  # fmt: skip

    def write_synthesis(self, program: Program, spec: np.ndarray) -> None:
        """Make overlap-add a part of a program: T frames into T hops (`kernels.synthesise`)."""
        program.add(
            "synthesise", spec, self.hop, self.window, self.factors, self.wheel, self.half,
            self.z, self.work, self.ola, self.env, stage="synthesis",
        )  # fmt: skip
