"""Matrix products in float32 with an eighth fewer multiplications.

Strassen's algorithm in Winograd's form. Rows of inputs, inputs and outputs are cut in two,

    | o11 o12 |   | x11 x12 |   | w11 w12 |
    | o21 o22 | = | x21 x22 | * | w21 w22 |,

and seven products of quarters do what eight do otherwise, with t = w22 - w12 + w11:

    u = x11 w11                               o11 = b1 + u + x12 w21
                                              o12 = b2 + (x21 + x22) (w12 - w11)
    u += (x21 + x22 - x11) t                  o12 += u,  o22 = o12
                                              o12 += (x12 + x11 - x21 - x22) w22
    v = (x21 - x11) (w12 - w22)               o22 += v
                                              o21 = b1 + u + v + x22 (w21 - t)

Sums of inputs are made once for all outputs; sums of weights by the first tile that needs them, in
passing. A row without a partner takes part in four products, as always: u, and those of o11 and
o12, with x11 for x21 + x22 and x12 for the other sum.

Results share the rounding errors of a pair of rows and of outputs. Hidden states, between -1 and 1,
are alike, features are not. Where the weights of all outputs are alike, too, the error is at most
some twice that of a chain of multiply-adds.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..jit import inlined
from .arrays import array_at
from .cpu import CACHE_LINE, PANEL, PANELS, PREFETCH, ROWS, SHARE
from .floats import multiply_panels, tile_f32
from .tables import GROUP_PANELS, QUARTERS
from .vector import Emit, const, f32, f32_panel

ZEROS = np.zeros(PANELS * PANEL, np.float32)


@intrinsic
def _sum_quarters_of(typingctx, x, upper, lower, s, at, stride, k):
    """Compute `QUARTERS` rows of s, k values each, of two rows of 2 k inputs that are partners.

    upper and lower are where the rows begin in x; s[at + i stride] is where row i begins.
    """
    n = types.int64
    sig = types.void(x, n, n, s, n, n, n)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, upper, lower, _, at, stride, k = args
        x, s = emit.pointer(0, f32), emit.pointer(3, f32)
        i, _ = emit.begin_loop(const(0))
        x11, x12, x21, x22 = (
            emit.load(x, builder.add(row, builder.add(half, i)), f32_panel)
            for row in (upper, lower)
            for half in (const(0), k)
        )
        below = builder.fadd(x21, x22)
        most = builder.fsub(below, x11)
        sums = x11, x12, below, most, builder.fsub(x12, most), builder.fsub(x21, x11), x22
        for index, value in enumerate(sums):
            to = builder.add(at, builder.mul(stride, const(index)))
            emit.store(value, s, builder.add(to, i))
        emit.end_loop(i, const(PANEL), k)
        return context.get_dummy_value()

    return sig, codegen


@inlined
def sum_quarters(x, x_row, n_row, s):
    """Compute the inputs of the products for rows x_row .. x_row + n_row - 1 of x.

    The first half of the rows, and one more if their number is odd, have the others for partners.

    x  f32[R, >= K]                             K a multiple of 2 PANEL
    s  f32[QUARTERS, >= (n_row + 1) / 2, K / 2]

    Updates: s.
    """
    k, stride = s.shape[2], s.shape[1] * s.shape[2]
    n_upper = (n_row + 1) // 2
    for r in range(n_row // 2):
        upper, lower = (x_row + r) * x.shape[1], (x_row + n_upper + r) * x.shape[1]
        _sum_quarters_of(x, upper, lower, s, r * k, stride, k)
    if n_row % 2 == 1:
        r = n_upper - 1
        for i in range(k):
            s[0, r, i] = s[2, r, i] = x[x_row + r, i]
            s[1, r, i] = s[4, r, i] = x[x_row + r, k + i]


@intrinsic
def _add(typingctx, a, a_at, b, b_at, out, out_at, n_panel):
    """Add n_panel panels: out = a + b, each from an offset on."""
    n = types.int64
    sig = types.void(a, n, b, n, out, n, n)

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, a_at, _, b_at, _, out_at, n_panel = args
        i, _ = emit.begin_loop(const(0))
        step = builder.mul(i, const(PANEL))
        first, second = (
            emit.load(emit.pointer(index, f32), builder.add(at, step), f32_panel)
            for index, at in ((0, a_at), (2, b_at))
        )
        total = builder.fadd(first, second)
        emit.store(total, emit.pointer(4, f32), builder.add(out_at, step))
        emit.end_loop(i, const(1), n_panel)
        return context.get_dummy_value()

    return sig, codegen


@inlined
def product_strassen(s, n_row, w, bias, u, v, kept, first, last, out, out_panel, queue):
    """Compute what `floats.product_f32` does, for whole groups of panels and 2 ROWS rows or more.

    s            f32[QUARTERS, >= (n_row + 1) / 2, K / 2]  sums of the inputs (`sum_quarters`)
    u, v         f32[>= (n_row + 1) / 2, PANELS PANEL]     scratch
    kept         f32[3, PANELS, (K / 2 + APART) PANEL]     scratch for quarters of weights, and sums
    first, last  int                                       multiples of GROUP_PANELS

    Others are as for `floats.product_f32`; weights of pieces are of the type of w.

    Updates: u, v, kept, out, the queue and what its pieces point to.
    """
    k, ld, n = s.shape[2], out.shape[1], PANELS * PANEL
    size, place = w.shape[1] * PANEL, PANELS * kept.shape[2] * 4
    step = CACHE_LINE // w.itemsize if SHARE else n  # elements that a step of a tile prefetches
    first_fetch = max(QUARTERS - (-(-2 * GROUP_PANELS * PANEL // step)), 0)
    n_lower = n_row // 2
    n_upper = n_row - n_lower
    for group in range(first, last, GROUP_PANELS):
        o11 = (out_panel + group - first) * PANEL
        o12, o21 = o11 + n, o11 + n_upper * ld
        o22, b1, b2 = o21 + n, group * PANEL, group * PANEL + n
        for i in range(QUARTERS):
            rows = n_lower if i == 3 or i == 5 or i == 6 else n_upper
            for r in range(rows):  # what is added before this product
                of, row = r * n, r * ld
                if i == 1:
                    _add(u, of, bias, b1, out, o11 + row, PANELS)
                elif i == 4:
                    if r < n_lower:
                        _add(out, o12 + row, u, of, out, o22 + row, PANELS)
                    _add(out, o12 + row, u, of, out, o12 + row, PANELS)
                elif i == 6:
                    _add(out, o22 + row, v, of, out, o22 + row, PANELS)
                    _add(u, of, v, of, out, o21 + row, PANELS)
                    _add(out, o21 + row, bias, b1, out, o21 + row, PANELS)
            # Where the product goes; that of the second half of inputs is added to what is there.
            begin = k if i == 1 or i == 3 or i == 4 or i == 6 else 0
            to, to_at, to_ld = out.ctypes.data, o11 if i == 1 else o21 if i == 6 else o12, ld
            if i == 0 or i == 3 or i == 5:
                to, to_at, to_ld = (v if i == 5 else u).ctypes.data, 0, n
            target = array_at(to, (1, to_ld), np.float32)
            start = bias.ctypes.data + b2 * 4 if i == 2 else ZEROS.ctypes.data
            # The weights: w11; w21; w12 - w11; w22 less the last, which is t; w22; w12 - w22;
            # w21 - t. The first tile stores sums for the others, and what it widens, in one of
            # three places: t in the third, w11 and w22 in the first.
            p = group + PANELS if 2 <= i and i <= 5 else group
            less = 0 if i == 2 or i == 5 else 1 if i == 3 else 2 if i == 6 else -1
            own, stride = w.ctypes.data + p * size * w.itemsize, kept.shape[2]
            first_place = kept.ctypes.data - begin * PANEL * 4
            here = first_place + (0 if i == 0 or i == 4 else 2 if i == 3 else 1) * place
            # From the fourth product on, or earlier where steps prefetch less, it also prefetches a
            # share of the next group's weights.
            ahead = -step * begin
            if i >= first_fetch:
                ahead += (group + GROUP_PANELS) * size + (i - first_fetch) * step * k
            x_at = i * s.shape[1] * k - begin
            # These two begin where panel 0 would.
            starts = array_at(start - p * PANEL * 4, 1, np.float32)
            at = to_at - p * PANEL
            if less >= 0:
                other, other_stride = first_place + less * place, stride
                if less == 0 and w.itemsize == 4:
                    other = own + (k * PANEL if i == 5 else -PANELS * size) * 4
                    other_stride = size
                tile_f32(ROWS, PANELS, PREFETCH, begin, begin + k, s, x_at, k, 0, w, p, size,
                         ahead, step, starts, target, at, to_ld,
                         (here, stride, other, other_stride))  # fmt: skip
            else:
                tile_f32(ROWS, PANELS, PREFETCH, begin, begin + k, s, x_at, k, 0, w, p, size,
                         ahead, step, starts, target, at, to_ld, (here, stride))  # fmt: skip
                if w.itemsize == 4:  # floats are where they were
                    here, stride = own, size
            starts = array_at(start, n, np.float32)
            floats = array_at(here, (PANELS, k, PANEL), np.float32)
            multiply_panels(s, x_at, k, ROWS, rows, begin, begin + k, floats, 0, stride, 0, 0,
                            starts, target, to_at, to_ld, queue, w)  # fmt: skip
