"""Blocks of frames in flight: while one is in the bottleneck, others overlap with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .beside import Beside
from .program import Program

_SHORT = 12  # frames of a short block (`Flow.size`)


class Parts(NamedTuple):
    """A network in parts, for several blocks of frames in flight.

    One block is before the bottleneck, one in it, one after it. The bottleneck's tiles also run the
    one-unit layers of the other two.
    """

    #: Of the block before the bottleneck: from `mag` to the input of its layers.
    head: Program
    #: The layers of the block after the bottleneck, then those of the block before it.
    beside: Beside
    #: Of the block in the bottleneck: the bottleneck itself.
    core: Program
    #: Of the same block: from the bottleneck's results to the input of the layers after it.
    join: Program
    #: Of the block before it: from the results of its layers to the input of the bottleneck.
    gather: Program


class _InFlight(NamedTuple):
    frame: int  # index of the first one
    n: int  # how many
    spectra: np.ndarray
    out: np.ndarray


class Flow:
    """Take blocks of frames through a network, from spectra to samples, several in flight.

    Parameters
    ----------
    parts : Parts
    spectra : float64 array, shape (T, 2, F)
        Those of a new block; while `complete` is played, those of the block that it completes.
    complete : Program
        From a block's mask to its samples.
    """

    def __init__(self, parts: Parts, spectra: np.ndarray, complete: Program) -> None:
        self.parts, self.spectra, self.complete = parts, spectra, complete
        self._stock = np.zeros((3, *spectra.shape))  # spectra of the blocks in flight
        self._taken = 0
        self._within: _InFlight | None = None
        self._behind: _InFlight | None = None

    def take(self, frame: int, n: int, out: np.ndarray) -> None:
        """Take the block whose spectra and magnitudes have just been computed.

        Parameters
        ----------
        frame, n : int
            Index of its first frame, as the network counts; number of frames, at most T.
        out : float32 array, shape (n hop,)
            Where its samples are to go, once it is complete.
        """
        stock = self._stock[self._taken % len(self._stock), :n]
        self._taken += 1
        stock[...] = self.spectra[:n]
        self._advance(_InFlight(frame, n, stock, out))

    def size(self, left: int) -> int:
        """Return how many of the frames that are left the next block takes.

        The first and the last block have no other to overlap with: these are short.
        """
        if not self.under_way or left <= _SHORT:
            return min(left, _SHORT)
        return min(max((left + 1) // 2, _SHORT), len(self.spectra))

    @property
    def under_way(self) -> bool:
        """Whether a block has been taken and is not complete."""
        return bool(self._within or self._behind)

    def end(self) -> None:
        """Complete the blocks in flight."""
        while self.under_way:
            self._advance(None)

    def forget(self) -> None:
        """Drop the blocks in flight: the state has been replaced."""
        self._within = self._behind = None
        self.parts.beside.begin(0, 0)

    def _advance(self, before: _InFlight | None) -> None:
        # The blocks share scratch, which fixes the order: `join` overwrites what the layers behind
        # read (`beside`), and `gather` what `core` and `join` read.
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
