"""Recurrent stacks: packed weights shared by all streams, and passes that work on one stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .config import CELLS, Sequence
from .kernels import layers as kernels
from .kernels.layers import pack_f32, pack_i8, padded
from .kernels.vector import PANEL, QUANTISED, aligned
from .state import Fields, State

_CODES = {
    None: (kernels.NONE, 0.0),
    "ReLU": (kernels.RELU, 0.0),
    "ReLU6": (kernels.RELU6, 0.0),
    "LeakyReLU": (kernels.LEAKY, 0.01),
    "PReLU": (kernels.LEAKY, 0.0),  # its slope is a tensor
    "Tanh": (kernels.TANH, 0.0),
}
_STATES = {"LSTM": ("h", "c"), "GRU": ("h",)}
# At most so many units are worked on together, so that their gates stay in the caches.
_BLOCK = 72

Panels = tuple[int, int] | None


def _gates_in_panels(tensor: np.ndarray, gates: int) -> np.ndarray:
    """Order the rows of `tensor` [gates H, ...] as cells take them: for each panel, all gates."""
    size = tensor.shape[0] // gates
    n_panel = padded(size) // PANEL
    spread = np.zeros((gates, n_panel * PANEL, *tensor.shape[1:]), tensor.dtype)
    spread[:, :size] = tensor.reshape(gates, size, *tensor.shape[1:])
    by_panel = spread.reshape(gates, n_panel, PANEL, *tensor.shape[1:]).swapaxes(0, 1)
    return by_panel.reshape(gates * n_panel * PANEL, *tensor.shape[1:])


class Product:
    """A packed matrix in float32: out = x w^T + bias.

    Parameters
    ----------
    weight : array, shape (N, K)
    bias : array, shape (N,)
    """

    matmul: ClassVar[Any] = staticmethod(kernels.matmul_f32)

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.width = padded(weight.shape[0])
        self.bias = np.zeros(self.width, np.float32)
        self.bias[: bias.shape[0]] = bias
        self.weights: tuple[np.ndarray, ...] = self._pack(weight)
        for array in (self.bias, *self.weights):
            array.setflags(write=False)

    def _pack(self, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        return (pack_f32(weight),)

    def scratch(self, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        """Return what a pass needs to multiply up to `rows` rows of `columns` values."""
        return ()

    @property
    def panels(self) -> int:
        """Panels of outputs."""
        return self.width // PANEL

    def __call__(
        self, x: np.ndarray, out: np.ndarray, scratch: tuple, rows: int, panels: Panels = None
    ) -> None:
        """Multiply rows 0 .. rows - 1: x float32[R, >= K] -> out float32[R, width].

        All panels of the outputs, or those from the first to before the second of `panels`.
        """
        first, last = panels or (0, self.panels)
        self.matmul(x, *self.weights, *scratch, self.bias, rows, first, last, out)


class Int8Product(Product):
    """A packed matrix in int8 with a scale per row; inputs are quantised row by row.

    They come in whole panels, zeros behind the last input.
    """

    matmul: ClassVar[Any] = staticmethod(kernels.matmul_i8)

    def _pack(self, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        return pack_i8(weight)

    def scratch(self, rows: int, columns: int) -> tuple[np.ndarray, ...]:
        """Return quantised inputs and their scales."""
        return aligned((rows, columns), QUANTISED), np.zeros(rows, np.float32)


#: Arithmetic of the products of a network.
PRODUCTS: dict[str, type[Product]] = {"float32": Product, "int8": Int8Product}


class RecurrentLayer:
    """Weights of one LSTM or GRU layer."""

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        layer: int,
        cell: str,
        precision: str,
        features: bool,
    ) -> None:
        gates = CELLS[cell]
        w_ih, w_hh, b_ih, b_hh = (
            tensors[f"{prefix}.sequence_model.{part}_l{layer}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        b_ih, b_hh = b_ih.astype(np.float32), b_hh.astype(np.float32)
        if cell == "LSTM":  # both biases meet in the sum of the gates
            b_ih, b_hh = b_ih + b_hh, np.zeros_like(b_hh)
        product = PRODUCTS[precision]
        # Quantised rows come in whole panels; hidden states do.
        as_is = layer == 0 and (features or w_ih.shape[1] % PANEL)
        first = Product if as_is else product
        self.input = first(_gates_in_panels(w_ih, gates), _gates_in_panels(b_ih, gates))
        self.recurrent = product(_gates_in_panels(w_hh, gates), _gates_in_panels(b_hh, gates))


class Recurrent:
    """Weights of a stack: recurrent layers, then perhaps a linear layer with an activation.

    Parameters
    ----------
    spec : Sequence
    tensors : mapping of str to array
        The checkpoint's tensors.
    prefix : str
        Where this stack's tensors are, e.g. "encoder.0"; also its place in the state.
    precision : {"float32", "int8"}
    features : bool
        Whether the input has the dynamic range of a spectrum: its product then stays float32.
    """

    def __init__(
        self,
        spec: Sequence,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        precision: str,
        features: bool = True,
    ) -> None:
        self.spec, self.key = spec, prefix
        self.layers = [
            RecurrentLayer(tensors, prefix, i, spec.cell, precision, features)
            for i in range(spec.num_layers)
        ]
        self.linear = None
        self.code, slope = _CODES[spec.activation]
        if spec.activation == "PReLU":
            slope = float(np.asarray(tensors[f"{prefix}.activate_function.weight"]).reshape(-1)[0])
        self.slope = np.float32(slope)
        if spec.output_size:
            self.linear = PRODUCTS[precision](
                tensors[f"{prefix}.fc_output_layer.weight"],
                tensors[f"{prefix}.fc_output_layer.bias"],
            )

    def fields(self, units: int) -> Fields:
        """Entries of the state for `units` units: h (and c) of every layer, in whole panels."""
        shape = (units, padded(self.spec.hidden_size))
        return {
            f"{self.key}.{name}{i}": (shape, np.float32)
            for i in range(self.spec.num_layers)
            for name in _STATES[self.spec.cell]
        }

    def bind(self, state: State, units: int, frames: int) -> RecurrentPass:
        """Return the stack as a function of at most `frames` frames, working on `state`."""
        return RecurrentPass(self, state, units, frames)


def _block_size(units: int) -> int:
    """Size of equal blocks of at most `_BLOCK` units: a last one of one would waste its weights."""
    blocks = -(-units // _BLOCK)
    return -(-units // blocks)


class RecurrentPass:
    """A stack bound to the state of one stream and to scratch for blocks of frames."""

    def __init__(self, weights: Recurrent, state: State, units: int, frames: int) -> None:
        self.weights, self.units, self.frames = weights, units, frames
        spec = weights.spec
        self.states = [
            tuple(state[f"{weights.key}.{name}{i}"] for name in _STATES[spec.cell])
            for i in range(spec.num_layers)
        ]
        size, gates = padded(spec.hidden_size), weights.layers[0].input.width
        rows, self.block = frames * units, _block_size(units)
        n_p = frames if units == 1 else self.block
        p_width = gates if units == 1 else CELLS[spec.cell] * kernels.CELLS * PANEL
        columns = [padded(spec.input_size)] + [size] * (spec.num_layers - 1)
        # Weights and scratch of the two products of each layer, as the kernels take them.
        self.inputs = [
            (*layer.input.weights, *layer.input.scratch(n_p, n))
            for layer, n in zip(weights.layers, columns, strict=True)
        ]
        self.scratch = [layer.recurrent.scratch(self.block, size) for layer in weights.layers]
        self.recurrent = [
            (*layer.recurrent.weights, *scratch)
            for layer, scratch in zip(weights.layers, self.scratch, strict=True)
        ]
        self.p = aligned((n_p, p_width), np.float32)  # W_ih x
        self.r = [aligned((self.block, gates), np.float32) for _ in weights.layers]  # W_hh h
        self.done = [np.zeros(1, np.int64) for _ in weights.layers]  # panels of r that are ready
        # Hidden states of a layer and of the one below it, in turns.
        self.y = [aligned((rows, size), np.float32) for _ in range(2)]
        if weights.linear is not None:
            self.out_scratch = weights.linear.scratch(rows, size)
        self.z = aligned((rows, padded(spec.output_size)), np.float32)
        self.out = np.zeros((rows, spec.width), np.float32)

    def forget(self) -> None:
        """Drop what was prepared: the state has been replaced."""
        for done in self.done:
            done[0] = 0

    @property
    def panels(self) -> int:
        """Panels of one layer's recurrent product."""
        return self.weights.layers[0].recurrent.panels

    def prepare(self, layer: int, panels: int) -> None:
        """Do the first panels of the recurrent product of the next frame ahead of time.

        It needs the state alone, so a frame with little work can take it from a frame with much.
        Panels, not units: each is read from memory once, whoever does it.
        """
        done = self.done[layer]
        start = int(done[0])
        if panels > start:
            h, r, scratch = self.states[layer][0], self.r[layer], self.scratch[layer]
            self.weights.layers[layer].recurrent(h, r, scratch, self.block, (start, panels))
            done[0] = panels

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run a block of T frames.

        Parameters
        ----------
        x : float32 array, shape (T U, >= input_size)
            T at most `frames`.

        Returns
        -------
        float32 array, shape (T U, output_size), or with hidden_size in whole panels
            Scratch of this pass: valid until its next call.
        """
        rows = x.shape[0]
        (y, other), z, out = self.y, self.z, self.out
        if rows != y.shape[0]:
            y, other, z, out = y[:rows], other[:rows], z[:rows], out[:rows]
        for i, layer in enumerate(self.weights.layers):
            kernels.recur(
                x, self.inputs[i], layer.input.bias, self.recurrent[i], layer.recurrent.bias,
                self.done[i], self.p, self.r[i], self.states[i], y,
            )  # fmt: skip
            x, y, other = y, other, y
        if self.weights.linear is None:
            return x
        self.weights.linear(x, z, self.out_scratch, rows)
        kernels.activate(z, self.weights.code, self.weights.slope, out)
        return out
