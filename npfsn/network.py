"""What every network has in common, and what a stream may ask of it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .flow import Parts
from .layers import RecurrentPass
from .norms import BoundNorm
from .program import Program
from .state import Fields, State


class Network:
    """Packed weights of one architecture at one precision; read-only, shared by all streams.

    Parameters
    ----------
    config : Config
        The `Config` of the network's own module.
    tensors : mapping of str to array
        The checkpoint's tensors.
    precision : {"float32", "int8"}
    """

    config: Any
    #: The most frames in a block: few enough to keep scratch small.
    block_frames: ClassVar[int] = 32
    #: The kernel that multiplies the mask into spectra.
    apply_mask: ClassVar[str] = "apply_complex"

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        raise NotImplementedError

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of at most `frames` frames."""
        raise NotImplementedError


class Pass:
    """A network bound to one stream's state, with scratch for blocks of up to `frames` frames."""

    #: float32[frames, F]: the caller writes it before playing the program.
    mag: np.ndarray
    #: float32[frames, 2, F]: the mask as the network gives it, real plane first, for the frames
    #: `look_ahead` earlier.
    mask: np.ndarray
    norms: list[BoundNorm]
    #: From `mag` to `mask`. While an offline norm is being fitted, calls that need it are skipped,
    #: or their results are not used.
    program: Program

    def parts(self) -> Parts | None:
        """Return the program in parts for several blocks in flight; None if that does not help."""
        return None

    @property
    def stacks(self) -> list[RecurrentPass]:
        """All recurrent stacks."""
        owners = dict.fromkeys(self.program.owners)
        return [owner for owner in owners if isinstance(owner, RecurrentPass)]

    @property
    def fitted(self) -> bool:
        """Whether all norms can be applied."""
        return all(norm.fitted for norm in self.norms)

    def set_horizon(self, frames: float) -> None:
        """Let running norms forget all that is older than `frames`; infinite: as published."""
        for norm in self.norms:
            norm.set_horizon(frames)

    def finish(self, frame: int) -> None:
        """Count, for offline norms, the end of a signal (before `frame`) that they would miss."""

    def begin(self) -> None:
        """Prepare the first frame: the state is all zeros."""
        for stack in self.stacks:
            stack.begin()

    def forget(self) -> None:
        """Drop what was computed ahead of time: the state has been replaced."""
        for stack in self.stacks:
            stack.forget()
