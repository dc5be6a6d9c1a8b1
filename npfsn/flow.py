"""Blocks of frames, one behind the other: while a bottleneck computes, others pass by it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .beside import Beside
from .program import Program

_SHORT = 12  # frames of a short block (`Flow.size`)


class Parts(NamedTuple):
    """A network in parts, for blocks of frames that are under way at the same time.

    One block is before the bottleneck, one in it, one behind it: the bottleneck's tiles see to the
    one-unit layers of the other two.
    """

    #: From `mag` of the block before it to what its layers take.
    head: Program
    #: The layers of the block behind, then those of the block before.
    beside: Beside
    #: The block in it: the bottleneck.
    core: Program
    #: The block in it: from the bottleneck's results to what the layers behind take.
    join: Program
    #: From what the layers of the block before it give to what the bottleneck takes.
    gather: Program


class _Block(NamedTuple):
    frame: int  # its first one
    n: int  # how many
    spectra: np.ndarray
    out: np.ndarray


class Flow:
    """Blocks of frames on their way through a network, from spectra to samples.

    Parameters
    ----------
    parts : Parts
    spectra : float64 array, shape (T, 2, F)
        Those of a new block and, when `complete` is played, those of the block that it completes.
    complete : Program
        From a block's mask to its samples.
    """

    def __init__(self, parts: Parts, spectra: np.ndarray, complete: Program) -> None:
        self.parts, self.spectra, self.complete = parts, spectra, complete
        self._stock = np.zeros((3, *spectra.shape))  # of blocks under way
        self._taken = 0
        self._within: _Block | None = None
        self._behind: _Block | None = None

    def take(self, frame: int, n: int, out: np.ndarray) -> None:
        """Take the block whose spectra and magnitudes have just been computed.

        Parameters
        ----------
        frame, n : int
            Index of its first frame, as the network counts; how many there are, at most T.
        out : float32 array, shape (n hop,)
            Where its samples are to go, once it is complete.
        """
        stock = self._stock[self._taken % len(self._stock), :n]
        self._taken += 1
        stock[...] = self.spectra[:n]
        self._advance(_Block(frame, n, stock, out))

    def size(self, left: int) -> int:
        """Return how many of the frames that are left are to be the next block.

        The first block has no other to pass by, nor has the last: these are short.
        """
        if not self.under_way or left <= _SHORT:
            return min(left, _SHORT)
        return min(max((left + 1) // 2, _SHORT), len(self.spectra))

    @property
    def under_way(self) -> bool:
        """Whether a block has been taken and is not complete."""
        return bool(self._within or self._behind)

    def end(self) -> None:
        """Complete the blocks that are under way."""
        while self.under_way:
            self._advance(None)

    def forget(self) -> None:
        """Drop them: the state has been replaced."""
        self._within = self._behind = None
        self.parts.beside.begin(0, 0)

    def _advance(self, before: _Block | None) -> None:
        within, behind, parts = self._within, self._behind, self.parts
        if before:
            parts.head.play(before.frame, before.n)
        parts.beside.begin(behind.n if behind else 0, before.n if before else 0)
        if within:
            parts.core.play(within.frame, within.n)
        parts.beside.finish()
        if behind:
            self.spectra[: behind.n] = behind.spectra
            self.complete.play(behind.frame, behind.n, out=behind.out)
        if within:
            parts.join.play(within.frame, within.n)
        if before:
            parts.gather.play(before.frame, before.n)
        self._within, self._behind = before, within
