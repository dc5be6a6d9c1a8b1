"""A matrix product, whatever its weights: in floats, by Strassen's algorithm, or in int8."""

from __future__ import annotations

import numpy as np

from ..jit import inlined, kernel
from .amx import product_amx
from .arrays import (
    address_of,
    array_at,
    call,
    f32_1d,
    f32_3d,
    i32_1d,
    record,
    u8_2d,
    u16_3d,
)
from .cpu import DEPTH, PANEL, PANELS, ROWS, ROWS_SMALL, WIDENS
from .floats import product_f32, product_widened
from .int8 import product_i8, quantise_rows
from .strassen import product_strassen, sum_quarters
from .tables import GROUP_PANELS, PRODUCT


@kernel
def make_ready(x, row, n_row, w):
    """Make rows row .. row + n_row - 1 of inputs ready for `product`.

    x  f32[R, X]  for int8 in whole panels, zeros behind the last input
    w  PRODUCT

    Updates: q and q_scale of w, from their first row on, or its sums; nothing for floats.
    """
    if w.ready != 0:
        call(w.ready, (address_of(w), x.ctypes.data, x.shape[1], row, n_row))


@kernel
def quantise_inputs(w, x, x_ld, row, n_row):
    """Make inputs ready for the PRODUCT at address w, in int8.

    x is the address of f32[R, x_ld], whole panels.
    """
    w = record(w, PRODUCT)
    x = array_at(x, (row + n_row, x_ld), np.float32)
    quantise_rows(x, row, n_row, u8_2d(w.q), f32_1d(w.q_scale))


@kernel
def sum_inputs(w, x, x_ld, row, n_row):
    """Make inputs ready, as `quantise_inputs` does, for Strassen's algorithm."""
    x = array_at(x, (row + n_row, x_ld), np.float32)
    sum_quarters(x, row, n_row, f32_3d(record(w, PRODUCT).sums))


# The kernels below run `product`, each for one kind of weights (`npfsn.layers` chooses). They take
#
#   w             address of the PRODUCT
#   x, x_ld       address of the inputs, f32[R, x_ld]; or they are in the PRODUCT, ready
#   x_row, n_row  the first row of x, and how many; what is ready begins with that row
#   first, last   panels of w: first .. last - 1
#   out, ld       address of the results, f32[R', ld]
#   out_panel     the first panel of out that is written


@kernel
def product_f32_weights(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Run `product_f32` with weights of floats."""
    w = record(w, PRODUCT)
    x = array_at(x, (x_row + n_row, x_ld), np.float32)
    out = array_at(out, (n_row, ld), np.float32)
    product_f32(x, x_row, n_row, f32_3d(w.weight), f32_1d(w.bias), first, last, out, out_panel,
                w.queue)  # fmt: skip


@kernel
def product_f16(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Run `product_f32` with weights of halves, or `product_widened` as far as it goes."""
    w = record(w, PRODUCT)
    x = array_at(x, (x_row + n_row, x_ld), np.float32)
    out = array_at(out, (n_row, ld), np.float32)
    weight, bias, whole = u16_3d(w.weight), f32_1d(w.bias), 0
    if WIDENS and w.kept.rows > 0 and n_row >= ROWS:
        whole = (last - first) // PANELS * PANELS
        product_widened(x, x_row, n_row, weight, bias, first, first + whole, out, out_panel,
                        w.queue, w.kept.address)  # fmt: skip
    product_f32(x, x_row, n_row, weight, bias, first + whole, last, out, out_panel + whole,
                w.queue)  # fmt: skip


@inlined
def _run_strassen(w, weight, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Run `product_strassen` on whole groups; x has been made ready."""
    table = record(w, PRODUCT)
    results, u_and_v = array_at(out, (n_row, ld), np.float32), f32_3d(table.partial)
    # Single panels and few rows are not worth it; all calls agree on what these are.
    whole = (last - first) // GROUP_PANELS * GROUP_PANELS if n_row >= 2 * ROWS else 0
    product_strassen(f32_3d(table.sums), n_row, weight, f32_1d(table.bias), u_and_v[0], u_and_v[1],
                     f32_3d(table.kept), first, first + whole, results, out_panel,
                     table.queue)  # fmt: skip
    if first + whole < last:
        call(table.plain, (w, x, x_ld, x_row, n_row, first + whole, last, out, ld,
                           out_panel + whole))  # fmt: skip


@kernel
def product_summed(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Multiply with weights of floats by Strassen's algorithm."""
    weight = f32_3d(record(w, PRODUCT).weight)
    _run_strassen(w, weight, x, x_ld, x_row, n_row, first, last, out, ld, out_panel)


@kernel
def product_summed_f16(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Multiply with weights of halves by Strassen's algorithm."""
    weight = u16_3d(record(w, PRODUCT).weight)
    _run_strassen(w, weight, x, x_ld, x_row, n_row, first, last, out, ld, out_panel)


@kernel
def product_bytes(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Run `product_i8`; x has been made ready."""
    w = record(w, PRODUCT)
    n_panel, depth = w.weight.rows, w.weight.columns
    levels = array_at(w.weight.address, (n_panel, depth, PANEL, DEPTH), np.int8)
    out = array_at(out, (n_row, ld), np.float32)
    product_i8(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q), f32_1d(w.q_scale),
               f32_1d(w.bias), first, last, out, out_panel)  # fmt: skip


@kernel
def product_tiles(w, x, x_ld, x_row, n_row, first, last, out, ld, out_panel):
    """Run `product_amx` for many rows, `product_i8` for few; x has been made ready."""
    w = record(w, PRODUCT)
    n_panel, depth = w.weight.rows, w.weight.columns
    levels = array_at(w.weight.address, (n_panel, depth, PANEL, DEPTH), np.int8)
    out = array_at(out, (n_row, ld), np.float32)
    if n_row < ROWS_SMALL:
        product_i8(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q), f32_1d(w.q_scale),
                   f32_1d(w.bias), first, last, out, out_panel)  # fmt: skip
    else:
        product_amx(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q),
                    f32_1d(w.q_scale), f32_1d(w.bias), first, last, out, out_panel)  # fmt: skip


@kernel
def product(x, x_row, n_row, w, first, last, out, out_panel):
    """Compute rows of out = x w^T + bias: out[i] from x[x_row + i], i < n_row.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    x    f32[R, >= K]  inputs; `make_ready` was last called for these rows
    w    PRODUCT       of K inputs
    out  f32[R', >= (out_panel + last - first) PANEL]

    Updates: out.
    """
    call(w.kernel, (address_of(w), x.ctypes.data, x.shape[1], x_row, n_row, first, last,
                    out.ctypes.data, out.shape[1], out_panel))  # fmt: skip
