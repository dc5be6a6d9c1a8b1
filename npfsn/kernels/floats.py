"""Matrix products in float32, in tiles.

A weight matrix `w[N, K]` (outputs, inputs) is packed into *panels* of `PANEL` outputs:
``[ceil(N / PANEL), K, PANEL]``. A *tile* keeps some rows x panels of the result in registers and
runs along K. Every element of the result is one chain of multiply-adds,

    out[r, n] = fma(x[r, K-1], w[n, K-1], ... fma(x[r, 0], w[n, 0], bias[n])),

whichever tile computes it, so one row alone and the same row among many give the same bits.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..jit import inlined
from .arrays import array_at, call, record
from .cpu import (
    AHEAD_BYTES,
    AHEAD_PANELS,
    CACHE_LINE,
    ONE_ROW_PREFETCH,
    PANEL,
    PANELS,
    PANELS_ONE_ROW,
    PART,
    PARTS,
    PREFETCH,
    ROWS,
    ROWS_SMALL,
    SHARE,
    UNROLL,
    panels_beside,
)
from .tables import APART, LAYER, PIECE, QUEUE
from .vector import Emit, const, f16, f32, f32_panel, i8


@intrinsic(prefer_literal=True)
def tile_f32(
    typingctx, rows, panels, prefetch, first, last, x, x_at, x_stride, row, w, panel, w_stride,
    ahead, ahead_step, bias, out, out_at, out_stride, more,
):  # fmt: skip
    """Compute a tile: `rows` x `panels` sums stay in registers while k runs from first to last - 1.

    It starts at `row` and `panel`: x_at is where row 0 is in x, out_at where row 0 and panel 0 of
    the product are, or would be, in out.

    Sums start from the bias or, where first is not 0, from those of the inputs before, in out.

    prefetch: whether step k prefetches what is at w[ahead + k ahead_step]: of a tile of one row, a
    line of each of its panels; of others, a line or, where they do not SHARE, as much as a step
    multiplies.

    more: () or, in the same loop,
    - the address from which on each step prefetches AHEAD_BYTES;
    - or, to multiply one more row with other weights, `panels_beside` of them: an array of the
      weights' type; the addresses of the row and of the weights for k = 0; the weights' stride from
      panel to panel in elements; the addresses where its sums start and where they go; and the
      address from which on each step prefetches as much as it takes of these weights;
    - or, to store the weights that are multiplied where they are not in memory, halves widened or
      floats less others: the address where they go for k = 0, and the stride there from panel to
      panel; then address and stride of the others, if there are any.
    """
    n = types.int64
    sig = types.void(rows, panels, prefetch, n, n, x, n, n, n, w, n, n, n, n, bias, out, n, n, more)
    n_row, n_panel = rows.literal_value, panels.literal_value
    n_more = len(more)
    n_beside = panels_beside(more[0].dtype.bitwidth // 8) if n_more == 7 else 0
    n_stored = n_more if n_more == 4 or n_more == 2 and w.dtype != types.float32 else 0
    element_beside = f16 if n_beside and more[0].dtype != types.float32 else f32
    element = f32 if w.dtype == types.float32 else f16
    steps = UNROLL if n_row == ROWS else 1
    parts = PARTS if n_row == 1 and element == f16 else 1
    vector, n_part = ir.VectorType(f32, PANEL // parts), n_panel * parts

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, _, _, first, last, _, x_at, x_stride, row, _, panel, w_stride = args[:12]
        ahead, ahead_step, _, _, out_at, out_stride, more = args[12:]
        x, bias, out = (emit.pointer(i, f32) for i in (5, 14, 15))
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
        if n_row == ROWS and not n_beside:
            x_rows = [emit.apart(row) for row in x_rows]
        w_panels = [
            builder.gep(w, [builder.add(w_at, builder.mul(w_stride, const(p)))])
            for p in range(n_panel)
        ]
        if n_beside:
            _, y, v, v_stride, sums, z, _ = (builder.extract_value(more, i) for i in range(n_more))
            y, sums, z = (builder.inttoptr(at, f32.as_pointer()) for at in (y, sums, z))
            v = builder.inttoptr(v, element_beside.as_pointer())
            v_panels = [builder.gep(v, [builder.mul(v_stride, const(p))]) for p in range(n_beside)]
        if n_stored:
            stored, *less = (
                (
                    builder.inttoptr(builder.extract_value(more, i), f32.as_pointer()),
                    builder.extract_value(more, i + 1),
                )
                for i in range(0, n_stored, 2)
            )
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
        size, size_beside = (4 if e == f32 else 2 for e in (element, element_beside))
        if prefetch.literal_value:
            at, in_line = builder.add(ahead, builder.mul(k, ahead_step)), CACHE_LINE // size
            if n_row == 1:
                panels_in_line = in_line // PANEL
                lines = [builder.mul(w_stride, const(p)) for p in range(0, n_panel, panels_in_line)]
            else:
                lines = [const(i) for i in range(0, 1 if SHARE else n_panel * PANEL, in_line)]
            for line in lines:
                emit.prefetch(builder.gep(w, [builder.add(at, line)]))
        if n_beside or n_more == 1:
            later = builder.inttoptr(builder.extract_value(more, n_more - 1), i8.as_pointer())
            n_byte = n_beside * PANEL * size_beside if n_beside else AHEAD_BYTES
            at = builder.mul(k, const(n_byte))
            for line in range(0, n_byte, CACHE_LINE):
                emit.prefetch(builder.gep(later, [builder.add(at, const(line))]))
        weights = [
            emit.load_floats(w_panels[p], builder.add(w_k, const(vector.count * i)), vector)
            for p in range(n_panel)
            for i in range(parts)
        ]
        for p in range(n_panel if n_stored else 0):
            for other, stride in less:
                at = builder.add(builder.mul(stride, const(p)), w_k)
                weights[p] = builder.fsub(weights[p], emit.load(other, at, f32_panel))
            at = builder.add(builder.mul(stored[1], const(p)), w_k)
            emit.store(weights[p], stored[0], at)
        if n_stored:
            # In one block with the stores, LLVM would load all inputs before it multiplies, and
            # have no registers left. It does not know that this branch is never taken.
            one = emit.apart(const(1))
            with builder.if_then(builder.icmp_signed("!=", one, const(1)), likely=False):
                emit.store(weights[0], stored[0], w_k)
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
                acc[r][p].add_incoming(new[r][p], builder.block)
        for p in range(n_beside):
            acc_beside[p].add_incoming(start_beside[p], before)
            acc_beside[p].add_incoming(new_beside[p], builder.block)
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
    line = const(CACHE_LINE // (w.dtype.bitwidth // 8))

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
def product_f32(x, x_row, n_row, w, bias, first, last, out, out_panel, queue):
    """Compute rows of out = x w^T + bias: out[i] from x[x_row + i], i < n_row.

    Only panels first .. last - 1 of w; they go to panels out_panel and on of out.

    x       f32[R, >= K]             inputs
    w       f32 or u16[P, K, PANEL]  packed weights (`pack_f32`)
    bias    f32[P PANEL]
    out     f32[R', >= (out_panel + last - first) PANEL]
    queue   int                      address of the QUEUE that tiles work off, or 0; weights of
                                     its pieces are of the type of w

    Updates: out, the queue and what its pieces point to.
    """
    n_in = w.shape[1]
    x_ld, ld = x.shape[1], out.shape[1]
    size, line = n_in * PANEL, CACHE_LINE // w.itemsize
    part = min(PART // (PANEL * w.itemsize), n_in)
    x_at, out_at = x_row * x_ld, (out_panel - first) * PANEL
    if n_row < ROWS_SMALL:  # one to three rows: each reads the weights in wide strides
        for row in range(n_row):
            p = first
            # A cell takes parts of the matrix, in every second frame of a block backwards
            # (`recur`): what comes next is known only in calls that reach the matrix's end.
            prefetch = ONE_ROW_PREFETCH and last == w.shape[0]
            while prefetch and p + 2 * PANELS_ONE_ROW <= last:
                tile_f32(1, PANELS_ONE_ROW, ONE_ROW_PREFETCH, 0, n_in, x, x_at, x_ld, row, w, p,
                         size, (p + PANELS_ONE_ROW) * size, line, bias, out, out_at, ld,
                         ())  # fmt: skip
                p += PANELS_ONE_ROW
            while p + PANELS_ONE_ROW <= last:
                tile_f32(1, PANELS_ONE_ROW, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, 0, bias,
                         out, out_at, ld, ())  # fmt: skip
                p += PANELS_ONE_ROW
            while p < last:
                tile_f32(1, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, 0, bias, out, out_at,
                         ld, ())  # fmt: skip
                p += 1
        return
    # A few panels, or a part of one, stay in a near cache while all rows meet them; meanwhile the
    # next ones are prefetched. A prefetch beyond the last does no harm.
    p = first
    while p + PANELS <= last:
        k = 0
        while k < n_in:
            k_end = min(k + part, n_in)
            at = (p + PANELS - 1) * size + k_end * PANEL  # the next panel, or the next part of one
            multiply_panels(x, x_at, x_ld, 0, n_row, k, k_end, w, p, size, at, part * PANEL, bias,
                            out, out_at, ld, queue, w)  # fmt: skip
            k = k_end
        p += PANELS
    while p < last:
        row = 0
        while row + ROWS <= n_row:
            tile_f32(ROWS, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, 0, bias, out, out_at,
                     ld, ())  # fmt: skip
            row += ROWS
        while row < n_row:
            tile_f32(1, 1, 0, 0, n_in, x, x_at, x_ld, row, w, p, size, 0, 0, bias, out, out_at, ld,
                     ())  # fmt: skip
            row += 1
        p += 1


@inlined
def product_widened(x, x_row, n_row, w, bias, first, last, out, out_panel, queue, kept):
    """Compute what `product_f32` does, for halves, whole groups of PANELS and ROWS rows or more.

    The first tile of rows stores what it widens for the others.

    kept  int  address of scratch, f32[PANELS, K + APART, PANEL]

    Updates: kept, out, the queue and what its pieces point to.
    """
    n_in, x_ld, ld = w.shape[1], x.shape[1], out.shape[1]
    size, stride = n_in * PANEL, (n_in + APART) * PANEL
    x_at, out_at = x_row * x_ld, (out_panel - first) * PANEL
    step = CACHE_LINE // w.itemsize if SHARE else PANELS * PANEL
    for p in range(first, last, PANELS):
        ahead = (p + PANELS) * size
        tile_f32(ROWS, PANELS, PREFETCH, 0, n_in, x, x_at, x_ld, 0, w, p, size, ahead, step, bias,
                 out, out_at, ld, (kept, stride))  # fmt: skip
        floats = array_at(kept - p * stride * 4, 1, np.float32)  # as if from panel 0 on
        ahead = 0
        if SHARE:
            ahead = (w.ctypes.data - floats.ctypes.data) // 4 + (p + PANELS) * size // 2
        multiply_panels(x, x_at, x_ld, ROWS, n_row, 0, n_in, floats, p, stride, ahead, 0, bias, out,
                        out_at, ld, queue, w)  # fmt: skip


@inlined
def multiply_panels(
    x, x_at, x_ld, row, n_row, first, last, w, p, size, ahead, share, bias, out, out_at, ld, queue,
    others,
):  # fmt: skip
    """Compute PANELS panels of rows row .. n_row - 1, sums over inputs first .. last - 1.

    Arguments as of `tile_f32`; w has its panel p at p * size.

    ahead   int            where the weights are that come next, or 0
    share   int            with AVX2, how many elements of them
    others  f32 or u16[?]  any array of the type of these, and of the weights of the queue's pieces

    Updates: out, the queue and what its pieces point to.
    """
    due = record(queue, QUEUE)
    # Prefetches of what comes next. Where it comes fast, the first tile of rows makes them in its
    # loop, which is 8 to 12 % faster than before it; then memory is idle, and the others work off
    # the queue.
    step = PANELS * PANEL * others.itemsize // w.itemsize
    if SHARE:
        step = -(-step // max(n_row // ROWS, 1))
    while row + ROWS <= n_row:
        at, here = first, ahead
        if not PREFETCH:
            # With AVX2 each tile prefetches its share before it starts: its loop has few
            # instructions to spare.
            prefetch_lines(w, ahead, share, row // ROWS, n_row // ROWS)
        if SHARE:
            here += row // ROWS * (last - first) * step
        elif PREFETCH and row == 0:
            tile_f32(ROWS, PANELS, PREFETCH, at, last, x, x_at, x_ld, row, w, p, size, here, step,
                     bias, out, out_at, ld, ())  # fmt: skip
            at = last
        if AHEAD_BYTES:
            has_queue = queue != 0
            while has_queue and due.next < due.end and at < last:
                # A piece has its own steps: it may end within a tile, or go on in the next.
                piece = array_at(due.pieces, due.end, PIECE)[due.next]
                end = min(at + piece.steps - due.step, last)
                done = due.step - at
                if piece.weight != 0:
                    if PREFETCH:
                        taken = min(AHEAD_BYTES, AHEAD_PANELS * PANEL * others.itemsize)
                        start = piece.bias if due.step == 0 else piece.out
                        tile_f32(ROWS, PANELS, SHARE, at, end, x, x_at, x_ld, row, w, p, size,
                                 here, step, bias, out, out_at, ld,
                                 (others, piece.input + done * 4,
                                  piece.weight + done * PANEL * others.itemsize,
                                  piece.steps * PANEL, start, piece.out,
                                  piece.prefetch + done * taken))  # fmt: skip
                elif end > at:
                    tile_f32(ROWS, PANELS, SHARE, at, end, x, x_at, x_ld, row, w, p, size, here,
                             step, bias, out, out_at, ld,
                             (piece.prefetch + done * AHEAD_BYTES,))  # fmt: skip
                due.step += end - at
                at = end
                if due.step == piece.steps:
                    due.step = 0
                    due.next += 1
                    if piece.weight != 0:
                        record(piece.argument, LAYER).done = piece.count
                    if piece.then != 0:
                        call(piece.then, (piece.argument, piece.count))
        if at < last and SHARE and ahead != 0:
            tile_f32(ROWS, PANELS, SHARE, at, last, x, x_at, x_ld, row, w, p, size, here, step,
                     bias, out, out_at, ld, ())  # fmt: skip
        elif at < last:
            tile_f32(ROWS, PANELS, 0, at, last, x, x_at, x_ld, row, w, p, size, 0, 0, bias, out,
                     out_at, ld, ())  # fmt: skip
        row += ROWS
    while row + ROWS_SMALL <= n_row:
        tile_f32(ROWS_SMALL, PANELS, 0, first, last, x, x_at, x_ld, row, w, p, size, 0, 0, bias,
                 out, out_at, ld, ())  # fmt: skip
        row += ROWS_SMALL
    while row < n_row:
        tile_f32(1, PANELS, 0, first, last, x, x_at, x_ld, row, w, p, size, 0, 0, bias, out,
                 out_at, ld, ())  # fmt: skip
        row += 1
