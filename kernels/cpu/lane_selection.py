"""Which lanes of a vector reach a limit: they are counted, or taken out and put side by side."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import LANES, call_llvm, element_pointer, f32x16, splat

_F32, _I1, _I16, _I32 = ir.FloatType(), ir.IntType(1), ir.IntType(16), ir.IntType(32)
_INTEGERS = ir.VectorType(_I32, LANES)
_MASK = ir.VectorType(_I1, LANES)
_NUMBERS = ir.Constant(_INTEGERS, list(range(LANES)))


def _below(builder: Any, count: Any) -> Any:
    """A mask of the first `count` lanes."""
    wide = ir.VectorType(count.type, LANES)
    return builder.icmp_signed(
        "<", ir.Constant(wide, list(range(LANES))), splat(builder, count, wide)
    )


def _count(builder: Any, mask: Any, to: Any) -> Any:
    bits = builder.bitcast(mask, _I16)
    return builder.zext(call_llvm(builder, "llvm.ctpop.i16", _I16, [bits]), to)


@intrinsic
def load_first(typing, array, offset, count, other):
    """The `count` elements at `offset` of a float32 array, and `other` in the lanes behind them.
    Nothing is read beyond them."""

    def generate(context, builder, signature, arguments):
        array_value, offset, count, other = arguments
        pointer = element_pointer(context, builder, array, array_value, offset)
        vector = ir.VectorType(_F32, LANES)
        address = builder.bitcast(pointer, vector.as_pointer())
        operands = [address, _I32(4), _below(builder, count), splat(builder, other)]
        return call_llvm(builder, "llvm.masked.load.v16f32.p0", vector, operands)

    return f32x16(array, types.intp, types.intp, types.float32), generate


@intrinsic
def count_at_least(typing, vector, limit):
    """How many lanes are no less than `limit`, a float32; a NaN is less."""

    def generate(context, builder, signature, arguments):
        vector, limit = arguments
        reached = builder.fcmp_ordered(">=", vector, splat(builder, limit))
        return _count(builder, reached, context.get_value_type(types.intp))

    return types.intp(f32x16, types.float32), generate


@intrinsic
def first_at_least(typing, vector, limit):
    """The number of the first lane that is no less than `limit`; LANES if none is."""

    def generate(context, builder, signature, arguments):
        vector, limit = arguments
        reached = builder.bitcast(builder.fcmp_ordered(">=", vector, splat(builder, limit)), _I16)
        zeros = call_llvm(builder, "llvm.cttz.i16", _I16, [reached, _I1(0)])
        return builder.zext(zeros, context.get_value_type(types.intp))

    return types.intp(f32x16, types.float32), generate


@intrinsic
def mark_nan(typing, marks, a, b):
    """`marks`, and NaN in the lanes where a or b is NaN."""

    def generate(context, builder, signature, arguments):
        marks, a, b = arguments
        nan = ir.Constant(marks.type, [float("nan")] * LANES)
        return builder.select(builder.fcmp_unordered("uno", a, b), nan, marks)

    return f32x16(f32x16, f32x16, f32x16), generate


@intrinsic
def collect(typing, vector, limit, first_id, values, ids, count):
    """Appends the lanes that are no less than `limit` to the `count` elements of the float32 array
    `values`, and their numbers, counted from `first_id`, to the int32 array `ids`. Returns the new
    count. Nothing is written beyond."""

    def generate(context, builder, signature, arguments):
        vector, limit, first_id, values_value, ids_value, count = arguments
        mask = builder.fcmp_ordered(">=", vector, splat(builder, limit))
        first = splat(builder, builder.trunc(first_id, _I32), _INTEGERS)
        for array_type, array, lanes in (
            (values, values_value, vector),
            (ids, ids_value, builder.add(first, _NUMBERS)),
        ):
            pointer = element_pointer(context, builder, array_type, array, count)
            name = "f32" if array_type is values else "i32"
            call_llvm(
                builder,
                f"llvm.masked.compressstore.v16{name}",
                ir.VoidType(),
                [lanes, pointer, mask],
            )
        return builder.add(count, _count(builder, mask, count.type))

    return types.intp(f32x16, types.float32, types.intp, values, ids, types.intp), generate


@intrinsic
def collect_between(typing, vector, low, high, values, count):
    """As `collect`, of lanes with low <= lane < high, without numbers."""

    def generate(context, builder, signature, arguments):
        vector, low, high, values_value, count = arguments
        mask = builder.and_(
            builder.fcmp_ordered(">=", vector, splat(builder, low)),
            builder.fcmp_ordered("<", vector, splat(builder, high)),
        )
        pointer = element_pointer(context, builder, values, values_value, count)
        operands = [vector, pointer, mask]
        call_llvm(builder, "llvm.masked.compressstore.v16f32", ir.VoidType(), operands)
        return builder.add(count, _count(builder, mask, count.type))

    return types.intp(f32x16, types.float32, types.float32, values, types.intp), generate


@intrinsic
def ordinal(typing, number):
    """An integer that is larger the larger the float32 is, and next to its neighbours'."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _I32)
        return builder.sext(_flip_negative(builder, bits), ir.IntType(64))

    return types.int64(types.float32), generate


@intrinsic
def from_ordinal(typing, integer):
    """The float32 whose `ordinal` it is."""

    def generate(context, builder, signature, arguments):
        bits = _flip_negative(builder, builder.trunc(arguments[0], _I32))
        return builder.bitcast(bits, _F32)

    return types.float32(types.int64), generate


def _flip_negative(builder: Any, bits: Any) -> Any:
    """Sign and magnitude to two's complement, and back."""
    sign = builder.ashr(bits, _I32(31))
    return builder.xor(bits, builder.and_(sign, _I32(0x7FFFFFFF)))
