"""Arrays, records and kernels at addresses: how kernels read `tables`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def record(typingctx, address, dtype):
    """Return the record of this type at `address`."""
    kind = dtype.dtype

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, dtype), codegen


@intrinsic
def address_of(typingctx, record):
    """Return the address of a record."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(args[0], context.get_value_type(types.int64))

    return types.int64(record), codegen


def _whole(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """Return a whole number, or those of a tuple, as int64."""
    if isinstance(kind, types.Integer):
        return [context.cast(builder, value, kind, types.int64)]
    return [
        context.cast(builder, builder.extract_value(value, i), each, types.int64)
        for i, each in enumerate(kind.types)
    ]


@intrinsic
def call(typingctx, address, numbers):
    """Call the kernel at `address` (`npfsn.machine_code`) with a tuple of whole numbers."""

    def codegen(context, builder, sig, args):
        # As Numba calls functions: two pointers first, to where a result and an error would go.
        nowhere = [cgutils.alloca_once(builder, cgutils.voidptr_t) for _ in range(2)]
        arguments = [*nowhere, *_whole(context, builder, sig.args[1], args[1])]
        signature = ir.FunctionType(ir.IntType(32), [value.type for value in arguments])
        builder.call(builder.inttoptr(args[0], signature.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(types.int64, numbers), codegen


def _array(context: Any, builder: Any, kind: types.Array, address: Any, shape: list[Any]) -> Any:
    """Return the array of this type at an address."""
    size = context.get_constant(
        types.int64, context.get_abi_sizeof(context.get_data_type(kind.dtype))
    )
    strides = [size]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    found = context.make_array(kind)(context, builder)
    context.populate_array(
        found,
        data=builder.inttoptr(address, found.data.type),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=None,
    )
    return found._getvalue()


@intrinsic
def array_at(typingctx, address, shape, dtype):
    """Return the array of this shape, a number or a tuple, and type at `address`.

    Numba's `carray` does the same, but for each shape and type it is a function to compile.
    """
    dimensions = 1 if isinstance(shape, types.Integer) else len(shape)
    kind = types.Array(dtype.dtype, dimensions, "C")

    def codegen(context, builder, sig, args):
        lengths = _whole(context, builder, sig.args[1], args[1])
        return _array(context, builder, kind, args[0], lengths)

    return kind(types.int64, shape, dtype), codegen


def _reader(element: types.Type, dimensions: int) -> Any:
    """Return a function for kernels that returns the array described by an `ARRAY`."""
    kind = types.Array(element, dimensions, "C")

    @intrinsic
    def read(typingctx, array):
        def codegen(context, builder, sig, args):
            numbers = builder.bitcast(args[0], ir.IntType(64).as_pointer())
            address, *shape = (
                builder.load(builder.gep(numbers, [context.get_constant(types.int64, i)]))
                for i in range(1 + dimensions)
            )
            return _array(context, builder, kind, address, shape)

        return kind(array), codegen

    return read


f32_1d, f32_2d, f32_3d = (_reader(types.float32, n) for n in (1, 2, 3))
f64_1d, f64_2d, f64_3d = (_reader(types.float64, n) for n in (1, 2, 3))
i32_1d = _reader(types.int32, 1)
i64_1d = _reader(types.int64, 1)
u8_2d = _reader(types.uint8, 2)
u16_3d = _reader(types.uint16, 3)
