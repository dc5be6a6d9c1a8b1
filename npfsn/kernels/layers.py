"""Linear and recurrent layers: matrix products, and the cells that follow them.

Rows of outputs, hidden states and gates are padded to whole panels (`floats.py`); the lanes
beyond the last unit have weights and biases of zero, and the cells keep them at zero. The gates of
a panel of units lie side by side (i f g o of the first panel, i f g o of the second, ...), so that
a cell can run as soon as its own gates are computed.

A stack of layers has some fifty arrays. Its kernels find them through tables (`tables.py`, filled
by `npfsn.layers`), which also lets one kernel serve every cell and every kind of weights.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..jit import inlined, kernel
from .arrays import address_of, array_at, call, f32_2d, record
from .cpu import PANEL, PANELS_ONE_ROW
from .floats import prefetch_lines
from .products import make_ready, product
from .tables import (
    CELL_PANELS,
    LAYER,
    LEAKY,
    LINE,
    LINEAR,
    PIECE,
    PROJECT,
    QUEUE,
    RELU,
    RELU6,
    STACK,
    TANH,
)
from .vector import Emit, const, f32, f32_panel

# For a layer with one unit: the fewest panels whose gates fill whole strides through the weights.
ONE_ROW_LSTM = PANELS_ONE_ROW // math.gcd(PANELS_ONE_ROW, 4)
ONE_ROW_GRU = PANELS_ONE_ROW // math.gcd(PANELS_ONE_ROW, 3)

#: Units, of many, whose states are on their way from a far cache while others' cells run.
UNITS_AHEAD = 6

ZERO = np.float32(0.0)
SIX = np.float32(6.0)


@intrinsic
def _lstm_panel(typingctx, p, p_at, r, r_at, c, at, y, y_at):
    """Compute PANEL units of an LSTM cell: c = sig(f) c + sig(i) tanh(g), y = sig(o) tanh(c)."""
    n = types.int64
    sig = types.void(p, n, r, n, c, n, y, n)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, p_at, _, r_at, _, at, _, y_at = args
        p, r, c, y = (emit.pointer(i, f32) for i in (0, 2, 4, 6))

        def pre(index: int) -> ir.Value:
            offset = const(PANEL * index)
            return builder.fadd(
                emit.load(p, builder.add(p_at, offset), f32_panel),
                emit.load(r, builder.add(r_at, offset), f32_panel),
            )

        # Each function is a fraction. Divisions are expensive, so terms share one denominator:
        # c' = (f_n c i_d g_d + i_n g_n f_d) / (f_d i_d g_d), h = o_n t_n / (o_d t_d), t = tanh c'.
        i_n, i_d = emit.sigmoid_parts(pre(0))
        f_n, f_d = emit.sigmoid_parts(pre(1))
        g_n, g_d = emit.tanh_parts(pre(2))
        o_n, o_d = emit.sigmoid_parts(pre(3))
        ig_d = builder.fmul(i_d, g_d)
        kept = builder.fmul(builder.fmul(f_n, emit.load(c, at, f32_panel)), ig_d)
        total = emit.fma(builder.fmul(i_n, g_n), f_d, kept)
        new_c = emit.flush(builder.fdiv(total, builder.fmul(ig_d, f_d)))
        t_n, t_d = emit.tanh_parts(new_c)
        new_h = builder.fdiv(builder.fmul(o_n, t_n), builder.fmul(o_d, t_d))
        emit.store(new_c, c, at)
        emit.store(new_h, y, y_at)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def _gru_panel(typingctx, p, p_at, r, r_at, h, at, y, y_at):
    """Compute PANEL units of a GRU cell: n = tanh(p_n + sig(r) r_n), y = n + sig(z) (h - n)."""
    n = types.int64
    sig = types.void(p, n, r, n, h, n, y, n)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, p_at, _, r_at, _, at, _, y_at = args
        p, r, h, y = (emit.pointer(i, f32) for i in (0, 2, 4, 6))

        def part(base: ir.Value, base_at: ir.Value, index: int) -> ir.Value:
            return emit.load(base, builder.add(base_at, const(PANEL * index)), f32_panel)

        reset = emit.sigmoid(builder.fadd(part(p, p_at, 0), part(r, r_at, 0)))
        update = emit.sigmoid(builder.fadd(part(p, p_at, 1), part(r, r_at, 1)))
        new = emit.tanh(emit.fma(reset, part(r, r_at, 2), part(p, p_at, 2)))
        new_h = emit.flush(emit.fma(update, builder.fsub(emit.load(h, at, f32_panel), new), new))
        emit.store(new_h, y, y_at)
        return context.get_dummy_value()

    return sig, codegen


@inlined
def _cells(gates, p, p_at, r, r_at, h, c, at, y, y_at, n_panel):
    """Run n_panel panels of one unit's cell. The offsets p_at, r_at, at and y_at count elements.

    gates  int        4: LSTM, 3: GRU
    p, r   f32[?, ?]  input and recurrent product from p_at and r_at on, panel after panel
    h, c   f32[U, H]  state from `at` on: h is read by a GRU, c is of an LSTM
    y      f32[?, H]  new hidden states, from y_at on

    Updates: c, y.
    """
    for k in range(n_panel):
        unit, gate = k * PANEL, gates * k * PANEL
        if gates == 4:
            _lstm_panel(p, p_at + gate, r, r_at + gate, c, at + unit, y, y_at + unit)
        else:
            _gru_panel(p, p_at + gate, r, r_at + gate, h, at + unit, y, y_at + unit)


@inlined
def _prefetch_unit(gates, r, r_row, r_panel, few, h, c, unit, y, y_row, at, n_panel):
    """Prefetch what `n_panel` panels of a unit's cell read and write, from panel `at` on.

    gates  int        4: LSTM, 3: GRU
    r      f32[?, ?]  recurrent product, from panel `r_panel` of row `r_row` on
    few    bool       whether r is small and in a near cache anyway
    h, c   f32[U, H]  state, in row `unit`
    y      f32[?, H]  new hidden states, in row `y_row`
    """
    size = n_panel * PANEL
    if not few:
        prefetch_lines(r, r_row * r.shape[1] + r_panel * PANEL, gates * size, 0, 1)
    prefetch_lines(h, unit * h.shape[1] + at * PANEL, size, 0, 1)
    if gates == 4:
        prefetch_lines(c, unit * c.shape[1] + at * PANEL, size, 0, 1)
    prefetch_lines(y, y_row * y.shape[1] + at * PANEL, size, 0, 1)


@inlined
def _project(x, n_frame, layer, stack):
    """Compute the input product of a layer with one unit, for all frames at once.

    x        f32[>= n_frame, X]  inputs
    n_frame  int                 T
    layer    LAYER
    stack    STACK

    Updates: p of the stack.
    """
    make_ready(x, 0, n_frame, layer.input)
    product(x, 0, n_frame, layer.input, 0, layer.input.weight.rows, f32_2d(stack.p), 0)


@kernel
def work_ahead(layer, last):
    """Compute what is missing of the next cell's recurrent product, for the units that r holds.

    layer  int   address of the LAYER
    last   int   panels that are to be done, from the first on

    Updates: r and done of the layer.
    """
    layer = record(layer, LAYER)
    if last > layer.done:
        h, r = f32_2d(layer.h), f32_2d(layer.r)
        if layer.done == 0:
            make_ready(h, 0, r.shape[0], layer.recurrent)
        product(h, 0, r.shape[0], layer.recurrent, layer.done, last, r, layer.done)
        layer.done = last


@kernel
def finish_queue(queue):
    """Run the pieces that are left of a QUEUE, without their prefetches.

    queue  int   address of the QUEUE

    Updates: the queue and what its pieces point to.
    """
    queue = record(queue, QUEUE)
    while queue.next < queue.end:
        pieces = array_at(queue.pieces, queue.end, PIECE)
        piece = pieces[queue.next]
        queue.next += 1
        if piece.then != 0:
            call(piece.then, (piece.argument, piece.count))
        elif piece.weight != 0 and pieces[queue.next].weight == 0:
            work_ahead(piece.argument, piece.count)  # and all before it, in wide strides


@inlined
def recur(x, frame, layer, stack, y):
    """Run an LSTM or GRU layer over T frames for U units.

    x      f32[T U, X]      inputs, frame after frame
    frame  int              index of the first one
    layer  LAYER
    stack  STACK            what it shares with the other layers
    y      f32[>= T U, H]   hidden states

    Updates: layer's h, c, r and done, the stack's p and r, y.
    """
    h, c, r = f32_2d(layer.h), f32_2d(layer.c), f32_2d(layer.r)
    p, r_few, gates = f32_2d(stack.p), f32_2d(stack.r), stack.gates
    w_ih, w_hh = layer.input, layer.recurrent
    n_unit, n_panel = h.shape[0], h.shape[1] // PANEL
    n_frame = x.shape[0] // n_unit
    p_ld = p.shape[1]
    if n_unit == 1:
        _project(x, n_frame, layer, stack)
    # Units do not depend on each other: a few at a time, their gates stay in cache.
    group = r.shape[0]
    step = CELL_PANELS if n_unit > 1 else ONE_ROW_LSTM if gates == 4 else ONE_ROW_GRU
    n_step = -(-n_panel // step)
    for first in range(0, n_unit, group):
        n = min(group, n_unit - first)
        for t in range(n_frame):
            row = t * n_unit + first
            # late: nothing of this frame's recurrent product was computed ahead of time; ahead: how
            # many panels of it are done.
            late = layer.done == 0
            if n_unit == 1 and n_frame == 1:  # all at once, in consecutive strides
                work_ahead(address_of(layer), gates * n_panel)
            ahead, layer.done = layer.done, 0
            if n_unit > 1:
                make_ready(x, row, n, w_ih)
            if ahead == 0:  # otherwise `work_ahead` has done so
                make_ready(h, first, n, w_hh)
            for i in range(n_step):
                # One unit reads all weights in every frame. Those that the last frame read last are
                # still in the second-level cache: every second frame of a block goes backwards.
                at = (n_step - 1 - i if n_unit == 1 and t % 2 == 1 else i) * step
                end = min(at + step, n_panel)
                p_row, p_panel = t, at
                # Where nothing is done, a small r keeps these panels, too, in a near cache.
                few = n_unit > 1 and ahead == 0
                r_now, r_panel = (r_few, 0) if few else (r, gates * at)
                if n_unit > 1:
                    # A unit has a few lines of every array, which no hardware foresees.
                    for b in range(UNITS_AHEAD):
                        _prefetch_unit(gates, r_now, b, r_panel, few, h, c, first + b, y, row + b,
                                       at, end - at)  # fmt: skip
                    product(x, row, n, w_ih, gates * at, gates * end, p, 0)
                    p_row, p_panel = 0, 0
                left = max(gates * at, ahead)
                if left < gates * end:
                    to = r_panel + left - gates * at
                    product(h, first, n, w_hh, left, gates * end, r_now, to)
                for b in range(n):
                    if n_unit > 1:
                        then = b + UNITS_AHEAD
                        _prefetch_unit(gates, r_now, then, r_panel, few, h, c, first + then, y,
                                       row + then, at, end - at)  # fmt: skip
                    p_at = (p_row + b) * p_ld + gates * p_panel * PANEL
                    r_at = b * r_now.shape[1] + r_panel * PANEL
                    h_at = ((first + b) * n_panel + at) * PANEL
                    y_at = ((row + b) * n_panel + at) * PANEL
                    _cells(gates, p, p_at, r_now, r_at, h, c, h_at, y, y_at, end - at)
            # Not before: every panel's product needs all of the last state.
            for b in range(n):
                for k in range(h.shape[1]):
                    h[first + b, k] = y[row + b, k]
            # One unit reads all recurrent weights in every frame: megabytes, which no cache holds
            # until the next frame. But their product can be computed at any time between two cells.
            # So every second frame computes two: its own, late, and after its cell the next
            # frame's, while the weights are in a nearer cache. The next frame reads none. Layers
            # alternate. (A layer whose product tiles of another stack have begun is not late.)
            if n_unit == 1 and n_frame == 1 and late and frame % 2 == layer.turn:
                work_ahead(address_of(layer), gates * n_panel)


@inlined
def activate(x, code, slope, n_row, out):
    """Apply an output activation and drop the padding.

    x      f32[R, >= N]
    code   int          NONE, RELU, RELU6, LEAKY (with `slope`) or TANH
    slope  f32
    n_row  int
    out    f32[R, N]
    """
    for r in range(n_row):
        if code == RELU:
            for n in range(out.shape[1]):
                out[r, n] = max(x[r, n], ZERO)
        elif code == RELU6:
            for n in range(out.shape[1]):
                out[r, n] = min(max(x[r, n], ZERO), SIX)
        elif code == LEAKY:
            for n in range(out.shape[1]):
                value = x[r, n]
                out[r, n] = value if value > ZERO else value * slope
        elif code == TANH:
            for n in range(out.shape[1]):
                out[r, n] = np.tanh(x[r, n])
        else:
            for n in range(out.shape[1]):
                out[r, n] = x[r, n]


@inlined
def linear(x, stack, out):
    """Run the linear layer of a stack and its activation.

    x      f32[R, X]   hidden states
    stack  STACK
    out    f32[>= R, N]

    Updates: z of the stack, out.
    """
    w, z, n_row = stack.linear, f32_2d(stack.z), x.shape[0]
    make_ready(x, 0, n_row, w)
    product(x, 0, n_row, w, 0, w.weight.rows, z, 0)
    activate(z, stack.activation, stack.slope, n_row, out)


@inlined
def copy_row(x, out):
    """Copy a row of as many values: x, out f32[1, N]."""
    for n in range(x.shape[1]):
        out[0, n] = x[0, n]


@inlined
def copy_state(source, unit, target, to):
    """Copy the state of one unit of a layer to a unit of another with the same weights.

    source, target  LAYER
    unit, to        int

    Updates: h, c and done of target: what it had computed ahead of time is dropped.
    """
    h, c, new_h, new_c = f32_2d(source.h), f32_2d(source.c), f32_2d(target.h), f32_2d(target.c)
    for k in range(h.shape[1]):
        new_h[to, k] = h[unit, k]
    for k in range(c.shape[1]):  # none of a GRU
        new_c[to, k] = c[unit, k]
    target.done = 0


@kernel
def go_on(line, event):
    """Do what is due between the recurrent products of a LINE.

    line   int   address of the LINE
    event  int   PROJECT: compute the input products of all frames;
                 CELL: run the cell of a frame whose recurrent product is complete, then make the
                 next frame's product due;
                 LINEAR: run a linear layer

    Updates: the line and what it points to.
    """
    line = record(line, LINE)
    stack = record(line.stack, STACK)
    x, y = f32_2d(line.x), f32_2d(line.y)
    if event == LINEAR:
        linear(x[: line.frames], stack, y)
        return
    layer = record(line.layer, LAYER)
    if event == PROJECT:
        _project(x, line.frames, layer, stack)
        line.frame = 0
        return
    h, p, size = f32_2d(layer.h), f32_2d(stack.p), y.shape[1]
    p_at, y_at = line.frame * p.shape[1], line.frame * size
    _cells(stack.gates, p, p_at, f32_2d(layer.r), 0, h, f32_2d(layer.c), 0, y, y_at, size // PANEL)
    for k in range(size):
        h[0, k] = y[line.frame, k]
    layer.done = 0
    line.frame += 1
    if line.frame < line.frames:
        record(line.queue, QUEUE).next = line.first


@inlined
def begin_queue(queue, end):
    """Make pieces 0 .. end - 1 of a QUEUE due."""
    queue.next, queue.step, queue.end = 0, 0, end


@inlined
def prepare(layers, panels):
    """Compute recurrent products of the next frame ahead of time, for the first n units.

    They need only the state, so a frame with little work can take them from a frame with much.
    They are shared out by panels, not units, so that each panel is read from memory once.

    layers  LAYER[L]
    panels  int       panels that are to be done, those of the first layer first

    Updates: r and done of the layers.
    """
    for i in range(layers.shape[0]):
        layer = layers[i]
        every = layer.recurrent.weight.rows
        last = min(max(panels - i * every, 0), every)
        if last < every:
            last -= last % layer.recurrent.together
        work_ahead(address_of(layer), last)
