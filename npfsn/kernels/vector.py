"""LLVM vector code for the kernels: shorthands that emit it.

Numba compiles loops. Code that must be vectorised, whatever the optimiser decides, is emitted here
as vectors of `PANEL` floats, which LLVM splits into the registers that the machine has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .cpu import (
    DEPTH,
    FEATURES,
    HAS_AVX_VNNI,
    HAS_DOT,
    HAS_FMA,
    HAS_VNNI,
    PANEL,
    SMALLEST,
)

# tanh x = x P(x^2) / Q(x^2) for |x| <= LIMIT, from tools/fit_tanh.py.
# Largest error of tanh 4e-7, of the sigmoid 1/2 + tanh(x/2) / 2 2e-7.
TANH_LIMIT = 8.5
TANH_P = (
    1.0,
    0.13413238525390625,
    0.003534015268087387,
    2.1250762074487284e-05,
    1.4268655590399248e-08,
)
TANH_Q = (
    1.0,
    0.4674656093120575,
    0.026022713631391525,
    0.00033488418557681143,
    8.144928074216295e-07,
)

# The sigmoid of x is (1 + tanh(x / 2)) / 2 = (Q + x P / 2) / (2 Q), P and Q of x^2 / 4.
SIGMOID_P = tuple(value / 2.0 / 4.0**k for k, value in enumerate(TANH_P))
SIGMOID_Q = tuple(value / 4.0**k for k, value in enumerate(TANH_Q))

i8 = ir.IntType(8)
i32 = ir.IntType(32)
i64 = ir.IntType(64)
f16 = ir.HalfType()
f32 = ir.FloatType()
f32_panel = ir.VectorType(f32, PANEL)
i32_panel = ir.VectorType(i32, PANEL)
#: A panel of i32 seen as the bytes in it, and as 16-bit sums of two products of bytes.
byte_panel = ir.VectorType(i8, PANEL * DEPTH)
word_panel = ir.VectorType(ir.IntType(16), PANEL * DEPTH // 2)


def const(value: int) -> ir.Constant:
    """Return a 64-bit index."""
    return ir.Constant(i64, value)


def panel_of(value: float) -> ir.Constant:
    """Return a vector with the same float in all lanes."""
    return ir.Constant(f32_panel, [ir.Constant(f32, float(np.float32(value)))] * PANEL)


class Emit:
    """Shorthands for LLVM vector code inside an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> None:
        self.context, self.builder, self.sig, self.args = context, builder, sig, args

    def pointer(self, index: int, element: ir.Type) -> ir.Value:
        """Return the data pointer of array argument `index`, as pointer to `element`."""
        array = self.context.make_array(self.sig.args[index])(
            self.context, self.builder, self.args[index]
        )
        return self.builder.bitcast(array.data, element.as_pointer())

    def load(self, base: ir.Value, offset: ir.Value, vector: ir.Type) -> ir.Value:
        """Load a `vector` from `offset` elements after `base`; any alignment."""
        pointer = self.builder.gep(base, [offset])
        return self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()), align=1)

    def load_floats(self, base: ir.Value, offset: ir.Value, vector: ir.VectorType) -> ir.Value:
        """Load a `vector` of floats, or of halves, which become floats."""
        found = self.load(base, offset, ir.VectorType(base.type.pointee, vector.count))
        return found if found.type == vector else self.builder.fpext(found, vector)

    def store(self, value: ir.Value, base: ir.Value, offset: ir.Value) -> None:
        """Store a vector `offset` elements after `base`; any alignment."""
        pointer = self.builder.gep(base, [offset])
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=1)

    def splat(self, scalar: ir.Value, lanes: int) -> ir.Value:
        """Broadcast a scalar to all lanes."""
        undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(i32, 0))
        zeros = ir.Constant(ir.VectorType(i32, lanes), [ir.Constant(i32, 0)] * lanes)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic."""
        signature = ir.FunctionType(result, [arg.type for arg in args])
        return self.builder.call(self.builder.module.declare_intrinsic(name, (), signature), args)

    def prefetch(self, pointer: ir.Value) -> None:
        """Prefetch the cache line at `pointer` to the second level; any address is allowed."""
        arguments = [ir.Constant(i32, value) for value in (0, 2, 1)]  # read, some reuse, data
        pointer = self.builder.bitcast(pointer, i8.as_pointer())
        self.call("llvm.prefetch.p0", ir.VoidType(), pointer, *arguments)

    def apart(self, pointer: ir.Value) -> ir.Value:
        """Keep `pointer` in a register of its own, so that no loop computes it from others."""
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.asm(kind, "", "=r,0", [pointer], False)

    def begin_loop(self, first: ir.Value) -> tuple[Any, Any]:
        """Begin a loop of one step or more.

        Return its counter, which starts at `first`, and the block before the loop. Values that go
        from step to step must follow at once; those of the next step come from `counter.parent`.
        """
        before = self.builder.block
        loop = self.builder.append_basic_block("loop")
        self.builder.branch(loop)
        self.builder.position_at_end(loop)
        counter = self.builder.phi(i64)
        counter.add_incoming(first, before)
        return counter, before

    def end_loop(self, counter: Any, step: ir.Value, stop: ir.Value, unroll: int = 0) -> None:
        """End a loop: add `step` to its counter, and go on while that is below `stop`.

        With `unroll`, an iteration has as many steps. Left alone, LLVM would unroll loops with
        accumulators further, and these would spill.
        """
        following = self.builder.add(counter, step)
        more = self.builder.icmp_signed("<", following, stop)
        done = self.builder.append_basic_block("done")
        branch = self.builder.cbranch(more, counter.parent, done)
        if unroll:
            module = self.builder.module
            name = ir.MetaDataString(module, "llvm.loop.unroll.count")
            wish = module.add_metadata([name, ir.Constant(i32, unroll)])
            loop = ir.values.MDValue(module, [wish], name=str(len(module.metadata)))
            loop.operands = (loop, wish)  # a loop is named by a node that holds itself
            branch.set_metadata("llvm.loop", loop)
        counter.add_incoming(following, branch.parent)
        self.builder.position_at_end(done)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a b + c, rounded once where the machine can."""
        if HAS_FMA:
            return self.call(f"llvm.fma.v{a.type.count}f32", a.type, a, b, c)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def dot(self, acc: ir.Value, inputs: list[ir.Value], weights: list[ir.Value]) -> ir.Value:
        """Add to each lane of `acc` the products of TOGETHER steps of inputs and weights.

        All of them i32[PANEL]; each lane of `inputs` and `weights` is DEPTH bytes.
        """
        if HAS_VNNI:
            return self.call("llvm.x86.avx512.vpdpbusd.512", i32_panel, acc, *inputs, *weights)
        if HAS_AVX_VNNI:
            name = "llvm.x86.avx512.vpdpbusd.256"
            return self.split(2, name, i32_panel, acc, *inputs, *weights)
        if HAS_DOT:
            values = (self.builder.bitcast(v, byte_panel) for v in (*inputs, *weights))
            return self.split(4, "llvm.aarch64.neon.sdot.v4i32.v16i8", i32_panel, acc, *values)
        words = self.words(*inputs, *weights)
        one = ir.Constant(word_panel, [ir.Constant(word_panel.element, 1)] * word_panel.count)
        if "avx512bw" in FEATURES:
            sums = self.call("llvm.x86.avx512.pmaddw.d.512", i32_panel, words, one)
        elif "avx2" in FEATURES:
            sums = self.split(2, "llvm.x86.avx2.pmadd.wd", i32_panel, words, one)
        elif "neon" in FEATURES:
            sums = self.split(4, "llvm.aarch64.neon.saddlp.v4i32.v8i16", i32_panel, words)
        else:
            halves = self.even_and_odd(words)
            sums = self.builder.add(*(self.builder.sext(v, i32_panel) for v in halves))
        return self.builder.add(acc, sums)

    def words(self, *steps: ir.Value) -> ir.Value:
        """Multiply two steps of inputs with weights; add up neighbours and both steps, in i16."""
        inputs, more_inputs, weights, more_weights = (
            self.builder.bitcast(v, byte_panel) for v in steps
        )
        both = (inputs, weights), (more_inputs, more_weights)
        if "avx512bw" in FEATURES:
            name = "llvm.x86.avx512.pmaddubs.w.512"
            return self.builder.add(*(self.call(name, word_panel, *step) for step in both))
        if "avx2" in FEATURES:
            name = "llvm.x86.avx2.pmadd.ub.sw"
            return self.builder.add(*(self.split(2, name, word_panel, *step) for step in both))
        wide = ir.VectorType(word_panel.element, byte_panel.count)
        products = (self.builder.mul(*(self.builder.sext(v, wide) for v in step)) for step in both)
        return self.builder.add(*self.even_and_odd(self.builder.add(*products)))

    def scaled(
        self,
        total: ir.Value,
        offset: ir.Value,
        inputs: ir.Value,
        weights: ir.Value,
        bias: ir.Value,
    ) -> ir.Value:
        """Return a panel of integer sums as floats: inputs weights (total - offset) + bias.

        `total` and `offset` are i32[PANEL], `inputs` the scale of a row of inputs, `weights` and
        `bias` f32[PANEL].
        """
        value = self.builder.sitofp(self.builder.sub(total, offset), f32_panel)
        return self.fma(self.builder.fmul(self.splat(inputs, PANEL), weights), value, bias)

    def split(self, count: int, name: str, result: ir.VectorType, *args: ir.Value) -> ir.Value:
        """Call an intrinsic on each of `count` equal parts of vectors, and join its results."""
        parts = [
            self.call(
                name,
                ir.VectorType(result.element, result.count // count),
                *(self.slice(v, i * v.type.count // count, v.type.count // count) for v in args),
            )
            for i in range(count)
        ]
        while len(parts) > 1:
            lanes = [ir.Constant(i32, lane) for lane in range(2 * parts[0].type.count)]
            both = ir.Constant(ir.VectorType(i32, len(lanes)), lanes)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.builder.shuffle_vector(*pair, both) for pair in pairs]
        return parts[0]

    def even_and_odd(self, vector: ir.Value) -> list[ir.Value]:
        """Return the lanes 0, 2, 4, ... and 1, 3, 5, ... of a vector."""
        return [self.slice(vector, first, vector.type.count // 2, 2) for first in range(2)]

    def slice(self, vector: ir.Value, first: int, count: int, step: int = 1) -> ir.Value:
        """Return `count` lanes from `first` on, every `step`-th."""
        lanes = [ir.Constant(i32, first + step * lane) for lane in range(count)]
        return self.builder.shuffle_vector(
            vector,
            ir.Constant(vector.type, ir.Undefined),
            ir.Constant(ir.VectorType(i32, count), lanes),
        )

    def polynomial(self, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
        """Return c[0] + c[1] x + c[2] x^2 + ... of a panel."""
        value: ir.Value = panel_of(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = self.fma(value, x, panel_of(coefficient))
        return value

    def clamp(self, x: ir.Value, limit: float) -> ir.Value:
        """Return the panel with values between -limit and limit."""
        x = self.call(f"llvm.minnum.v{PANEL}f32", f32_panel, x, panel_of(limit))
        return self.call(f"llvm.maxnum.v{PANEL}f32", f32_panel, x, panel_of(-limit))

    def tanh_parts(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return numerator and denominator of tanh of a panel."""
        x = self.clamp(x, TANH_LIMIT)
        square = self.builder.fmul(x, x)
        top, bottom = self.polynomial(square, TANH_P), self.polynomial(square, TANH_Q)
        return self.builder.fmul(x, top), bottom

    def sigmoid_parts(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return numerator and denominator of the sigmoid of a panel."""
        x = self.clamp(x, 2.0 * TANH_LIMIT)
        square = self.builder.fmul(x, x)
        top, bottom = self.polynomial(square, SIGMOID_P), self.polynomial(square, SIGMOID_Q)
        return self.fma(x, top, bottom), self.builder.fadd(bottom, bottom)

    def tanh(self, x: ir.Value) -> ir.Value:
        """Return tanh of a panel."""
        return self.builder.fdiv(*self.tanh_parts(x))

    def sigmoid(self, x: ir.Value) -> ir.Value:
        """Return 1 / (1 + exp(-x)) of a panel."""
        return self.builder.fdiv(*self.sigmoid_parts(x))

    def flush(self, x: ir.Value) -> ir.Value:
        """Return the panel with values smaller than `SMALLEST` in size set to zero."""
        size = self.call(f"llvm.fabs.v{PANEL}f32", f32_panel, x)
        keep = self.builder.fcmp_ordered(">=", size, panel_of(SMALLEST))
        return self.builder.select(keep, x, panel_of(0.0))
