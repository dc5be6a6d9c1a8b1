"""Recurrent stacks: packed weights shared by all streams, and passes that work on one stream."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import GATES, Sequence
from .kernels import cpu, tables
from .kernels.cpu import HAS_BYTE_PRODUCT, PANEL
from .kernels.tables import array_record
from .machine_code import address, function, place
from .packing import aligned, pack_f32, pack_i8, pack_vector, padded
from .program import Program
from .quantise import to_float16
from .state import Fields, State

_CODES = {
    None: (tables.NONE, 0.0),
    "ReLU": (tables.RELU, 0.0),
    "ReLU6": (tables.RELU6, 0.0),
    "LeakyReLU": (tables.LEAKY, 0.01),
    "PReLU": (tables.LEAKY, 0.0),  # its slope is a tensor
    "Tanh": (tables.TANH, 0.0),
}
_STATES = {"LSTM": ("h", "c"), "GRU": ("h",)}
# Types of a product's arrays that are not float32, other than the weights.
_TYPES: dict[str, Any] = {"shift": np.int32, "q": np.uint8}

#: Outputs whose weights have this norm, one large weight or many smaller ones, move those beside
#: them by some 5e-5: results of Strassen's products share rounding errors.
LARGEST_NORM = 16.0


class Product:
    """A packed matrix in float32: out = x w^T + bias.

    Parameters
    ----------
    weight : array, shape (G N, K)
    bias : array, shape (G N,)
    gates : int
        G, gates of N outputs each. Each panel of gate 0 is followed by those of the others that
        belong to the same outputs.

    Attributes
    ----------
    precision : str
        Its arithmetic, one of `PRODUCTS`.
    together : int
        Panels that are computed together: work that is cut short ends at a multiple. For
        Strassen's products, so that the bits stay the same.
    fields : tuple of str
        Fields of a `tables.PRODUCT` for `weights`, then for scratch.
    tile : int
        Rows that the kernel works on at once.
    own_work : float
        In a block of two frames: time of the work that only the last one can do (W_ih x and the
        cells), over that of the work that both share (W_hh h). So chosen that both frames of a
        Fast FullSubNet of the paper's size take the same time; 1 where the last one takes longer
        even without a share of what both could do.
    """

    precision = "float32"
    together = cpu.PANELS
    fields: tuple[str, ...] = ("weight", "kept")
    tile = cpu.ROWS
    own_work = 0.7 if cpu.IS_NARROW else 0.6

    def __init__(self, weight: np.ndarray, bias: np.ndarray, gates: int = 1) -> None:
        self.bias = pack_vector(bias.astype(np.float32), gates)
        self.width = self.bias.shape[0]
        self.weights: tuple[np.ndarray, ...] = self._pack(weight, gates)
        for array in (self.bias, *self.weights):
            array.setflags(write=False)

    def _pack(self, weight: np.ndarray, gates: int) -> tuple[np.ndarray, ...]:
        return (pack_f32(weight, gates),)

    def scratch(self, rows: int, columns: int, block: int) -> tuple[np.ndarray, ...]:
        """Return what a pass needs to multiply rows of `columns` values, as `bind` does."""
        packed = self.weights[0]
        widens = cpu.WIDENS and block >= cpu.WIDENED_ROWS and packed.dtype == np.uint16
        kept = cpu.PANELS if widens else 0, packed.shape[1] + tables.APART, PANEL
        return (aligned(kept, np.float32),)

    def operations(self, rows: int, n_in: int) -> float:
        """Count the multiplications and additions of `rows` rows of `n_in` inputs."""
        return 2.0 * rows * n_in * self.width

    @property
    def kernels(self) -> dict[str, str]:
        """Names of kernels in `kernels.products`, by their fields in a `tables.PRODUCT`."""
        return {"kernel": self._of_weights("product_f16", "product_f32_weights")}

    def _of_weights(self, halves: str, floats: str) -> str:
        return halves if self.weights[0].dtype == np.uint16 else floats

    @property
    def panels(self) -> int:
        """Panels of outputs."""
        return self.width // PANEL

    def bind(self, rows: int, columns: int, block: int | None = None) -> BoundProduct:
        """Return the product of up to `rows` rows of `columns` values as a function.

        `block` is how many rows a block of frames has, if not as many.
        """
        return BoundProduct(self, self.scratch(rows, columns, rows if block is None else block))


class Int8Product(Product):
    """A packed matrix in int8 with a scale per row; inputs are quantised row by row.

    Inputs come in whole panels, padded with zeros.
    """

    precision = "int8"
    fields = "weight", "scale", "shift", "q", "q_scale"
    tile = cpu.BLOCK_I8
    # The faster byte products are, the less they weigh beside the cells.
    own_work = 1.0 if cpu.HAS_TILES else 6 / 7 if HAS_BYTE_PRODUCT else 4 / 5

    def _pack(self, weight: np.ndarray, gates: int) -> tuple[np.ndarray, ...]:
        return pack_i8(weight, gates)

    @property
    def kernels(self) -> dict[str, str]:
        """The product in tile registers, where there are any and it fills them, or in vectors."""
        tiles = cpu.HAS_TILES and cpu.fits(self.weights[0].shape[1])
        return {"kernel": f"product_{'tiles' if tiles else 'bytes'}", "ready": "quantise_inputs"}

    def scratch(self, rows: int, columns: int, block: int) -> tuple[np.ndarray, ...]:
        """Return quantised inputs and their scales."""
        whole_tiles = -(-rows // self.tile) * self.tile
        return aligned((whole_tiles, columns), np.uint8), np.zeros(rows, np.float32)


class StrassenProduct(Product):
    """A packed matrix in float32 that meets many rows of hidden states, by Strassen's algorithm."""

    together = tables.GROUP_PANELS
    fields = "weight", "sums", "partial", "kept"
    tile = 2 * cpu.ROWS  # rows have partners

    @staticmethod
    def suits(units: int, spec: Sequence, tensors: Mapping[str, np.ndarray], prefix: str) -> bool:
        """Whether it takes the place of `Product` for the hidden states of a stack.

        It is faster for large layers, and as exact where the weights of no output stand out.
        """
        n_in = spec.hidden_size
        large = units >= cpu.STRASSEN_ROWS and n_in >= cpu.STRASSEN_INPUTS
        if not (cpu.STRASSEN and large and spec.cell == "LSTM" and n_in % (2 * PANEL) == 0):
            return False
        names = [f"weight_hh_l{i}" for i in range(spec.num_layers)]
        names += [f"weight_ih_l{i}" for i in range(1, spec.num_layers)]
        weights = (tensors[f"{prefix}.sequence_model.{name}"].astype("d") for name in names)
        norms = (np.linalg.norm(weight, axis=1).max() for weight in weights)
        return all(norm <= LARGEST_NORM for norm in norms)

    @property
    def kernels(self) -> dict[str, str]:
        """The product of quarters, and the one for outputs and rows that make no whole groups."""
        return {
            "kernel": self._of_weights("product_summed_f16", "product_summed"),
            "ready": "sum_inputs",
            "plain": super().kernels["kernel"],
        }

    def operations(self, rows: int, n_in: int) -> float:
        """Count as `Product` does: an eighth less for rows with partners and whole groups."""
        whole = self.panels // tables.GROUP_PANELS * tables.GROUP_PANELS / self.panels
        with_partners = super().operations(rows // 2 * 2, n_in)
        return super().operations(rows, n_in) - with_partners * whole / 8.0

    def scratch(self, rows: int, columns: int, block: int) -> tuple[np.ndarray, ...]:
        """Return scratch for sums of inputs, for partial results and for sums of weights."""
        upper, k = (rows + 1) // 2, columns // 2
        return (
            aligned((tables.QUARTERS, upper, k), np.float32),
            aligned((2, upper, cpu.PANELS * PANEL), np.float32),
            aligned((3, cpu.PANELS, (k + tables.APART) * PANEL), np.float32),
        )


class BoundProduct:
    """A product with scratch of its own.

    Parameters
    ----------
    product : Product
    scratch : tuple of array

    Attributes
    ----------
    table : array of `tables.PRODUCT`, shape (1,)
        How kernels see it. The table keeps nothing alive: this object does. The table of a copy
        would still point to the arrays of the original.
    """

    def __init__(self, product: Product, scratch: tuple[np.ndarray, ...]) -> None:
        self.product, self.scratch = product, scratch
        self.table = np.zeros(1, tables.PRODUCT)
        packed = product.weights[0]
        for field, kernel in product.kernels.items():
            self.table[field] = address(f"products.{kernel}")
        self.table["together"] = product.together
        self.table["bias"] = array_record(product.bias)
        for field, array in zip(product.fields, (*product.weights, *scratch), strict=True):
            dtype = packed.dtype if field == "weight" else _TYPES.get(field, np.float32)
            self.table[field] = array_record(array, dtype)

    def __call__(self, x: np.ndarray, out: np.ndarray, rows: int) -> None:
        """Multiply rows 0 .. rows - 1: x float32[R, >= K] -> out float32[R, width]."""
        matmul = function("calls.matmul")
        matmul(place(x), x.shape[1], place(self.table), rows, place(out), out.shape[1])


#: Arithmetic of the products of a network.
PRODUCTS: dict[str, type[Product]] = {"float32": Product, "int8": Int8Product}


def _product(
    weight: np.ndarray, bias: np.ndarray, precision: str, in_floats: bool, gates: int = 1
) -> Product:
    """Return a product; with `in_floats`, int8 networks use half-precision weights for it."""
    if in_floats:
        return Product(to_float16(weight) if precision == "int8" else weight, bias, gates)
    return PRODUCTS[precision](weight, bias, gates)


class RecurrentLayer:
    """Weights of one LSTM or GRU layer."""

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        layer: int,
        cell: str,
        precision: str,
        floats_in: bool,
        inner: type[Product],
    ) -> None:
        gates = GATES[cell]
        w_ih, w_hh, b_ih, b_hh = (
            tensors[f"{prefix}.sequence_model.{part}_l{layer}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        b_ih, b_hh = b_ih.astype(np.float32), b_hh.astype(np.float32)
        if cell == "LSTM":  # an LSTM only needs the sum of both biases
            b_ih, b_hh = b_ih + b_hh, np.zeros_like(b_hh)
        # Inputs of int8 products are whole panels: hidden states are, features need not be.
        in_floats = floats_in or w_ih.shape[1] % PANEL > 0
        if layer:  # its inputs are hidden states, too
            self.input = inner(w_ih, b_ih, gates)
        else:
            self.input = _product(w_ih, b_ih, precision, in_floats, gates)
        self.recurrent = inner(w_hh, b_hh, gates)


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
    floats_in : bool
        Whether the first layer's input product stays in floats with int8: for inputs with the
        dynamic range of a spectrum.
    floats_out : bool
        Whether the linear layer's product does: for outputs that are the mask.
    units : int
        U, units that share the weights.
    """

    def __init__(
        self,
        spec: Sequence,
        tensors: Mapping[str, np.ndarray],
        prefix: str,
        precision: str,
        floats_in: bool = True,
        floats_out: bool = False,
        units: int = 1,
    ) -> None:
        self.spec, self.key, self.units = spec, prefix, units
        inner = PRODUCTS[precision]  # what multiplies hidden states
        if precision == "float32" and StrassenProduct.suits(units, spec, tensors, prefix):
            inner = StrassenProduct
        self.layers = [
            RecurrentLayer(tensors, prefix, i, spec.cell, precision, floats_in, inner)
            for i in range(spec.num_layers)
        ]
        self.linear = None
        self.code, slope = _CODES[spec.activation]
        if spec.activation == "PReLU":
            slope = float(np.asarray(tensors[f"{prefix}.activate_function.weight"]).reshape(-1)[0])
        self.slope = np.float32(slope)
        if spec.output_size:
            weight, bias = (tensors[f"{prefix}.fc_output_layer.{x}"] for x in ("weight", "bias"))
            self.linear = _product(weight, bias, precision, in_floats=floats_out)

    def fields(self) -> Fields:
        """Entries of the state: h (and c) of every layer, in whole panels."""
        shape = (self.units, padded(self.spec.hidden_size))
        return {
            f"{self.key}.{name}{i}": (shape, np.float32)
            for i in range(self.spec.num_layers)
            for name in _STATES[self.spec.cell]
        }

    def shared_by(self, units: int) -> Recurrent:
        """Return the same weights for another number of units."""
        other = copy.copy(self)
        other.units = units
        return other

    def bind(self, state: State, frames: int, turn: int = 0) -> RecurrentPass:
        """Return the stack bound to `state`, for blocks of at most `frames` frames.

        Run frame by frame, a one-unit layer reads its recurrent weights in every other frame
        (`kernels.layers.recur`): the first layer in odd frames if `turn` is odd, the next in even.
        """
        return RecurrentPass(self, state, frames, turn)


def _group_size(units: int, tile: int) -> int:
    """Return the size of equal groups, of about `cpu.GROUP` units at most, in whole tiles."""
    groups = -(-units // cpu.GROUP)
    tiles = -(-units // (groups * tile))
    return min(tiles * tile, units)


class RecurrentPass:
    """A stack bound to the state of one stream and to scratch for blocks of frames.

    Parameters
    ----------
    weights : Recurrent
    state : State
    frames : int
        The most frames in a block.
    turn : int
        As in `Recurrent.bind`.

    Attributes
    ----------
    every : int
        s: it runs once in s frames (`write`).
    inputs, recurrent : list of BoundProduct
        W_ih x and W_hh h of each layer.
    states : list of dict of str to array
        h, and c of an LSTM, of each layer.
    layers, stack : array of `tables.LAYER`, array of `tables.STACK`
        How kernels see all of it.
    linear : BoundProduct or None
    kept : list
        What else `layers` points to: tables keep nothing alive (`npfsn.beside`).
    r : list of float32 array, shape (n, G H)
        Recurrent product of each layer, as far as it is done ahead of time.
    p, r_few : float32 array
        Scratch: input products, and recurrent products that are not done ahead.
    y, z, out : float32 array
        Scratch: hidden states, and the linear layer before and after its activation.
    """

    def __init__(self, weights: Recurrent, state: State, frames: int, turn: int) -> None:
        self.weights = weights
        self.every = 1
        self.kept: list[Any] = []
        spec, units = weights.spec, weights.units
        size, width = padded(spec.hidden_size), weights.layers[0].input.width
        rows, group = frames * units, _group_size(units, weights.layers[0].recurrent.tile)
        n_p = frames if units == 1 else group
        p_width = width if units == 1 else GATES[spec.cell] * tables.CELL_PANELS * PANEL
        columns = [padded(spec.input_size)] + [size] * (spec.num_layers - 1)
        self.inputs = [
            layer.input.bind(n_p, n, rows) for layer, n in zip(weights.layers, columns, strict=True)
        ]
        self.recurrent = [layer.recurrent.bind(group, size, rows) for layer in weights.layers]
        self.states = [
            {name: state[f"{weights.key}.{name}{i}"] for name in _STATES[spec.cell]}
            for i in range(spec.num_layers)
        ]
        self.r = [aligned((group, width), np.float32) for _ in weights.layers]
        # How kernels see all of these (see `tables.LAYER`, `tables.STACK`).
        self.layers = np.zeros(spec.num_layers, tables.LAYER)
        for i in range(spec.num_layers):
            self.layers["input"][i] = self.inputs[i].table[0]
            self.layers["recurrent"][i] = self.recurrent[i].table[0]
            self.layers["r"][i] = array_record(self.r[i])
            self.layers["turn"][i] = (turn + i) % 2
            for name, array in self.states[i].items():
                self.layers[name][i] = array_record(array)

        self.p = aligned((n_p, p_width), np.float32)
        self.r_few = aligned((group if units > 1 else 0, p_width), np.float32)
        # Hidden states: layers alternate between the two.
        self.y = [aligned((rows, size), np.float32) for _ in range(min(2, spec.num_layers))]
        self.z = aligned((rows, padded(spec.output_size)), np.float32)
        self.out = np.zeros((rows, spec.width), np.float32)
        self.stack = np.zeros(1, tables.STACK)
        self.stack["gates"] = GATES[spec.cell]
        self.stack["activation"], self.stack["slope"] = weights.code, weights.slope
        self.stack["p"], self.stack["r"] = array_record(self.p), array_record(self.r_few)
        self.linear = weights.linear.bind(rows, size) if weights.linear else None
        if self.linear is not None:
            self.stack["linear"], self.stack["z"] = self.linear.table, array_record(self.z)

    def forget(self) -> None:
        """Drop what was computed ahead of time: the state has been replaced."""
        self.layers["done"] = 0

    def begin(self) -> None:
        """Set the recurrent products of the first frame to the biases: the state is all zeros."""
        for i, layer in enumerate(self.weights.layers):
            self.r[i][:] = layer.recurrent.bias
            self.layers["done"][i] = layer.recurrent.panels

    def write(self, program: Program, x: np.ndarray, every: int = 1) -> np.ndarray:
        """Add the stack to a program.

        Parameters
        ----------
        program : Program
        x : float32 array, shape (frames U, >= input_size)
            If the first product is in int8, whole panels and no more.
        every : int
            s: it runs once for each block of s frames, when the block ends (`Program.add`).

        Returns
        -------
        float32 array, shape (frames U, output_size), or with hidden_size in whole panels
            Where its results will be: scratch of this pass, valid until its next frames.
        """
        self.write_layers(program, x, every)
        return self.write_linear(program)

    def write_layers(self, program: Program, x: np.ndarray, every: int = 1) -> None:
        """Add the recurrent layers to a program, as `write` does."""
        self.every = every
        how: dict[str, Any] = {"stage": self.weights.key, "every": every, "owner": self}
        for i, y in enumerate(self.outputs):
            program.add("recur", x, self.layers[i : i + 1], self.stack, y, **how)
            x = y

    def write_linear(self, program: Program) -> np.ndarray:
        """Add the linear layer after them, if there is one, to a program, as `write` does."""
        x = self.outputs[-1]
        if self.linear is None:
            return x
        how: dict[str, Any] = {"stage": self.weights.key, "every": self.every, "owner": self}
        program.add("linear", x, self.weights.units, self.stack, self.out, **how)
        return self.out

    @property
    def outputs(self) -> list[np.ndarray]:
        """Where the hidden states of each layer go: two arrays that layers use alternately."""
        return [self.y[i % 2] for i in range(len(self.layers))]

    def spread(self, program: Program) -> None:
        """Share out the recurrent products of a stack that runs in every s-th frame among s frames.

        W_hh h of all layers needs only the last state, and may be two thirds of the work. Each
        frame computes some of its panels: `due` says how many are done after it, by its place in
        the block, 0 for the frame that ended the last block. That frame also runs the cells, so it
        computes only as many panels as make it as long as the others, or none.
        """
        last = self.every - 1
        if last == 0:
            return  # every frame ends a block
        own_work = self.recurrent[0].product.own_work
        first_share = max((1.0 - own_work * last) / self.every, 0.0)
        panels = sum(layer.recurrent.panels for layer in self.weights.layers)
        due = [
            round(panels * (step + first_share * (last - step)) / last)
            for step in range(self.every)
        ]
        program.add("prepare", self.layers, np.array(due, np.int64), stage=self.weights.key)
