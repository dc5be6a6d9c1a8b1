"""Tables that Python fills and kernels read: their layout and their codes.

A call from Python costs more with every array that it passes, and a frame has some two hundred. So
kernels find them through tables; the code that fills a table keeps its arrays alive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cpu import PANELS

#: The address of an array's first element, then its first three dimensions; the reader knows any
#: others.
ARRAY = np.dtype(
    [("address", np.int64), ("rows", np.int64), ("columns", np.int64), ("depth", np.int64)]
)


def array_record(array: np.ndarray, dtype: Any = np.float32) -> tuple[int, int, int, int]:
    """Return the `ARRAY` of `array`, which the caller keeps alive.

    Raises
    ------
    TypeError
        The array is of another type than the kernels expect, not contiguous or not aligned.
    """
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        raise TypeError(f"{array.dtype}, strides {array.strides}: expected contiguous {dtype}")
    rows, columns, depth = (*array.shape, 1, 1)[:3]
    return array.ctypes.data, rows, columns, depth


#: Output is clipped to this: only a network that amplifies the largest samples can reach it.
LOUDEST = 1e38

#: What a norm adds to a variance or a mean before it divides.
FLOAT32_EPS = float(np.finfo(np.float32).eps)

#: Partial sums of a filter in parallel, so that none waits for its last addition. Rows of taps are
#: multiples.
SUMS = 4

#: Products of quarters in Strassen's algorithm.
QUARTERS = 7
#: Panels of outputs that it computes together: those of w11 and w21, and of w12 and w22.
GROUP_PANELS = 2 * PANELS
#: Lines between panels of the weights that it keeps: without them, all would meet in the same set
#: of a cache.
APART = 7

#: Panels of units that are computed together: whole tiles of gates, which are still in the nearest
#: cache when the cells read them.
CELL_PANELS = PANELS

#: A norm: its parameters and its state.
NORM = np.dtype(
    [
        ("fitted", np.int64),  # 0: an offline norm that still takes moments
        ("horizon", np.float64),
        ("eps", np.float64),
        ("shift", np.float32),  # shift and scale: of a fitted offline norm
        ("scale", np.float32),
        # The state, under the names that `Norm.fields` gives it: no norm has all of it.
        ("count", ARRAY),  # f64[1]
        ("total", ARRAY),  # f64[U]
        ("square", ARRAY),  # f64[U]
        ("mu", ARRAY),  # f64[1]
        ("moments", ARRAY),  # f64[3]
    ]
)

#: Work that tiles of floats do beside their own (`multiply_panels`): a part of the product of one
#: row with other weights, some panels of them (`cpu.panels_beside`), and a prefetch. All fields but
#: `steps` and `count` are addresses, and `argument` may be one.
PIECE = np.dtype(
    [
        # From here on are prefetched AHEAD_BYTES in each step; or, with a weight, what these
        # panels take.
        ("prefetch", np.int64),
        ("weight", np.int64),  # of the first panel, of the type of `others` there; 0: prefetch only
        ("steps", np.int64),  # K, inputs of that row; 0: neither product nor prefetch, only `then`
        ("input", np.int64),  # f32[K], the row
        ("bias", np.int64),  # f32[PANEL] of each panel
        ("out", np.int64),  # f32[PANEL] of each panel
        ("then", np.int64),  # kernel(argument, count) to call at the end, or 0
        # With a weight, address of the LAYER of which `count` panels are then done.
        ("argument", np.int64),
        ("count", np.int64),
    ]
)

#: Pieces, in the order in which they are due.
QUEUE = np.dtype(
    [
        ("next", np.int64),  # index of the piece that is due
        ("step", np.int64),  # its steps that are done
        ("end", np.int64),  # index after the last one that is to be done
        ("pieces", np.int64),  # address of PIECE[>= end]
    ]
)

#: A matrix product, K inputs and P panels of outputs.
PRODUCT = np.dtype(
    [
        ("kernel", np.int64),  # address of one of those in `products`
        ("ready", np.int64),  # of what makes inputs ready for it, or 0
        ("plain", np.int64),  # of the one for what `product_strassen` leaves
        ("together", np.int64),  # panels: where work is cut short, it ends at a multiple
        ("weight", ARRAY),  # f32 or u16[P, K, PANEL], or i8[P, S, PANEL, DEPTH] (`pack_i8`)
        ("scale", ARRAY),  # f32[P PANEL]; scale to q_scale are of int8 alone
        ("shift", ARRAY),  # i32[P PANEL]
        ("q", ARRAY),  # u8[R, X], quantised inputs, whole tiles of rows
        ("q_scale", ARRAY),  # f32[R], their scales
        ("bias", ARRAY),  # f32[P PANEL]
        ("queue", np.int64),  # address of the QUEUE that its tiles work off, or 0
        # Scratch of `product_widened`, if it is to be used, and `product_strassen`: their kept.
        ("kept", ARRAY),
        # Scratch of `product_strassen` alone: its s, its u and v.
        ("sums", ARRAY),
        ("partial", ARRAY),
    ]
)

# Events of a `LINE` (`go_on`).
PROJECT, CELL, LINEAR = 0, 1, 2

# Codes of the output activations.
NONE, RELU, RELU6, LEAKY, TANH = 0, 1, 2, 3, 4

#: A recurrent layer of U units, H hidden values in whole panels, G gates. Each product has its own
#: bias, because a GRU multiplies its r with the recurrent product of n, that bias included.
LAYER = np.dtype(
    [
        ("input", PRODUCT),  # of G H outputs, for each panel of H its G gates:
        ("recurrent", PRODUCT),  # i f g o of an LSTM, r z n of a GRU
        ("h", ARRAY),  # f32[U, H]
        ("c", ARRAY),  # f32[U, H] of an LSTM
        ("r", ARRAY),  # f32[n, G H], the recurrent product, n units at a time
        # Panels of r computed ahead, for the first n units of the next frame's cell. While it is
        # neither 0 nor all of them, the recurrent product has these units of h ready.
        ("done", np.int64),
        ("turn", np.int64),  # of one unit: 0 or 1, its turn is in even or odd frames (`recur`)
    ]
)

#: What the layers of a stack share, and the linear layer behind them, if there is one.
STACK = np.dtype(
    [
        ("gates", np.int64),  # 4: LSTM, 3: GRU
        ("p", ARRAY),  # the input product: f32[T, G H], of many units f32[n, G CELL_PANELS PANEL]
        ("r", ARRAY),  # the recurrent product, of many units: f32[n, G CELL_PANELS PANEL]
        ("linear", PRODUCT),
        ("z", ARRAY),  # f32[T U, P PANEL], its product
        ("activation", np.int64),
        ("slope", np.float32),
    ]
)

#: A layer with one unit whose frames are pieces of a queue (`QUEUE`): the arguments of
#: `recur`, and the frame that is due. Of a linear layer, the arguments of `linear`.
LINE = np.dtype(
    [
        ("x", ARRAY),  # f32[>= T, X]
        ("layer", np.int64),  # address of the LAYER
        ("stack", np.int64),  # address of the STACK
        ("y", ARRAY),  # f32[>= T, H]
        ("frames", np.int64),  # T
        ("queue", np.int64),  # address of the QUEUE
        ("first", np.int64),  # index of the first piece of a frame
        ("frame", np.int64),  # index in the block of the frame that is due
    ]
)

#: One call of a `npfsn.program.Program`.
OPERATION = np.dtype(
    [
        ("kernel", np.int64),  # address of its machine code
        ("every", np.int64),  # s: runs for each block of s frames that ends (`shrink_units`)
        ("skip", np.int64),  # operations to skip after it, which it sets itself
        ("otherwise", np.int64),  # how many an offline norm skips while it takes moments
        ("arrays", ARRAY, (9,)),
        ("whole", np.int64, (4,)),
        ("real", np.float64, (1,)),
    ]
)
#: The arguments of each operation, in order: arrays by type and dimensions (see `npfsn.program`),
#: `whole` numbers and `real` ones. The arguments of `play` are passed in addition.
TAKES = {
    "push_hop": "f32_1d",
    "count_hop": "i64_1d",
    "analyse": "f32_1d whole f64_1d i64_1d f64_2d f64_2d f64_2d f64_2d f64_3d f32_2d",
    "pool_mel": "f32_2d i64_1d i64_1d f32_1d f32_2d",
    "power": "f32_2d real f32_2d",
    "cumulative_laplace": "f32_3d norm f32_3d",
    "cumulative_layer": "f32_3d norm f32_3d",
    "forgetting": "f32_3d norm f32_3d",
    "offline": "f32_3d norm f32_3d",
    "recur": "f32_2d layer stack f32_2d",
    "linear": "f32_2d whole stack f32_2d",
    "copy_row": "f32_2d f32_2d",
    "copy_state": "layer whole layer whole",
    "begin_queue": "queue whole",
    "prepare": "layer i64_1d",
    "unfold": "f32_2d whole whole whole f32_3d whole",
    "follow_level": "f32_2d f32_2d real f64_1d f32_2d f32_2d",
    "shrink_units": "f32_2d f32_2d whole whole whole f32_2d f32_3d",
    "join_held": "f32_2d f32_2d whole f32_1d f32_2d",
    "gather_mask": "f32_2d whole whole whole f32_3d",
    "wait_for_mask": "f64_3d f64_3d f64_3d",
    "apply_complex": "f32_3d f64_3d",
    "apply_planes": "f32_3d f64_3d",
    "synthesise": "f64_3d whole f64_1d i64_1d f64_2d f64_2d f64_2d f64_2d f64_1d f64_1d",
    "mix_dry": "f32_1d f32_1d whole f64_1d",
}
