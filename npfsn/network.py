"""What every network has in common, and what a stream may ask of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .kernels import features as kernels
from .norms import BoundNorm, Norm
from .state import Fields, State


class Network:
    """Packed weights of one architecture at one precision; read-only, shared by all streams.

    Parameters
    ----------
    config : Config
        Of the module the network is in.
    tensors : mapping of str to array
        The checkpoint's tensors.
    precision : {"float32", "int8"}
    horizon : float
        Frames after which running norms forget; infinite as published.
    """

    #: All norms, in the order in which data passes them.
    norms: list[Norm]
    #: Frames in a block where more than a few are at hand: as many as keep scratch small.
    block_frames: ClassVar[int] = 32
    #: Multiplies the mask into spectra (`kernels.features`).
    apply_mask: ClassVar[Any] = staticmethod(kernels.apply_complex)

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, np.ndarray],
        precision: str = "float32",
        horizon: float = math.inf,
    ) -> None:
        raise NotImplementedError

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        raise NotImplementedError

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of exactly `frames` frames."""
        raise NotImplementedError


class Pass:
    """A network bound to one stream's state, with scratch for blocks of `frames` frames."""

    frames: int
    #: float32[frames, F]: written by whoever calls, before the call.
    mag: np.ndarray
    norms: list[BoundNorm]

    def __call__(self, frame: int) -> np.ndarray | None:
        """Run a block.

        Parameters
        ----------
        frame : int
            Index of the first frame in the stream; `mag` holds the magnitudes of frames `frame` ..
            `frame + frames - 1`.

        Returns
        -------
        float32 array, shape (T, 2, F), or None
            The mask, real plane first, as the network gives it: T frames behind by the look-ahead.
            Scratch of this pass: valid until its next call. None while an offline norm is being
            fitted.
        """
        raise NotImplementedError

    def finish(self, frame: int) -> None:
        """Count what an offline norm would miss of a signal that ended before `frame`."""

    def forget(self) -> None:
        """Drop what was computed ahead of time: the state has been replaced."""
