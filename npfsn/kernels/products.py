"""Matrix products of our own.

A weight matrix `w[N, K]` (outputs, inputs) is packed into *panels* of `PANEL` outputs:
``[ceil(N / PANEL), K, PANEL]``. A *tile* keeps some rows x panels of the result in registers and
runs along K. Every element of the result is one chain of multiply-adds,

    out[r, n] = fma(x[r, K-1], w[n, K-1], ... fma(x[r, 0], w[n, 0], bias[n])),

whichever tile computes it, so one row alone and the same row among many give the same bits.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..jit import address, inlined, kernel
from ..quantise import levels_with_room, quantise
from .amx import HAS_TILES, TILE, fits, product_amx
from .arrays import (
    ARRAY,
    address_of,
    call,
    f32_1d,
    f32_at,
    i32_1d,
    pointer,
    record,
    u8_2d,
)
from .vector import (
    DEPTH,
    F16_IS_SLOW,
    FEATURES,
    HAS_BYTE_PRODUCT,
    HAS_F16,
    IS_ZEN,
    MAX_INPUT,
    OFFSET,
    PANEL,
    READS_AHEAD,
    SMALLEST,
    TOGETHER,
    Emit,
    aligned,
    const,
    f16,
    f32,
    f32_panel,
    i8,
    i32,
    i32_panel,
    panel_of,
)

# A tile must fit the registers: rows x panels accumulators, the panels' weights, one broadcast.
if "avx512f" in FEATURES:  # 32 registers of 16 floats: a panel is one register
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 8, 4, 3, 4 if READS_AHEAD else 8
elif "avx2" in FEATURES or "neon" in FEATURES:  # 16 registers of 8, 32 of 4
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 6, 4, 1, 4
else:
    ROWS, ROWS_SMALL, PANELS, PANELS_ONE_ROW = 2, 1, 1, 2
# PREFETCH: whether tiles prefetch the next weights while they compute; with AVX2 no instruction is
# to spare. AHEAD_PANELS: how many panels a tile of floats prefetches. A single row prefetches only
# where the hardware is too slow to do it.
PREFETCH, AHEAD_PANELS = 1 if PANELS > 1 else 0, 2
ONE_ROW_PREFETCH = 0 if READS_AHEAD else PREFETCH
# Parts in which one row widens a panel of halves: Zen 4 is faster with two of 8.
PARTS = 2 if IS_ZEN and not READS_AHEAD else 1
# Bytes of a panel that meet all rows before the next ones are read: they stay in the first-level
# cache, even in half of it where threads share a core. Tiles of several panels need fewer bytes for
# the same work, which the second level delivers in time.
PART = 12288 if PANELS == 1 else 1 << 30
# Steps along K per iteration of a full tile's loop. With AVX2 the loop adds a third to the
# instructions of a step, which costs time where another thread shares the core's decoders.
UNROLL = 2 if "avx2" in FEATURES and PANELS == 1 else 1
# Rows of an int8 tile. Without an instruction for byte products, intermediate results take
# registers. AVX2 has so few that one row by the panels of a wide stride takes the fewest
# instructions; it needs no unrolling.
if HAS_BYTE_PRODUCT:
    ROWS_I8 = ROWS
elif "avx512f" in FEATURES:
    ROWS_I8 = 4
else:
    ROWS_I8 = 1 if "avx2" in FEATURES else 2
ROWS_SMALL_I8 = min(ROWS_SMALL, ROWS_I8)

ZERO = np.float32(0.0)
INPUT_LEVELS = np.float32(MAX_INPUT)

#: Rows of an int8 product that are computed at once.
BLOCK_I8 = TILE if HAS_TILES else ROWS_I8

# Numba's type for halves; where no instruction widens them, there are none (`pack_f32`).
F16_BITS = np.uint16 if HAS_F16 else np.float32

#: A matrix product, K inputs and P panels of outputs.
PRODUCT = np.dtype(
    [
        ("kernel", np.int64),  # `product_kernel`
        ("quantised", np.int64),
        ("weight", ARRAY),  # f32 or u16[P, K, PANEL], or i8[P, S, PANEL, DEPTH] (`pack_i8`)
        ("scale", ARRAY),  # f32[P PANEL]; scale to q_scale are of int8 alone
        ("shift", ARRAY),  # i32[P PANEL]
        ("q", ARRAY),  # u8[R, X], quantised inputs, whole tiles of rows
        ("q_scale", ARRAY),  # f32[R], their scales
        ("bias", ARRAY),  # f32[P PANEL]
        ("queue", np.int64),  # address of the QUEUE that its tiles work off, or 0
    ]
)

#: Work that tiles of floats do beside their own (`product_f32`): a part of the product of one row
#: with other weights, panels a .. a + AHEAD_PANELS - 1 of them, and a prefetch. All fields but
#: `steps` and `count` are addresses, and `argument` may be one.
PIECE = np.dtype(
    [
        # From here on are prefetched the bytes that AHEAD_PANELS panels of `steps` inputs take.
        ("prefetch", np.int64),
        ("weight", np.int64),  # panel a, of the type of `others` (`product_f32`); 0: prefetch only
        ("steps", np.int64),  # K, inputs of that row; 0: neither product nor prefetch, only `then`
        ("input", np.int64),  # f32[K], the row
        ("bias", np.int64),  # f32[AHEAD_PANELS PANEL]
        ("out", np.int64),  # f32[AHEAD_PANELS PANEL]
        ("done", np.int64),  # i64, set to `count` at the end: the panels that are complete; or 0
        ("then", np.int64),  # kernel(argument, count) to call at the end, or 0
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


def padded(n: int) -> int:
    """Return `n` rounded up to whole panels."""
    return -(-n // PANEL) * PANEL


def pack_f32(weight: np.ndarray) -> np.ndarray:
    """Pack `weight` float[N, K] into float32[ceil(N / PANEL), K, PANEL], zeros behind N.

    Where the machine can widen it while loading, float16 stays float16: half as much to read, and
    the same products to the bit. Numba has no halves, so the array is a uint16 view of their bits.
    """
    n_out, n_in = weight.shape
    n_panel = padded(n_out) // PANEL
    dtype = np.float16 if HAS_F16 and weight.dtype == np.float16 else np.float32
    rows = np.zeros((n_panel * PANEL, n_in), dtype)
    rows[:n_out] = weight
    packed = aligned((n_panel, n_in, PANEL), dtype)
    packed[...] = rows.reshape(n_panel, PANEL, n_in).transpose(0, 2, 1)
    return packed if dtype == np.float32 else packed.view(np.uint16)


@intrinsic(prefer_literal=True)
def _tile_f32(
    typingctx, rows, panels, prefetch, first, last, x, x_at, x_stride, row, w, panel, w_stride,
    ahead, bias, out, out_at, out_stride, beside,
):  # fmt: skip
    """Compute a tile: `rows` x `panels` sums stay in registers while k runs from first to last - 1.

    It starts at `row` and `panel`: x_at is where row 0 is in x, out_at where row 0 and panel 0 of
    the product are, or would be, in out.

    Sums start from the bias or, where first is not 0, from those of the inputs before, in out. If
    `prefetch` is 1, each step prefetches from w[ahead] on: as much as a step of AHEAD_PANELS panels
    takes or, in a tile of one row, a step of its own panels.

    beside: () or, for one more row times AHEAD_PANELS panels of other weights in the same loop: an
    array of the weights' type; the addresses of the row and of the weights for k = 0; the weights'
    stride from panel to panel in elements; the addresses where its sums start and where they go.
    """
    n = types.int64
    sig = types.void(rows, panels, prefetch, n, n, x, n, n, n, w, n, n, n, bias, out, n, n, beside)
    n_row, n_panel = rows.literal_value, panels.literal_value
    n_beside = AHEAD_PANELS if len(beside) else 0
    element_beside = f16 if n_beside and beside[0].dtype != types.float32 else f32
    element = f32 if w.dtype == types.float32 else f16
    steps = UNROLL if n_row == ROWS else 1
    parts = PARTS if n_row == 1 and element == f16 else 1
    vector, n_part = ir.VectorType(f32, PANEL // parts), n_panel * parts

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, _, _, first, last, _, x_at, x_stride, row, _, panel, w_stride, ahead = args[:13]
        _, _, out_at, out_stride, _ = args[13:]
        x, bias, out = (emit.pointer(i, f32) for i in (5, 13, 14))
        w = emit.pointer(9, element)
        w_at, bias_at = builder.mul(panel, w_stride), builder.mul(panel, const(PANEL))
        x_at = builder.add(x_at, builder.mul(row, x_stride))
        out_at = builder.add(builder.add(out_at, builder.mul(row, out_stride)), bias_at)
        x_rows, out_rows = (
            [
                builder.gep(base, [builder.add(at, builder.mul(stride, const(r)))])
                for r in range(n_row)
            ]
            for base, at, stride in ((x, x_at, x_stride), (out, out_at, out_stride))
        )
        if steps > 1:
            x_rows = [emit.apart(row) for row in x_rows]
        w_panels = [
            builder.gep(w, [builder.add(w_at, builder.mul(w_stride, const(p)))])
            for p in range(n_panel)
        ]
        if n_beside:
            _, y, v, v_stride, sums, z = (builder.extract_value(args[17], i) for i in range(6))
            y, sums, z = (builder.inttoptr(at, f32.as_pointer()) for at in (y, sums, z))
            v = builder.inttoptr(v, element_beside.as_pointer())
            v_panels = [builder.gep(v, [builder.mul(v_stride, const(p))]) for p in range(n_beside)]
        from_bias = builder.icmp_signed("==", first, const(0))
        bias_row = builder.gep(bias, [bias_at])

        def load_row(at: ir.Value) -> list[ir.Value]:
            return [emit.load(at, const(vector.count * p), vector) for p in range(n_part)]

        if n_row > 1 and n_panel > 1:
            # All rows start alike: loads of their own would cost a large tile more than its branch.
            with builder.if_else(from_bias) as (alike, onward):
                with alike:
                    at_bias, alike_block = [load_row(bias_row)] * n_row, builder.block
                with onward:
                    at_out, onward_block = [load_row(row) for row in out_rows], builder.block
            start = [[builder.phi(vector) for _ in range(n_part)] for _ in range(n_row)]
            for r in range(n_row):
                for p in range(n_part):
                    start[r][p].add_incoming(at_bias[r][p], alike_block)
                    start[r][p].add_incoming(at_out[r][p], onward_block)
        else:
            start = [load_row(builder.select(from_bias, bias_row, row)) for row in out_rows]
        start_beside = [emit.load(sums, const(PANEL * p), f32_panel) for p in range(n_beside)]

        k, before = emit.begin_loop(first)
        acc = [[builder.phi(vector) for _ in range(n_part)] for _ in range(n_row)]
        acc_beside = [builder.phi(f32_panel) for _ in range(n_beside)]
        w_k = builder.mul(k, const(PANEL))
        in_line = 1 if element == f32 else 2  # panels in a cache line, for a step
        if prefetch.literal_value:
            if n_row == 1:
                step = in_line
                lines = [builder.mul(w_stride, const(p)) for p in range(0, n_panel, in_line)]
            else:
                step = (
                    AHEAD_PANELS // 2 if element_beside == f16 and element == f32 else AHEAD_PANELS
                )
                lines = [const(PANEL * p) for p in range(0, step, in_line)]
            at = builder.add(ahead, builder.mul(w_k, const(step)))
            for line in lines:
                emit.prefetch(builder.gep(w, [builder.add(at, line)]))
        weights = [
            emit.load_floats(w_panels[p], builder.add(w_k, const(vector.count * i)), vector)
            for p in range(n_panel)
            for i in range(parts)
        ]
        new = []
        for r in range(n_row):
            value = emit.splat(builder.load(builder.gep(x_rows[r], [k])), vector.count)
            new.append([emit.fma(value, weights[p], acc[r][p]) for p in range(n_part)])
        if n_beside:
            value = emit.splat(builder.load(builder.gep(y, [k])), PANEL)
            found = [emit.load_floats(panel, w_k, f32_panel) for panel in v_panels]
        new_beside = [emit.fma(value, found[p], acc_beside[p]) for p in range(n_beside)]
        for r in range(n_row):
            for p in range(n_part):
                acc[r][p].add_incoming(start[r][p], before)
                acc[r][p].add_incoming(new[r][p], k.parent)
        for p in range(n_beside):
            acc_beside[p].add_incoming(start_beside[p], before)
            acc_beside[p].add_incoming(new_beside[p], k.parent)
        emit.end_loop(k, const(1), last, unroll=steps)

        for r in range(n_row):
            for p in range(n_part):
                emit.store(new[r][p], out_rows[r], const(vector.count * p))
        for p in range(n_beside):
            emit.store(new_beside[p], z, const(PANEL * p))
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def prefetch_lines(typingctx, w, at, size, turn, turns):
    """Prefetch one share, number `turn` of `turns`, of the cache lines of w[at : at + size]."""
    n = types.int64
    sig = types.void(w, n, n, n, n)
    element = {types.float32: f32, types.uint16: f16, types.int8: i8}[w.dtype]
    line = const(64 // (w.dtype.bitwidth // 8))

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        base, (_, at, size, turn, turns) = emit.pointer(0, element), args
        lines = builder.sdiv(builder.add(size, builder.sub(line, const(1))), line)
        share = builder.sdiv(builder.add(lines, builder.sub(turns, const(1))), turns)
        first = builder.add(at, builder.mul(builder.mul(turn, share), line))
        with cgutils.for_range(builder, share) as loop:
            emit.prefetch(builder.gep(base, [builder.add(first, builder.mul(loop.index, line))]))
        return context.get_dummy_value()

    return sig, codegen


@inlined
def product_f32(x, x_row, n_row, w, bias, first, last, out, out_row, out_panel, queue, others):
    """Compute rows of out = x w^T + bias: out[out_row + i] from x[x_row + i], i < n_row.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    x       f32[R, >= K]             inputs
    w       f32 or u16[P, K, PANEL]  packed weights (`pack_f32`)
    bias    f32[P PANEL]
    out     f32[R', >= (out_panel + last - first) PANEL]
    queue   int                      address of the QUEUE that tiles work off, or 0
    others  f32 or u16[?]            any array of the type of its pieces' weights

    Updates: out, the queue and what its pieces point to.
    """
    n_in = w.shape[1]
    x_ld, ld = x.shape[1], out.shape[1]
    size, part = n_in * PANEL, min(PART // (PANEL * w.itemsize), n_in)
    x_at, out_at = x_row * x_ld, out_row * ld + (out_panel - first) * PANEL
    if n_row < ROWS_SMALL:  # one to three rows: each reads the weights in wide strides
        for row in range(n_row):
            p = first
            # A cell takes parts of the matrix, in every second frame of a block backwards
            # (`recur`): what comes next is known only in calls that reach the matrix's end.
            prefetch = ONE_ROW_PREFETCH and last == w.shape[0]
            while prefetch and p + 2 * PANELS_ONE_ROW <= last:
                _tile_f32(1, PANELS_ONE_ROW, ONE_ROW_PREFETCH, 0, n_in, x, x_at, x_ld, row, w, p,
                          size, (p + PANELS_ONE_ROW) * size, bias, out, out_at, ld, ())  # fmt: skip
                p += PANELS_ONE_ROW
            while p + PANELS_ONE_ROW <= last:
                _tile_f32(1, PANELS_ONE_ROW, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias,
                          out, out_at, ld, ())  # fmt: skip
                p += PANELS_ONE_ROW
            while p < last:
                _tile_f32(1, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias, out, out_at,
                          ld, ())  # fmt: skip
                p += 1
        return
    # A few panels, or a part of one, stay in a near cache while all rows meet them; meanwhile the
    # next ones are prefetched. A prefetch beyond the last does no harm. With AVX2 each tile
    # prefetches its share before it starts: its loop has no instruction to spare. With AVX-512 the
    # loop does it, which is 8 to 12 % faster there. Once the first tiles have prefetched the next
    # panels, memory is idle, and the others work off the queue.
    fetching = (PANELS + AHEAD_PANELS - 1) // AHEAD_PANELS  # tiles that prefetch the next
    due = record(queue, QUEUE)
    p = first
    while p + PANELS <= last:
        row, k = 0, 0
        while k < n_in:
            row, k_end = 0, min(k + part, n_in)
            while row + ROWS <= n_row:
                ahead, at = (p + PANELS + row // ROWS % fetching * AHEAD_PANELS) * size, k
                if PREFETCH:
                    while (
                        row >= fetching * ROWS and queue != 0 and due.next < due.end and at < k_end
                    ):
                        # A piece has its own steps: it may end within a tile, or go on in the next.
                        piece = carray(pointer(due.pieces), due.end, PIECE)[due.next]
                        end = min(at + piece.steps - due.step, k_end)
                        back = (due.step - at) * PANEL
                        fetched = (piece.prefetch - w.ctypes.data) // w.itemsize
                        fetched += (
                            back * AHEAD_PANELS * min(others.itemsize, w.itemsize) // w.itemsize
                        )
                        if piece.weight != 0:
                            start = piece.bias if due.step == 0 else piece.out
                            _tile_f32(ROWS, PANELS, PREFETCH, at, end, x, x_at, x_ld, row,
                                      w, p, size, fetched, bias, out, out_at, ld,
                                      (others, piece.input + (due.step - at) * 4,
                                       piece.weight + back * others.itemsize,
                                       piece.steps * PANEL, start, piece.out))  # fmt: skip
                        elif end > at:
                            _tile_f32(ROWS, PANELS, PREFETCH, at, end, x, x_at, x_ld, row, w, p,
                                      size, fetched, bias, out, out_at, ld, ())  # fmt: skip
                        due.step += end - at
                        at = end
                        if due.step == piece.steps:
                            due.step = 0
                            due.next += 1
                            if piece.done != 0:
                                carray(pointer(piece.done), 1, np.int64)[0] = piece.count
                            if piece.then != 0:
                                call(piece.then, (piece.argument, piece.count))
                else:
                    prefetch_lines(
                        w, p * size + k_end * PANEL, part * PANEL, row // ROWS, n_row // ROWS
                    )
                if at < k_end:
                    _tile_f32(ROWS, PANELS, PREFETCH, at, k_end, x, x_at, x_ld, row, w, p, size,
                              ahead, bias, out, out_at, ld, ())  # fmt: skip
                row += ROWS
            k = k_end
        while row + ROWS_SMALL <= n_row:
            _tile_f32(ROWS_SMALL, PANELS, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias, out,
                      out_at, ld, ())  # fmt: skip
            row += ROWS_SMALL
        while row < n_row:
            _tile_f32(1, PANELS, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias, out, out_at,
                      ld, ())  # fmt: skip
            row += 1
        p += PANELS
    while p < last:
        row = 0
        while row + ROWS <= n_row:
            _tile_f32(ROWS, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias, out, out_at, ld,
                      ())  # fmt: skip
            row += ROWS
        while row < n_row:
            _tile_f32(1, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, bias, out, out_at, ld,
                      ())  # fmt: skip
            row += 1
        p += 1


# int8: weights of eight bits, inputs of seven, a float scale for each row of either, sums in int32.
# Integers add up exactly, so every tier of instructions gives the same result to the bit.


def pack_i8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise and pack `weight` float[N, K].

    Returns
    -------
    packed : int8 array, shape (ceil(N / PANEL), S, PANEL, DEPTH)
        S is even, S DEPTH at least K; zeros behind K.
    scale : float32 array, shape (ceil(N / PANEL) PANEL,)
        weight[n] = scale[n] packed[n], rounded to as many levels as `levels_with_room` gives.
    shift : int32 array of the same shape
        What the offset of the inputs adds to every sum: OFFSET times the sum of the row.
    """
    n_out, n_in = weight.shape
    n_panel, n_deep = padded(n_out) // PANEL, 2 * -(-n_in // (2 * DEPTH))
    levels = np.zeros((n_panel * PANEL, n_deep * DEPTH), np.int8)
    scale = np.zeros(n_panel * PANEL, np.float32)
    levels[:n_out, :n_in], scale[:n_out] = quantise(weight, levels_with_room(weight))
    packed = aligned((n_panel, n_deep, PANEL, DEPTH), np.int8)
    packed[...] = levels.reshape(n_panel, PANEL, n_deep, DEPTH).transpose(0, 2, 1, 3)
    return packed, scale, OFFSET * levels.sum(axis=1, dtype=np.int32)


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
def product_i8(n_row, w, w_scale, shift, q, x_scale, bias, first, last, out, out_row, out_panel):
    """Compute rows of out = x w^T + bias in integers: out[out_row + i] from row i of q.

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
    size, out_at = n_deep * PANEL * DEPTH, out_row * ld + (out_panel - first) * PANEL
    if ROWS_I8 == 1 or n_row < ROWS_SMALL:  # the weights are read once, stride by stride
        p = first
        while p + PANELS_ONE_ROW <= last:
            for row in range(n_row):
                if n_row >= ROWS_SMALL:  # as in `product_f32`
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
            if not PREFETCH:  # as in `product_f32`
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


@kernel
def quantise_if_int8(x, row, n_row, w):
    """Make rows row .. row + n_row - 1 of inputs ready for `product`: quantise them for int8.

    x  f32[R, X]  for int8 in whole panels, zeros behind the last input
    w  PRODUCT

    Updates: q and q_scale of w, from their first row on; nothing for floats.
    """
    if w.quantised:
        quantise_rows(x, row, n_row, u8_2d(w.q), f32_1d(w.q_scale))


@inlined
def _run_f32(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel, kind, kind_beside):
    """Run `product_f32`, with arguments as those of the kernels below.

    kind         dtype  of the weights: float32 or F16_BITS
    kind_beside  dtype  of the weights of the queue's pieces
    """
    w = record(w, PRODUCT)
    weight = carray(pointer(w.weight.address), (w.weight.rows, w.weight.columns, PANEL), kind)
    others = carray(pointer(w.weight.address), 1, kind_beside)
    x, out = f32_at(x, x_row + n_row, x_ld), f32_at(out, out_row + n_row, ld)
    product_f32(x, x_row, n_row, weight, f32_1d(w.bias), first, last, out, out_row, out_panel,
                w.queue, others)  # fmt: skip


# The kernels below run `product`, each for one kind of weights (`product_kernel`). They take
#
#   w                   address of the PRODUCT
#   x, x_ld             address of the inputs, f32[R, x_ld]; int8 reads q of the PRODUCT instead
#   x_row, n_row        the first row of x, and how many; of q they are 0 .. n_row - 1
#   first, last         panels of w: first .. last - 1
#   out, ld             address of the results, f32[R', ld]
#   out_row, out_panel  the first row and panel of out that are written


@kernel
def product_f32_weights(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel):
    """Multiply with weights of floats."""
    _run_f32(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel, np.float32,
             np.float32)  # fmt: skip


@kernel
def product_f16(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel):
    """Multiply with weights of halves."""
    _run_f32(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel, F16_BITS,
             F16_BITS)  # fmt: skip


@kernel
def product_widened(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel):
    """Multiply with weights of floats; the queue's pieces have weights of halves."""
    _run_f32(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel, np.float32,
             F16_BITS)  # fmt: skip


@kernel
def product_bytes(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel):
    """Run `product_i8`; x has been made ready."""
    w = record(w, PRODUCT)
    n_panel, depth = w.weight.rows, w.weight.columns
    levels = carray(pointer(w.weight.address), (n_panel, depth, PANEL, DEPTH), np.int8)
    out = f32_at(out, out_row + n_row, ld)
    product_i8(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q), f32_1d(w.q_scale),
               f32_1d(w.bias), first, last, out, out_row, out_panel)  # fmt: skip


@kernel
def product_tiles(w, x, x_ld, x_row, n_row, first, last, out, ld, out_row, out_panel):
    """Run `product_amx` for many rows, `product_i8` for few; x has been made ready."""
    w = record(w, PRODUCT)
    n_panel, depth = w.weight.rows, w.weight.columns
    levels = carray(pointer(w.weight.address), (n_panel, depth, PANEL, DEPTH), np.int8)
    out = f32_at(out, out_row + n_row, ld)
    if n_row < ROWS_SMALL:
        product_i8(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q), f32_1d(w.q_scale),
                   f32_1d(w.bias), first, last, out, out_row, out_panel)  # fmt: skip
    else:
        product_amx(n_row, levels, f32_1d(w.scale), i32_1d(w.shift), u8_2d(w.q),
                    f32_1d(w.q_scale), f32_1d(w.bias), first, last, out, out_row,
                    out_panel)  # fmt: skip


_BY_TYPE = {"float32": product_f32_weights, "uint16": product_f16, "int8": product_bytes}


def product_kernel(packed: np.ndarray) -> int:
    """Return the address of the kernel that multiplies with packed weights."""
    if packed.dtype == np.int8 and HAS_TILES and fits(packed.shape[1]):
        return address(product_tiles)
    if packed.dtype == np.uint16 and F16_IS_SLOW:
        # For blocks of many rows (`npfsn.layers.Product.for_rows`): compiled before a stream runs.
        address(product_f32_weights)
        address(product_widened)
    return address(_BY_TYPE[packed.dtype.name])


@kernel
def product(x, x_row, n_row, w, first, last, out, out_row, out_panel):
    """Compute rows of out = x w^T + bias: out[out_row + i] from x[x_row + i], i < n_row.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    x    f32[R, >= K]  inputs; `quantise_if_int8` was last called for these rows
    w    PRODUCT       of K inputs
    out  f32[R', >= (out_panel + last - first) PANEL]

    Updates: out.
    """
    call(w.kernel, (address_of(w), x.ctypes.data, x.shape[1], x_row, n_row, first, last,
                    out.ctypes.data, out.shape[1], out_row, out_panel))  # fmt: skip


@kernel
def matmul(x, products, n_row, first, last, out):
    """Compute panels first .. last - 1 of n_row rows of out = x w^T + bias.

    x         f32[R, >= K]   for int8 in whole panels, zeros behind the last input
    products  PRODUCT[1]
    out       f32[R, >= P PANEL]
    """
    quantise_if_int8(x, 0, n_row, products[0])
    product(x, 0, n_row, products[0], first, last, out, 0, first)
