"""A frame in one call: a table of kernels and what they work on, played from top to bottom.

Python takes a third of a microsecond to call a kernel, and Numba 40 ns more for every array. A
frame of a small network is some twenty kernels and two hundred microseconds: a tenth of it would go
into calls. `npfsn.program` writes the tables.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from ..jit import kernel
from .arrays import ARRAY, f32_1d, f32_2d, f32_3d, f64_1d, f64_2d, f64_3d, i64_1d, pointer
from .features import (
    MOMENTS,
    NORM,
    apply_complex,
    apply_planes,
    gather_mask,
    join_held,
    normalise,
    pool_mel,
    power,
    shrink_units,
    unfold,
)
from .layers import LAYER, STACK, prepare, run_stack
from .spectrum import analyse, count_hop, push_hop, synthesise, wait_for_mask

#: What an operation takes, in the order in which it is written: arrays by type and dimensions (see
#: `npfsn.program`), `whole` numbers and `real` ones. What `play` is given comes besides.
TAKES = {
    "push_hop": "f32_1d",
    "count_hop": "i64_1d",
    "analyse": "f32_1d whole f64_1d i64_1d f64_2d f64_2d f64_2d f64_2d f64_3d f32_2d",
    "pool_mel": "f32_2d i64_1d i64_1d f32_1d f32_2d",
    "power": "f32_2d real f32_2d",
    "normalise": "f32_3d norm f32_3d",
    "run_stack": "f32_2d whole layer stack f32_2d",
    "prepare": "layer i64_1d",
    "unfold": "f32_2d whole whole whole whole f32_3d whole",
    "shrink_units": "f32_2d f32_2d whole whole whole f32_2d f32_3d",
    "join_held": "f32_2d f32_2d whole f32_1d f32_2d",
    "gather_mask": "f32_2d whole whole whole f32_3d",
    "wait_for_mask": "f64_3d f64_3d f64_3d",
    "apply_complex": "f32_3d f64_3d",
    "apply_planes": "f32_3d f64_3d",
    "synthesise": "f64_3d whole f64_1d i64_1d f64_2d f64_2d f64_2d f64_2d f64_1d f64_1d",
}
CODES = {name: code for code, name in enumerate(TAKES)}
(
    PUSH_HOP, COUNT_HOP, ANALYSE, POOL_MEL, POWER, NORMALISE, RUN_STACK, PREPARE, UNFOLD,
    SHRINK_UNITS, JOIN_HELD, GATHER_MASK, WAIT_FOR_MASK, APPLY_COMPLEX, APPLY_PLANES, SYNTHESISE,
) = range(len(TAKES))  # fmt: skip

OPERATION = np.dtype(
    [
        ("code", np.int64),
        ("every", np.int64),  # s: runs for every block of s frames that ends, as `shrink_units`
        ("otherwise", np.int64),  # of NORMALISE: operations to skip while it takes moments
        ("arrays", ARRAY, (9,)),
        ("whole", np.int64, (5,)),
        ("real", np.float64, (1,)),
    ]
)


@kernel
def play(address, n_operation, frame, n_frame, x, out):
    """Run operations on T frames.

    address      int      where OPERATION[n_operation] lies
    n_operation  int
    frame        int      index of the first frame in the stream
    n_frame      int      T, at most what the arrays were made for
    x            f32[?]   for push_hop
    out          f32[?]   for synthesise

    Updates: what the operations point to, and out.
    """
    operations = carray(pointer(address), n_operation, OPERATION)
    at = 0
    while at < n_operation:
        op = operations[at]
        at += 1
        code, a, n = op.code, op.arrays, n_frame
        if op.every > 1:
            n = (frame + n_frame - 1) // op.every - (frame - 1) // op.every
            if n == 0:
                continue
        if code == RUN_STACK:
            x_rows = f32_2d(a[0])[: n * op.whole[0]]
            layers = carray(pointer(a[1].address), a[1].rows, LAYER)
            run_stack(x_rows, layers, carray(pointer(a[2].address), 1, STACK), f32_2d(a[3]))
        elif code == PREPARE:
            layers, due = carray(pointer(a[0].address), a[0].rows, LAYER), i64_1d(a[1])
            prepare(layers, due[(frame + n_frame - 1) % due.shape[0]])
        elif code == NORMALISE:
            norms = carray(pointer(a[1].address), 1, NORM)
            normalise(f32_3d(a[0])[:n], norms, f32_3d(a[2]))
            if norms[0].kind == MOMENTS:
                at += op.otherwise
        elif code == UNFOLD:
            unfold(f32_2d(a[0])[:n], op.whole[0], op.whole[1], op.whole[2], op.whole[3],
                   f32_3d(a[1]), op.whole[4])  # fmt: skip
        elif code == GATHER_MASK:
            gather_mask(f32_2d(a[0]), op.whole[0], op.whole[1], op.whole[2],
                        f32_3d(a[1])[:n])  # fmt: skip
        elif code == SHRINK_UNITS:
            shrink_units(f32_2d(a[0])[:n], f32_2d(a[1]), op.whole[0], op.whole[1], frame,
                         op.whole[2], f32_2d(a[2]), f32_3d(a[3]))  # fmt: skip
        elif code == JOIN_HELD:
            join_held(f32_2d(a[0])[:n], f32_2d(a[1]), frame, op.whole[0], f32_1d(a[2]),
                      f32_2d(a[3]))  # fmt: skip
        elif code == POOL_MEL:
            pool_mel(f32_2d(a[0])[:n], i64_1d(a[1]), i64_1d(a[2]), f32_1d(a[3]), f32_2d(a[4]))
        elif code == POWER:
            power(f32_2d(a[0]), op.real[0], f32_2d(a[1])[:n])
        elif code == WAIT_FOR_MASK:
            wait_for_mask(f64_3d(a[0])[:n], f64_3d(a[1]), f64_3d(a[2]))
        elif code == APPLY_COMPLEX:
            apply_complex(f32_3d(a[0])[:n], f64_3d(a[1]))
        elif code == APPLY_PLANES:
            apply_planes(f32_3d(a[0])[:n], f64_3d(a[1]))
        elif code == PUSH_HOP:
            push_hop(f32_1d(a[0]), x)
        elif code == COUNT_HOP:
            count_hop(i64_1d(a[0]))
        elif code == ANALYSE:
            analyse(f32_1d(a[0]), op.whole[0], f64_1d(a[1]), i64_1d(a[2]), f64_2d(a[3]),
                    f64_2d(a[4]), f64_2d(a[5]), f64_2d(a[6]), f64_3d(a[7])[:n],
                    f32_2d(a[8]))  # fmt: skip
        elif code == SYNTHESISE:
            synthesise(f64_3d(a[0])[:n], op.whole[0], f64_1d(a[1]), i64_1d(a[2]), f64_2d(a[3]),
                       f64_2d(a[4]), f64_2d(a[5]), f64_2d(a[6]), f64_1d(a[7]), f64_1d(a[8]),
                       out)  # fmt: skip
