"""Matrix products in int8: weights of eight bits, inputs of seven, sums in int32.

Each row of either has a scale in float32. Integers add up exactly, so every tier of instructions
gives the same result to the bit.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..jit import inlined, kernel
from .cpu import (
    DEPTH,
    MAX_INPUT,
    OFFSET,
    PANEL,
    PANELS,
    PANELS_ONE_ROW,
    PREFETCH,
    ROWS_I8,
    ROWS_SMALL,
    ROWS_SMALL_I8,
    SMALLEST,
    TOGETHER,
    UNROLL,
)
from .floats import prefetch_lines
from .vector import (
    Emit,
    const,
    f32,
    f32_panel,
    i8,
    i32,
    i32_panel,
    panel_of,
)

ZERO = np.float32(0.0)
INPUT_LEVELS = np.float32(MAX_INPUT)


@intrinsic
def _largest(typingctx, x, at, n_vector):
    """Return the largest absolute value of n_vector panels from x[at] on."""
    sig = types.float32(x, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, at, n_vector = args
        x = emit.pointer(0, f32)
        i, before = emit.begin_loop(const(0))
        best = builder.phi(f32_panel)
        best.add_incoming(panel_of(0.0), before)
        value = emit.load(x, builder.add(at, builder.mul(i, const(PANEL))), f32_panel)
        value = emit.call(f"llvm.fabs.v{PANEL}f32", f32_panel, value)
        more = builder.select(builder.fcmp_ordered(">", value, best), value, best)
        best.add_incoming(more, i.parent)
        emit.end_loop(i, const(1), n_vector)
        result = builder.extract_element(more, ir.Constant(i32, 0))
        for lane in range(1, PANEL):
            value = builder.extract_element(more, ir.Constant(i32, lane))
            result = builder.select(builder.fcmp_ordered(">", value, result), value, result)
        return result

    return sig, codegen


@intrinsic
def _quantise(typingctx, x, at, factor, q, q_at, n_vector):
    """Write n_vector panels from q[q_at] on: round(factor x) + OFFSET."""
    sig = types.void(x, types.int64, types.float32, q, types.int64, types.int64)
    narrow = ir.VectorType(i8, PANEL)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, at, factor, _, q_at, n_vector = args
        x, q = emit.pointer(0, f32), emit.pointer(3, narrow.element)
        factor = emit.splat(factor, PANEL)
        offset = ir.Constant(i32_panel, [ir.Constant(i32_panel.element, OFFSET)] * PANEL)
        i, _ = emit.begin_loop(const(0))
        step = builder.mul(i, const(PANEL))
        value = builder.fmul(emit.load(x, builder.add(at, step), f32_panel), factor)
        value = emit.call(f"llvm.rint.v{PANEL}f32", f32_panel, value)
        level = builder.add(builder.fptosi(value, i32_panel), offset)
        emit.store(builder.trunc(level, narrow), q, builder.add(q_at, step))
        emit.end_loop(i, const(1), n_vector)
        return context.get_dummy_value()

    return sig, codegen


@inlined
def quantise_rows(x, x_row, n_row, q, scale):
    """Quantise rows x_row .. x_row + n_row - 1: x = scale (q - OFFSET), the largest level 63.

    x      f32[R, X]       X in whole panels, zeros behind the last input
    q      u8[>= n_row, X]
    scale  f32[>= n_row]

    Updates: q, scale.
    """
    size, n_vector = x.shape[1], x.shape[1] // PANEL
    for r in range(n_row):
        at = (x_row + r) * size
        largest = _largest(x, at, n_vector)
        scale[r] = largest / INPUT_LEVELS
        # Such a small row is silence; far below, 63 / largest would overflow.
        factor = INPUT_LEVELS / largest if largest > SMALLEST else ZERO
        _quantise(x, at, factor, q, r * size, n_vector)


@intrinsic(prefer_literal=True)
def _tile_i8(
    typingctx, rows, panels, n_deep, q, q_stride, x_scale, row, w, panel, ahead,
    w_scale, shift, bias, out, out_at, out_stride,
):  # fmt: skip
    """Compute a tile, from `row` and `panel` on, in integers, and scale it to float32 at the end.

    out_at: where row 0 and panel 0 of the product are, or would be, in out.
    """
    n = types.int64
    sig = types.void(rows, panels, n, q, n, x_scale, n, w, n, n, w_scale, shift, bias, out, n, n)
    n_row, n_panel = rows.literal_value, panels.literal_value

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, _, n_deep, _, q_stride, _, row, _, panel, ahead, _, _, _, _, out_at, out_stride = args
        q, w = emit.pointer(3, i8), emit.pointer(7, i8)
        x_scale, w_scale, bias, out = (emit.pointer(i, f32) for i in (5, 10, 12, 13))
        shift = emit.pointer(11, i32)
        q_at, bias_at = builder.mul(row, q_stride), builder.mul(panel, const(PANEL))
        out_at = builder.add(builder.add(out_at, builder.mul(row, out_stride)), bias_at)
        q_rows = [
            builder.gep(q, [builder.add(q_at, builder.mul(q_stride, const(r)))])
            for r in range(n_row)
        ]
        steps = UNROLL if n_row == ROWS_I8 > 1 else 1
        if steps > 1:
            q_rows = [emit.apart(row) for row in q_rows]
        panel_size = builder.mul(n_deep, const(PANEL * DEPTH))
        w_at = builder.mul(panel, panel_size)
        w_panels = [
            builder.gep(w, [builder.add(w_at, builder.mul(panel_size, const(p)))])
            for p in range(n_panel)
        ]
        k, before = emit.begin_loop(const(0))
        acc = [[builder.phi(i32_panel) for _ in range(n_panel)] for _ in range(n_row)]
        w_k = builder.mul(k, const(PANEL * DEPTH))
        if n_row == ROWS_I8 and PREFETCH:
            for step in range(TOGETHER):
                at = builder.add(w_k, const(PANEL * DEPTH * step))
                emit.prefetch(builder.gep(w, [builder.add(ahead, at)]))
        weights = [
            [
                emit.load(at, builder.add(w_k, const(PANEL * DEPTH * step)), i32_panel)
                for step in range(TOGETHER)
            ]
            for at in w_panels
        ]
        new = []
        for r in range(n_row):
            inputs = []
            for step in range(TOGETHER):
                at = builder.mul(builder.add(k, const(step)), const(DEPTH))
                inputs.append(emit.splat(emit.load(q_rows[r], at, i32_panel.element), PANEL))
            new.append([emit.dot(acc[r][p], inputs, weights[p]) for p in range(n_panel)])
        zero = ir.Constant(i32_panel, [ir.Constant(i32_panel.element, 0)] * PANEL)
        for r in range(n_row):
            for p in range(n_panel):
                acc[r][p].add_incoming(zero, before)
                acc[r][p].add_incoming(new[r][p], k.parent)
        emit.end_loop(k, const(TOGETHER), n_deep, unroll=steps)

        for p in range(n_panel):
            at = builder.add(bias_at, const(PANEL * p))
            scale = emit.load(w_scale, at, f32_panel)
            offset, start = emit.load(shift, at, i32_panel), emit.load(bias, at, f32_panel)
            for r in range(n_row):
                x_s = builder.load(builder.gep(x_scale, [builder.add(row, const(r))]))
                total = emit.scaled(new[r][p], offset, x_s, scale, start)
                to = builder.add(out_at, builder.mul(out_stride, const(r)))
                emit.store(total, out, builder.add(to, const(PANEL * p)))
        return context.get_dummy_value()

    return sig, codegen


@kernel
def product_i8(n_row, w, w_scale, shift, q, x_scale, bias, first, last, out, out_panel):
    """Compute rows of out = x w^T + bias in integers: out[i] from row i of q.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    w        i8[P, S, PANEL, DEPTH]  packed weights (`pack_i8`)
    w_scale  f32[P PANEL]            their scales
    shift    i32[P PANEL]            what the inputs' offset adds to sums
    q        u8[>= n_row, X]         inputs (`quantise_rows`)
    x_scale  f32[>= n_row]           their scales
    bias     f32[P PANEL]
    out      f32[R', >= (out_panel + last - first) PANEL]

    Updates: out.
    """
    n_deep, x_ld, ld = w.shape[1], q.shape[1], out.shape[1]
    size, out_at = n_deep * PANEL * DEPTH, (out_panel - first) * PANEL
    if ROWS_I8 == 1 or n_row < ROWS_SMALL:  # the weights are read once, stride by stride
        p = first
        while p + PANELS_ONE_ROW <= last:
            for row in range(n_row):
                if n_row >= ROWS_SMALL:  # as in `multiply_panels`
                    at = (p + PANELS_ONE_ROW) * size
                    prefetch_lines(w, at, PANELS_ONE_ROW * size, row, n_row)
                _tile_i8(1, PANELS_ONE_ROW, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                         bias, out, out_at, ld)  # fmt: skip
            p += PANELS_ONE_ROW
        if ROWS_I8 == 1 and p + 3 == last:  # the gates of a GRU
            for row in range(n_row):
                if n_row >= ROWS_SMALL:
                    prefetch_lines(w, last * size, 3 * size, row, n_row)
                _tile_i8(1, 3, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                         bias, out, out_at, ld)  # fmt: skip
            return
        while p < last:
            for row in range(n_row):
                _tile_i8(1, 1, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                         bias, out, out_at, ld)  # fmt: skip
            p += 1
        return
    p = first
    while p + PANELS <= last:
        row = 0
        while row + ROWS_I8 <= n_row:
            ahead = (p + PANELS + row // ROWS_I8 % PANELS) * size
            if not PREFETCH:  # as in `multiply_panels`
                prefetch_lines(w, (p + 1) * size, size, row // ROWS_I8, n_row // ROWS_I8)
            _tile_i8(ROWS_I8, PANELS, n_deep, q, x_ld, x_scale, row, w, p, ahead, w_scale, shift,
                     bias, out, out_at, ld)  # fmt: skip
            row += ROWS_I8
        while row + ROWS_SMALL_I8 <= n_row:
            _tile_i8(ROWS_SMALL_I8, PANELS, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                     bias, out, out_at, ld)  # fmt: skip
            row += ROWS_SMALL_I8
        while row < n_row:
            _tile_i8(1, PANELS, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                     bias, out, out_at, ld)  # fmt: skip
            row += 1
        p += PANELS
    while p < last:
        row = 0
        while row + ROWS_I8 <= n_row:
            _tile_i8(ROWS_I8, 1, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                     bias, out, out_at, ld)  # fmt: skip
            row += ROWS_I8
        while row < n_row:
            _tile_i8(1, 1, n_deep, q, x_ld, x_scale, row, w, p, 0, w_scale, shift,
                     bias, out, out_at, ld)  # fmt: skip
            row += 1
        p += 1
