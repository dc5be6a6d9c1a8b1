"""int8 products in tile registers: Intel's AMX, where the CPU has it and the system grants it.

A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of inputs, 16 rows of
up to 16 steps of DEPTH bytes, with a tile of weights, as many steps of one panel, and adds to a
tile of 16 x 16 sums. A packed panel (`npfsn.packing.pack_i8`) already is a
stack of such tiles, so nothing is repacked, and the sums are the same integers as on every other
machine.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..jit import inlined
from .cpu import DEPTH, MOST_STEPS, PANEL, TILE
from .vector import Emit, const, f32, f32_panel, i8, i32, i32_panel, i64

# Tile registers: sums of two tiles of rows by two panels, inputs, weights.
_SUMS, _INPUTS, _WEIGHTS = ((0, 1), (2, 3)), (4, 5), (6, 7)


@intrinsic
def _configure(typingctx, steps):
    """Configure the tile registers for this many steps of inputs at a time."""

    def codegen(context, builder, sig, args):
        emit, (steps,) = Emit(context, builder, sig, args), args

        # As Intel's manual has it: palette 1; at byte 16, bytes in a row of each register, 16 bits
        # each; at byte 48, rows of each, 8 bits each. Inputs are as wide and weights as high as the
        # steps they take; sums are full.
        inputs = builder.mul(steps, const(DEPTH * (1 + (1 << 16))))
        weights = builder.mul(steps, const((1 + (1 << 8)) << 48))
        words = [
            const(1),
            const(0),
            const(0x0040_0040_0040_0040),
            builder.or_(const(0x0040_0040_0000_0000), inputs),
            const(0),
            const(0),
            builder.or_(const(0x0000_1010_1010_1010), weights),
            const(0),
        ]
        table = cgutils.alloca_once(builder, ir.ArrayType(i64, len(words)))
        for i, word in enumerate(words):
            builder.store(word, cgutils.gep_inbounds(builder, table, 0, i))
        emit.call("llvm.x86.ldtilecfg", ir.VoidType(), builder.bitcast(table, i8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _release(typingctx):
    """Release the tile registers: the system no longer has to save them."""

    def codegen(context, builder, sig, args):
        Emit(context, builder, sig, args).call("llvm.x86.tilerelease", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic(prefer_literal=True)
def _sums(
    typingctx, tiles, panels, n_row, n_deep, steps, q, q_at, q_stride, x_scale, row, w, w_at,
    w_scale, shift, bias, bias_at, out, out_at, out_stride,
):  # fmt: skip
    """Sum 1 or 2 tiles of rows by 1 or 2 panels; scale the first n_row rows to float32.

    q has whole tiles of rows; those from n_row on may hold anything.
    """
    n = types.int64
    sig = types.void(
        tiles, panels, n, n, n, q, n, n, x_scale, n, w, n, w_scale, shift, bias, n, out, n, n
    )
    n_tile, n_panel = tiles.literal_value, panels.literal_value

    def codegen(context, builder, sig, args):
        emit = Emit(context, builder, sig, args)
        _, _, n_row, n_deep, steps, _, q_at, q_stride, _, row, _, w_at = args[:12]
        bias_at, (out_at, out_stride) = args[15], args[17:]
        q, w = emit.pointer(5, i8), emit.pointer(10, i8)
        x_scale, w_scale, bias, out = (emit.pointer(i, f32) for i in (8, 12, 14, 16))
        shift = emit.pointer(13, i32)

        def tile(name: str, register: int, *more: ir.Value) -> None:
            number = ir.Constant(i8, register)
            emit.call(f"llvm.x86.{name}", ir.VoidType(), number, *more)

        for t in range(n_tile):
            for p in range(n_panel):
                tile("tilezero", _SUMS[t][p])
        tile_size, panel_size = (
            builder.mul(q_stride, const(TILE)), builder.mul(n_deep, const(PANEL * DEPTH)),
        )  # fmt: skip
        q_tiles, w_tiles = (
            [builder.gep(base, [builder.add(at, builder.mul(size, const(i)))]) for i in range(n)]
            for base, at, size, n in (
                (q, q_at, tile_size, n_tile),
                (w, w_at, panel_size, n_panel),
            )  # fmt: skip
        )
        k, _ = emit.begin_loop(const(0))
        q_k, w_k = (builder.mul(k, const(size)) for size in (DEPTH, PANEL * DEPTH))
        for p in range(n_panel):
            tile("tileloadd64", _WEIGHTS[p], builder.gep(w_tiles[p], [w_k]), const(PANEL * DEPTH))
        for t in range(n_tile):
            tile("tileloadd64", _INPUTS[t], builder.gep(q_tiles[t], [q_k]), q_stride)
            for p in range(n_panel):
                inputs, weights = (ir.Constant(i8, r) for r in (_INPUTS[t], _WEIGHTS[p]))
                tile("tdpbusd", _SUMS[t][p], inputs, weights)
        emit.end_loop(k, steps, n_deep, unroll=1)
        # [panel, row, PANEL]
        sums = cgutils.alloca_once(builder, ir.ArrayType(i32, n_panel * n_tile * TILE * PANEL))
        sums.align = 64
        sums = builder.bitcast(sums, i32.as_pointer())
        for t in range(n_tile):
            for p in range(n_panel):
                at = builder.gep(sums, [const((p * n_tile + t) * TILE * PANEL)])
                at = builder.bitcast(at, i8.as_pointer())
                tile("tilestored64", _SUMS[t][p], at, const(PANEL * DEPTH))
        at = [builder.add(bias_at, const(PANEL * p)) for p in range(n_panel)]
        scales, starts = ([emit.load(v, p, f32_panel) for p in at] for v in (w_scale, bias))
        offsets = [emit.load(shift, p, i32_panel) for p in at]
        with cgutils.for_range(builder, n_row) as loop:
            r = loop.index
            x_s = builder.load(builder.gep(x_scale, [builder.add(row, r)]))
            to = builder.add(out_at, builder.mul(out_stride, r))
            for p in range(n_panel):
                place = builder.add(builder.mul(r, const(PANEL)), const(p * n_tile * TILE * PANEL))
                total = emit.load(sums, place, i32_panel)
                total = emit.scaled(total, offsets[p], x_s, scales[p], starts[p])
                emit.store(total, out, builder.add(to, const(PANEL * p)))
        return context.get_dummy_value()

    return sig, codegen


@inlined
def _steps(n_deep):
    """Return how many of n_deep steps a tile takes, the same for all tiles."""
    steps = MOST_STEPS
    while n_deep % steps:
        steps -= 1
    return steps


@inlined
def product_amx(n_row, w, w_scale, shift, q, x_scale, bias, first, last, out, out_panel):
    """Compute what `npfsn.kernels.int8.product_i8` does, in tile registers.

    It takes the same arguments; q has whole tiles of rows.
    """
    n_deep, x_ld, ld = w.shape[1], q.shape[1], out.shape[1]
    steps = _steps(n_deep)
    size, out_at = n_deep * PANEL * DEPTH, (out_panel - first) * PANEL
    _configure(steps)
    for p in range(first, last, 2):
        for row in range(0, n_row, 2 * TILE):
            n, to = min(n_row - row, 2 * TILE), out_at + row * ld + p * PANEL
            if p + 1 < last and n > TILE:
                _sums(2, 2, n, n_deep, steps, q, row * x_ld, x_ld, x_scale, row, w, p * size,
                      w_scale, shift, bias, p * PANEL, out, to, ld)  # fmt: skip
            elif p + 1 < last:
                _sums(1, 2, n, n_deep, steps, q, row * x_ld, x_ld, x_scale, row, w, p * size,
                      w_scale, shift, bias, p * PANEL, out, to, ld)  # fmt: skip
            elif n > TILE:
                _sums(2, 1, n, n_deep, steps, q, row * x_ld, x_ld, x_scale, row, w, p * size,
                      w_scale, shift, bias, p * PANEL, out, to, ld)  # fmt: skip
            else:
                _sums(1, 1, n, n_deep, steps, q, row * x_ld, x_ld, x_scale, row, w, p * size,
                      w_scale, shift, bias, p * PANEL, out, to, ld)  # fmt: skip
    _release()
