"""Work of one-unit layers that the tiles of a stack with many units do besides their own.

A one-unit layer is bound by memory: it reads megabytes of weights for one row. A bottleneck is
bound by arithmetic. So the bottleneck's tiles prefetch the weights that such layers read next and,
for blocks of frames, also multiply their rows: overlapped, both take less time than in sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels import cpu, tables
from .kernels.cpu import PANEL
from .kernels.tables import array_record
from .layers import RecurrentPass
from .machine_code import address, function
from .program import Program

_NOTHING = dict.fromkeys(tables.PIECE.names or (), 0)
_PANEL_BYTES = 4 * PANEL


class Beside:
    """Pieces of work for the tiles of `host`, in the order in which they are due.

    Writes into the tables of `host`. Frame by frame, a stream uses `ahead` and `write`. Files, in
    blocks of frames, use `block` and `divide`, then `begin` and `finish` around each run of `host`.

    Parameters
    ----------
    host : RecurrentPass
        A stack whose tiles have room for them (`possible`).
    """

    def __init__(self, host: RecurrentPass) -> None:
        self.queue = np.zeros(1, tables.QUEUE)
        host.kept.append(self.queue)  # for its tiles, should an interrupt leave nothing else
        self._pieces: list[tuple[int, ...]] = []  # of tables.PIECE
        self._table = np.zeros(0, tables.PIECE)
        self._steps = _weights(host)[0].shape[1]
        # Not the first layer's input product: it has too few inputs for its tiles to do more.
        for table in (host.layers["recurrent"], host.layers["input"][1:]):
            table["queue"] = self.queue.ctypes.data
        self._lines: list[np.ndarray] = []
        self._division = 0, 0  # counts of pieces and lines of the first of two blocks
        self._host = host
        self._kept: list[Any] = []  # what else pieces point to: tables keep nothing alive

    @staticmethod
    def possible(host: RecurrentPass, *stacks: RecurrentPass) -> bool:
        """Whether tiles of `host` have room for more, and can multiply rows of `stacks` (`block`).

        Not in int8, whose weights stay in a near cache anyway; with AVX2, only to prefetch.
        Tiles multiply no weights but those of their own type.
        """
        tiles = _weights(host) + [part.product.weights[0] for part in host.inputs[1:]]
        own = {weight.dtype for weight in tiles}
        others = {weight.dtype for stack in stacks for weight in _weights(stack)}
        floats = {np.dtype(np.float32)}, {np.dtype(np.uint16)}
        room = cpu.PREFETCH if stacks else cpu.AHEAD_BYTES
        return bool(room) and own in floats and others <= own

    def __len__(self) -> int:
        """Count the pieces."""
        return len(self._pieces)

    @property
    def pieces(self) -> np.ndarray:
        """All pieces as kernels see them: array of `tables.PIECE`."""
        if len(self._table) != len(self):
            self._table = np.array(self._pieces, tables.PIECE)
            self.queue["pieces"] = self._table.ctypes.data
        return self._table

    def ahead(self, stacks: list[RecurrentPass]) -> None:
        """Prepare the next frame of one-unit `stacks` that follow the host in each frame.

        Prefetch their recurrent weights, compute the products as soon as these are there, then
        prefetch the other weights: as much as there is time for.
        """
        self._kept += stacks
        for stack in stacks:
            for i, packed in enumerate(_weights(stack)):
                self._prefetch(packed, stack.layers[i:].ctypes.data)
        for stack in stacks:
            for other in (*stack.inputs, stack.linear):
                if other is not None:
                    self._prefetch(other.product.weights[0])

    def block(self, stack: RecurrentPass, x: np.ndarray, *, linear: bool = True) -> np.ndarray:
        """Add the pieces that run a one-unit stack over a block of frames.

        Parameters
        ----------
        stack : RecurrentPass
        x : float32 array, shape (frames, >= input_size)
            Its input.
        linear : bool
            Whether to run its linear layer, too, if it has one.

        Returns
        -------
        float32 array
            Where its results will be, as in `RecurrentPass.write`.
        """
        self._kept.append(stack)
        address("layers.finish_queue")  # compiled now, not in mid-stream
        for i, y in enumerate(stack.outputs):
            layer = stack.layers[i:].ctypes.data
            line = self._line(stack, x, y, layer)
            self._event(line, tables.PROJECT)
            line["first"] = len(self)
            self._multiply(stack, i, layer)
            self._event(line, tables.CELL)
            x = y
        if not linear or stack.linear is None:
            return x
        self._event(self._line(stack, x, stack.out), tables.LINEAR)
        return stack.out

    def divide(self) -> None:
        """Mark the pieces added from here on as those of the second block."""
        self._division = len(self._pieces), len(self._lines)

    def write(self, program: Program) -> None:
        """Add a call to a program that makes all pieces due in the calls after it."""
        end, stage = len(self.pieces), self._host.weights.key
        program.add("begin_queue", self.queue, end, stage=stage, owner=self)

    def begin(self, frames: int, others: int) -> None:
        """Make the pieces of both blocks due, for this many frames each; 0: none of that block."""
        n_piece, n_line = self._division
        for i, line in enumerate(self._lines):
            line["frames"] = frames if i < n_line else others
        first, end = 0 if frames else n_piece, len(self) if others else n_piece
        self.queue[0] = first, 0, end, self.pieces.ctypes.data

    def finish(self) -> None:
        """Do the pieces that the tiles had no time for."""
        function("layers.finish_queue")(self.queue.ctypes.data)

    def _add(self, **fields: int) -> None:
        self._pieces.append(tuple({**_NOTHING, **fields}.values()))

    def _prefetch(self, weights: np.ndarray, layer: int = 0) -> None:
        """Prefetch weights, a tile's share per piece.

        If they are a layer's recurrent ones, compute its product as far as they are there, in
        whole strides.
        """
        panels, share, done = len(weights), self._steps * cpu.AHEAD_BYTES, 0
        start, size = weights.ctypes.data, weights[0].nbytes
        for at in range(0, weights.nbytes, share):
            there = min((at + share) // size, panels)
            if there < panels:
                there -= there % cpu.PANELS_ONE_ROW
            then = {}
            if layer and there > done:
                then = {"then": address("layers.work_ahead"), "argument": layer, "count": there}
                done = there
            self._add(prefetch=start + at, steps=self._steps, **then)

    def _multiply(self, stack: RecurrentPass, i: int, layer: int) -> None:
        """Compute the recurrent product of layer i for one frame, some panels at a time."""
        packed = _weights(stack)[i]
        at_once = cpu.panels_beside(packed.itemsize)
        panels, steps, _ = packed.shape
        weight, size = packed.ctypes.data, packed[0].nbytes
        bias, out = stack.recurrent[i].product.bias.ctypes.data, stack.r[i].ctypes.data
        # An odd count of panels, two at a time, computes one twice, which does not count as done in
        # between.
        firsts = [min(first, panels - at_once) for first in range(0, panels, at_once)]
        for first, following in zip(firsts, [*firsts[1:], panels], strict=True):
            self._add(
                prefetch=weight + following % panels * size,  # then the first again: the next frame
                weight=weight + first * size,
                steps=steps,
                input=stack.states[i]["h"].ctypes.data,
                bias=bias + first * _PANEL_BYTES,
                out=out + first * _PANEL_BYTES,
                argument=layer,
                count=following,
            )

    def _event(self, line: np.ndarray, event: int) -> None:
        self._add(then=address("layers.go_on"), argument=line.ctypes.data, count=event)

    def _line(self, stack: RecurrentPass, x: np.ndarray, y: np.ndarray, layer: int = 0) -> Any:
        line = np.zeros(1, tables.LINE)
        line["x"], line["y"], line["layer"] = array_record(x), array_record(y), layer
        line["stack"], line["queue"] = stack.stack.ctypes.data, self.queue.ctypes.data
        self._lines.append(line)
        self._kept.append(x)
        return line


def _weights(stack: RecurrentPass) -> list[np.ndarray]:
    """Return the packed recurrent weights of a stack's layers."""
    return [part.product.weights[0] for part in stack.recurrent]
