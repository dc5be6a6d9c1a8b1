"""A frame's kernels and their arguments: recorded once, then played in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels.tables import LAYER, NORM, OPERATION, QUEUE, STACK, TAKES, array_record
from .machine_code import address, function, place

# Kinds of arrays: type, dimensions.
_ARRAYS = {
    "f32_1d": (np.float32, 1),
    "f32_2d": (np.float32, 2),
    "f32_3d": (np.float32, 3),
    "f64_1d": (np.float64, 1),
    "f64_2d": (np.float64, 2),
    "f64_3d": (np.float64, 3),
    "i64_1d": (np.int64, 1),
    "norm": (NORM, 1),
    "layer": (LAYER, 1),
    "stack": (STACK, 1),
    "queue": (QUEUE, 1),
}
_ALL_THE_REST = 1 << 32
_NO_SAMPLES = np.zeros(1, np.float32)


class Program:
    """Kernels that run one after the other on blocks of frames.

    Attributes
    ----------
    stages : list of (str, str)
        Of every call: what it is a part of, and the name of its kernel.
    owners : list
        Of every call: the object it belongs to, or None.
    arguments : list of tuple
        Of every call: what `add` was given for its kernel. Tables keep nothing alive.
    """

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self._operations = np.zeros(0, OPERATION)
        self._address = self._operations.ctypes.data
        self.owners: list[object] = []
        self.arguments: list[tuple[Any, ...]] = []

    def add(
        self, kernel: str, *arguments: Any, stage: str, every: int = 1, owner: object = None
    ) -> None:
        """Record a call.

        Parameters
        ----------
        kernel : str
            One of `TAKES`, which lists its arguments.
        *arguments : array, int or float
            Arrays are kept alive, and read and written whenever the call is played.
        stage : str
            What the call is a part of, for a profile.
        every : int
            s: play it only when blocks of s frames end, for as many blocks as end.
        owner : object, optional
            Kept alive, too: it owns the arrays that a table among the arguments points to.

        Raises
        ------
        KeyError, ValueError, TypeError
            There is no such kernel, or it takes other arguments: fewer, more or of another kind.
        """
        kinds, operation = TAKES[kernel].split(), np.zeros(1, OPERATION)
        operation["kernel"], operation["every"] = address(f"program._{kernel}"), every
        operation["otherwise"] = _ALL_THE_REST
        used = {"arrays": 0, "whole": 0, "real": 0}
        for kind, argument in zip(kinds, arguments, strict=True):
            if kind in _ARRAYS:
                dtype, dimensions = _ARRAYS[kind]
                if argument.ndim != dimensions:
                    raise TypeError(f"{kernel}: shape {argument.shape}, expected {kind}")
                field, value = "arrays", array_record(argument, dtype)
            else:
                field, value = kind, argument
            operation[field][0, used[field]] = value
            used[field] += 1
        self._extend(operation, [(stage, kernel)], [owner], [arguments])

    def then(self, other: Program) -> Program:
        """Return a program of this one's calls and then the other's."""
        both = Program()
        for part in (self, other):
            both._extend(part._operations, part.stages, part.owners, part.arguments)
        return both

    def part(self, first: int, end: int) -> Program:
        """Return a program of calls first .. end - 1."""
        some, calls = Program(), slice(first, end)
        some._extend(
            self._operations[calls],
            self.stages[calls],
            self.owners[calls],
            self.arguments[calls],
        )
        return some

    def _extend(
        self,
        operations: np.ndarray,
        stages: list[tuple[str, str]],
        owners: list[object],
        arguments: list[tuple[Any, ...]],
    ) -> None:
        # As bytes: to join tables, NumPy would work out the common type of each field.
        joined = bytearray(self._operations.tobytes() + operations.tobytes())
        self._operations = np.frombuffer(joined, OPERATION)
        self._address = self._operations.ctypes.data
        self.stages = self.stages + stages
        self.owners = self.owners + owners
        self.arguments = self.arguments + arguments

    def __len__(self) -> int:
        """Count the calls."""
        return len(self.stages)

    def end_of_norm(self, norm: int) -> None:
        """Mark the end of the calls that need the offline norm, which is call number `norm`.

        While the norm takes moments, the calls up to here are skipped; without this, all that
        follow.
        """
        self._operations["otherwise"][norm] = len(self) - norm - 1

    def play(
        self, frame: int, n_frame: int, x: np.ndarray = _NO_SAMPLES, out: np.ndarray = _NO_SAMPLES
    ) -> None:
        """Run all calls.

        Parameters
        ----------
        frame : int
            Index of the first frame in the stream.
        n_frame : int
            Number of frames, at most as many as the arrays have room for.
        x, out : float32 array, shape (n_frame * hop,), optional
            Samples for `push_hop` and `mix_dry`, and where those of `synthesise` go.
        """
        self._call(self._address, len(self), frame, n_frame, x, out)

    def play_call(
        self,
        call: int,
        frame: int,
        n_frame: int,
        x: np.ndarray = _NO_SAMPLES,
        out: np.ndarray = _NO_SAMPLES,
    ) -> None:
        """Run one of the calls as `play` does, to time it."""
        at = self._address + call * self._operations.itemsize
        self._call(at, 1, frame, n_frame, x, out)

    @staticmethod
    def _call(at: int, n: int, frame: int, n_frame: int, x: np.ndarray, out: np.ndarray) -> None:
        play = function("program.play")
        play(at, n, frame, n_frame, place(x), x.shape[0], place(out), out.shape[0])
