"""Which lanes of a vector reach a limit: they are counted, or taken out and put side by side."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import (
    HAS_AVX512,
    LANES,
    call_llvm,
    element_pointer,
    f32x16,
    splat,
)

HAS_COMPRESS = HAS_AVX512
_F32 = ir.FloatType()
_I1, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
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
    count. One element behind the last may be written."""

    def generate(context, builder, signature, arguments):
        vector, limit, first_id, values_value, ids_value, count = arguments
        mask = builder.fcmp_ordered(">=", vector, splat(builder, limit))
        first = splat(builder, builder.trunc(first_id, _I32), _INTEGERS)
        places = (
            element_pointer(context, builder, values, values_value, count),
            element_pointer(context, builder, ids, ids_value, count),
        )
        lanes = vector, builder.add(first, _NUMBERS)
        return builder.add(count, _append(builder, mask, dict(zip(places, lanes, strict=True))))

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
        place = element_pointer(context, builder, values, values_value, count)
        return builder.add(count, _append(builder, mask, {place: vector}))

    return types.intp(f32x16, types.float32, types.float32, values, types.intp), generate


def _append(builder: Any, mask: Any, vectors: dict[Any, Any]) -> Any:
    """Writes the lanes of each vector that `mask` has to a pointer; returns their number."""
    if HAS_COMPRESS:
        for pointer, vector in vectors.items():
            name = "f32" if vector.type.element == _F32 else "i32"
            name = f"llvm.masked.compressstore.v16{name}"
            call_llvm(builder, name, ir.VoidType(), [vector, pointer, mask])
        return _count(builder, mask, _I64)
    # A lane that is not wanted is written, too, and then written over: quicker than branches.
    bits, count = builder.zext(builder.bitcast(mask, _I16), _I64), _I64(0)
    for lane in range(LANES):
        for pointer, vector in vectors.items():
            element = builder.extract_element(vector, _I32(lane))
            builder.store(element, builder.gep(pointer, [count]))
        bit = builder.and_(builder.lshr(bits, _I64(lane)), _I64(1))
        count = builder.add(count, bit)
    return count


@intrinsic
def ordinal(typing, number):
    """An integer that is larger the larger the float32 is, and next to its neighbours'."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _I32)
        return builder.sext(_flip_negative(builder, bits), _I64)

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
