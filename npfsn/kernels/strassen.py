"""Matrix products in float32 with an eighth fewer multiplications.

Strassen's algorithm in Winograd's form. Rows of inputs, inputs and outputs are cut in two,

    | o1 |   | x11 x12 |   | w11 w12 |
    | o2 | = | x21 x22 | * | w21 w22 |,    o1 = | o11 o12 |,

and seven products of quarters do what eight do otherwise:

    u = x11 w11                                     o11 = b1 + u + x12 w21
    u += (x21 + x22 - x11) (w11 - w12 + w22)        o12 = b2 + u + (x21 + x22) (w12 - w11)
    v = (x11 - x21) (w22 - w12)                     o22 = o12 + v
                                                    o12 += (x12 + x11 - x21 - x22) w22
                                                    o21 = b1 + u + v + x22 (w21 - w11 + w12 - w22)

Sums of weights are made when they are packed, those of inputs once for all outputs. A row without a
partner needs four products, as always: those with x11 and x12, and (w11 + (w12 - w11)) for w12.

Results share the rounding errors of a pair of rows and of outputs. Hidden states, between -1 and 1,
are alike, and the error is at most some twice that of a chain of multiply-adds. Features are not.
"""

from __future__ import annotations

import numpy as np
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from ..jit import inlined
from .arrays import pointer
from .floats import PANELS, PREFETCH, ROWS, multiply_many
from .vector import PANEL, Emit, aligned, const, f32, f32_panel

#: Products of quarters.
PRODUCTS = 7
#: Panels of outputs that are computed together: w11 and w12 are half of them. The last group of a
#: matrix may have fewer.
GROUP_PANELS = 4 * PANELS
#: With few rows, its tiles would be smaller, and with few inputs, too short: where it is worth it,
#: and from how many rows and inputs on. With AVX2, whose tiles take six rows, it is not.
POSSIBLE = PREFETCH == 1
LEAST_ROWS, LEAST_INPUTS = 4 * ROWS, 192
#: Results share rounding errors: one weight of this size moves those beside it by 1e-5 at most.
LARGEST_WEIGHT = 64.0

ZEROS = np.zeros(GROUP_PANELS // 2 * PANEL, np.float32)


def pack_strassen(weight: np.ndarray) -> np.ndarray:
    """Pack `weight` float[N, K] into float32[PRODUCTS P / 2, K / 2, PANEL], P = N / PANEL.

    Group of panels after group, for each the weights of the products in the order in which they
    are computed.
    """
    n_out, n_in = weight.shape
    k, n_panel = n_in // 2, n_out // PANEL
    weight = weight.astype(np.float32)
    packed = aligned((PRODUCTS * n_panel // 2, k, PANEL), np.float32)
    for first in range(0, n_panel, GROUP_PANELS):
        panels = min(GROUP_PANELS, n_panel - first) // 2
        at = PRODUCTS * first // 2
        group = packed[at : at + PRODUCTS * panels].reshape(PRODUCTS, panels, k, PANEL)
        rows = weight[first * PANEL :][: 2 * panels * PANEL].reshape(2, panels, PANEL, 2, k)
        (w11, w21), (w12, w22) = rows.transpose(0, 3, 1, 4, 2)
        more = w22 - w12
        sums = w11, w21, more + w11, w12 - w11, more, w22, w21 - w11 - more
        for product, part in zip(group, sums, strict=True):
            product[...] = part
    return packed


@intrinsic
def _sum_quarters_of(typingctx, x, upper, lower, s, at, stride, k):
    """Compute `PRODUCTS` rows of s, k values each, of two rows of 2 k inputs that are partners.

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
        sums = x11, x12, most, below, builder.fsub(x11, x21), builder.fsub(x12, most), x22
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
    s  f32[PRODUCTS, >= (n_row + 1) / 2, K / 2]

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
            s[0, r, i] = s[3, r, i] = x[x_row + r, i]
            s[1, r, i] = s[5, r, i] = x[x_row + r, k + i]


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
def product_strassen(s, n_row, w, bias, u, v, first, last, out, out_row, out_panel, queue, others):
    """Compute rows of out = x w^T + bias, out_row and the n_row - 1 after it.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    s           f32[PRODUCTS, M, K / 2]               sums of inputs (`sum_quarters`)
    w           f32[PRODUCTS P / 2, K / 2, PANEL]     packed weights (`pack_strassen`)
    bias        f32[P PANEL]
    u, v        f32[M, GROUP_PANELS / 2 PANEL]        scratch
    first, last int                                   whole groups of GROUP_PANELS, or up to P
    out         f32[R, >= (out_panel + last - first) PANEL]
    queue, others                                     as in `floats.product_f32`

    Updates: u, v, out, the queue and what its pieces point to.
    """
    k, ld, uv_ld = s.shape[2], out.shape[1], u.shape[1]
    n_lower = n_row // 2
    n_upper = n_row - n_lower
    for group in range(first, last, GROUP_PANELS):
        panels = min(GROUP_PANELS, last - group) // 2
        b1, b2 = group * PANEL, (group + panels) * PANEL
        o11 = out_row * ld + (out_panel + group - first) * PANEL
        o12, o21 = o11 + panels * PANEL, o11 + n_upper * ld
        o22 = o21 + panels * PANEL
        for i in range(PRODUCTS):
            rows = n_lower if i == 2 or i == 4 or i == 6 else n_upper
            for r in range(rows):  # sums before the product
                row, out_r = r * uv_ld, r * ld
                if i == 1:
                    _add(u, row, bias, b1, out, o11 + out_r, panels)
                elif i == 3:
                    _add(u, row, bias, b2, out, o12 + out_r, panels)
                elif i == 5 and r < n_lower:
                    _add(out, o12 + out_r, v, row, out, o22 + out_r, panels)
                elif i == 6:
                    _add(u, row, v, row, out, o21 + out_r, panels)
                    _add(out, o21 + out_r, bias, b1, out, o21 + out_r, panels)
            # Where the product goes, and whether it is added to what is there.
            target, target_ld = out.ctypes.data, ld
            at = o11 if i == 1 else o21 if i == 6 else o12
            if i == 0 or i == 2 or i == 4:
                target, target_ld, at = (v if i == 4 else u).ctypes.data, uv_ld, 0
            onto = 0 if i == 0 or i == 4 else 1
            to = carray(pointer(target), (1, target_ld), np.float32)
            panel = group // 2 * PRODUCTS + i * panels
            weight = w.ctypes.data + (panel * k - onto) * PANEL * 4
            weights = carray(pointer(weight), (panels, k, PANEL), np.float32)
            multiply_many(s, i * s.shape[1] * k - onto, k, rows, weights, onto, 0, panels, ZEROS,
                          to, at, target_ld, queue, others)  # fmt: skip
