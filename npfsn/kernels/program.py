"""A frame in one call: a table of kernels and their arguments, played from top to bottom.

A frame of a small network is some twenty kernels, two hundred arrays and 80 us: a fifth of it would
go into calls from Python. `npfsn.program` writes the tables (`npfsn.kernels.tables.OPERATION`).

Each kernel has a wrapper here that takes its arguments from the table. `play` calls the wrapper by
its address, so each is compiled once, and only if a network needs it.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from . import features, layers, spectrum
from .arrays import (
    address_of,
    array_at,
    call,
    f32_1d,
    f32_2d,
    f32_3d,
    f64_1d,
    f64_2d,
    f64_3d,
    i64_1d,
    record,
)
from .tables import LAYER, NORM, OPERATION, QUEUE, STACK

# The kernels below, named after what they call, take
#
#   at             address of the OPERATION
#   n              frames, or the blocks of `every` frames that end within them
#   frame, n_frame the frames that `play` was called for
#   x, n_x         address and number of its samples
#   out, n_out     address and number of its results


@kernel
def _push_hop(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    spectrum.push_hop(f32_1d(a[0]), array_at(x, n_x, np.float32))


@kernel
def _count_hop(at, n, frame, n_frame, x, n_x, out, n_out):
    spectrum.count_hop(i64_1d(record(at, OPERATION).arrays[0]))


@kernel
def _analyse(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    spectrum.analyse(f32_1d(a[0]), op.whole[0], f64_1d(a[1]), i64_1d(a[2]), f64_2d(a[3]),
                     f64_2d(a[4]), f64_2d(a[5]), f64_2d(a[6]), f64_3d(a[7])[:n],
                     f32_2d(a[8]))  # fmt: skip


@kernel
def _pool_mel(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    features.pool_mel(f32_2d(a[0])[:n], i64_1d(a[1]), i64_1d(a[2]), f32_1d(a[3]), f32_2d(a[4]))


@kernel
def _power(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    features.power(f32_2d(op.arrays[0]), op.real[0], f32_2d(op.arrays[1])[:n])


@kernel
def _cumulative_laplace(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    norm = record(a[1].address, NORM)
    features.cumulative_laplace(f32_3d(a[0])[:n], norm.horizon, f64_1d(norm.count),
                                f64_1d(norm.total), f32_3d(a[2]))  # fmt: skip


@kernel
def _cumulative_layer(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    norm = record(a[1].address, NORM)
    features.cumulative_layer(f32_3d(a[0])[:n], norm.horizon, f64_1d(norm.count),
                              f64_1d(norm.total), f64_1d(norm.square), f32_3d(a[2]))  # fmt: skip


@kernel
def _forgetting(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    norm = record(a[1].address, NORM)
    features.forgetting(f32_3d(a[0])[:n], norm.eps, norm.horizon, f64_1d(norm.count),
                        f64_1d(norm.mu), f32_3d(a[2]))  # fmt: skip


@kernel
def _offline(at, n, frame, n_frame, x, n_x, out, n_out):
    """Apply an offline norm, or take its moments and skip the operations that need it."""
    op = record(at, OPERATION)
    values = f32_3d(op.arrays[0])[:n]
    norm = record(op.arrays[1].address, NORM)
    if norm.fitted:
        op.skip = 0
        features.scale_fixed(values, norm.shift, norm.scale, f32_3d(op.arrays[2]))
    else:
        op.skip = op.otherwise
        features.count_moments(values, f64_1d(norm.moments))


@kernel
def _recur(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    layer = record(a[1].address, LAYER)
    stack = record(a[2].address, STACK)
    layers.recur(f32_2d(a[0])[: n * layer.h.rows], frame, layer, stack, f32_2d(a[3]))


@kernel
def _linear(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    stack = record(a[1].address, STACK)
    layers.linear(f32_2d(a[0])[: n * op.whole[0]], stack, f32_2d(a[2]))


@kernel
def _copy_row(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    layers.copy_row(f32_2d(a[0]), f32_2d(a[1]))


@kernel
def _copy_state(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    source, target = record(op.arrays[0].address, LAYER), record(op.arrays[1].address, LAYER)
    layers.copy_state(source, op.whole[0], target, op.whole[1])


@kernel
def _begin_queue(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    queue = record(op.arrays[0].address, QUEUE)
    layers.begin_queue(queue, op.whole[0])


@kernel
def _prepare(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    table, due = array_at(a[0].address, a[0].rows, LAYER), i64_1d(a[1])
    layers.prepare(table, due[(frame + n_frame - 1) % due.shape[0]])


@kernel
def _unfold(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a, whole = op.arrays, op.whole
    features.unfold(f32_2d(a[0])[:n], whole[0], whole[1], whole[2], f32_3d(a[1]), whole[3])


@kernel
def _follow_level(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    features.follow_level(f32_2d(a[0])[:n], f32_2d(a[1]), op.real[0], f64_1d(a[2]), f32_2d(a[3]),
                          f32_2d(a[4]))  # fmt: skip


@kernel
def _shrink_units(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    features.shrink_units(f32_2d(a[0])[:n], f32_2d(a[1]), op.whole[0], op.whole[1], frame,
                          op.whole[2], f32_2d(a[2]), f32_3d(a[3]))  # fmt: skip


@kernel
def _join_held(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    features.join_held(f32_2d(a[0])[:n], f32_2d(a[1]), frame, op.whole[0], f32_1d(a[2]),
                       f32_2d(a[3]))  # fmt: skip


@kernel
def _gather_mask(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a, whole = op.arrays, op.whole
    features.gather_mask(f32_2d(a[0]), whole[0], whole[1], whole[2], f32_3d(a[1])[:n])


@kernel
def _wait_for_mask(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    spectrum.wait_for_mask(f64_3d(a[0])[:n], f64_3d(a[1]), f64_3d(a[2]))


@kernel
def _apply_complex(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    features.apply_complex(f32_3d(a[0])[:n], f64_3d(a[1]))


@kernel
def _apply_planes(at, n, frame, n_frame, x, n_x, out, n_out):
    a = record(at, OPERATION).arrays
    features.apply_planes(f32_3d(a[0])[:n], f64_3d(a[1]))


@kernel
def _synthesise(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a = op.arrays
    spectrum.synthesise(f64_3d(a[0])[:n], op.whole[0], f64_1d(a[1]), i64_1d(a[2]), f64_2d(a[3]),
                        f64_2d(a[4]), f64_2d(a[5]), f64_2d(a[6]), f64_1d(a[7]), f64_1d(a[8]),
                        array_at(out, n_out, np.float32))  # fmt: skip


@kernel
def _mix_dry(at, n, frame, n_frame, x, n_x, out, n_out):
    op = record(at, OPERATION)
    a, share = op.arrays, f32_1d(op.arrays[0])[0]
    spectrum.mix_dry(array_at(x, n_x, np.float32), share, f32_1d(a[1]), op.whole[0],
                     f64_1d(a[2]), array_at(out, n_out, np.float32))  # fmt: skip


@kernel
def play(address, n_operation, frame, n_frame, x, n_x, out, n_out):
    """Run operations on T frames.

    address      of OPERATION[n_operation]
    n_operation
    frame        index of the first frame in the stream
    n_frame      T, at most what the arrays were made for
    x, n_x       address and number of samples for push_hop and mix_dry
    out, n_out   address and number of those of synthesise and mix_dry

    Updates: what the operations point to, and out.
    """
    operations = array_at(address, n_operation, OPERATION)
    at = 0
    while at < n_operation:
        op = operations[at]
        at += 1
        n = n_frame
        if op.every > 1:
            n = (frame + n_frame - 1) // op.every - (frame - 1) // op.every
            if n == 0:
                continue
        call(op.kernel, (address_of(op), n, frame, n_frame, x, n_x, out, n_out))
        at += op.skip
