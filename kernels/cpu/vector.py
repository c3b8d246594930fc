"""Vectors of 16 float32 for kernels that Numba compiles: values in registers, whatever the CPU.

LLVM makes one AVX-512 register of each, two of AVX2, four of NEON. Nothing here is reassociated: a
kernel adds in exactly the order in which it is written, on every machine and for every batch.

Arrays are C-contiguous and addressed by flat element offsets, without bounds checks. bfloat16,
which numpy does not have, is stored as uint16; float16, which Numba does not have, as int16.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model

from tokenreel.kernels.cpu.compiler import PART, part

LANES = 16
HAS_AVX512 = bool(binding.get_host_cpu_features().get("avx512f"))
"""Then there are 32 registers, each of a whole vector; else 16, and a vector takes two or more."""

_F32 = ir.FloatType()
_F16 = ir.HalfType()
_I8 = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_INTEGERS = ir.VectorType(_I32, LANES)
_SHORTS = ir.VectorType(_I16, LANES)


class VectorType(types.Type):
    """Numba's type of 16 float32."""

    def __init__(self) -> None:
        super().__init__(name="f32x16")


f32x16 = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _VECTOR)


def call_llvm(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Calls LLVM's intrinsic `name`, whose types follow from `result` and the arguments."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def splat(builder: Any, scalar: Any, vector: Any = _VECTOR) -> Any:
    """The LLVM value `scalar` in every lane of a `vector`."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    lanes = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, lanes)


def element_pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Points at element `offset` of an array, counted through all of its dimensions."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _check(array: Any) -> Any:
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"a C-contiguous array is needed, not {array}")
    return array.dtype


@intrinsic
def load(typing, array, offset):
    """array, offset -> 16 consecutive elements as float32."""
    dtype = _check(array)

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, array, *arguments)
        return widen(builder, dtype, pointer)

    return f32x16(array, types.intp), generate


def widen(builder: Any, dtype: Any, pointer: Any) -> Any:
    """16 elements of Numba type `dtype` from LLVM's `pointer`, as float32."""

    def read(vector: Any, align: int) -> Any:
        value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
        value.align = align
        return value

    if dtype == types.float32:
        return read(_VECTOR, 4)
    if dtype == types.uint16:
        high = builder.zext(read(_SHORTS, 2), _INTEGERS)
        return builder.bitcast(builder.shl(high, splat(builder, _I32(16), _INTEGERS)), _VECTOR)
    if dtype == types.int16:
        return builder.fpext(read(ir.VectorType(_F16, LANES), 2), _VECTOR)
    if dtype == types.int8:
        wide = builder.sext(read(ir.VectorType(_I8, LANES), 1), _INTEGERS)
        return builder.sitofp(wide, _VECTOR)
    raise TypingError(f"no vectors of {dtype}")


@intrinsic
def store(typing, array, offset, vector):
    """Writes 16 elements at `offset`, rounded to the array's type, ties to even; to uint8 also
    limited to what it holds."""
    dtype = _check(array)

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, array, *arguments[:2])
        narrowed = _narrow(builder, dtype, arguments[2])
        target = builder.bitcast(pointer, narrowed.type.as_pointer())
        builder.store(narrowed, target).align = dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), generate


@intrinsic
def store_apart(typing, array, offset, stride, vector):
    """Writes lane i at `offset + i * stride`, rounded as by `store`."""
    dtype = _check(array)

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, array, *arguments[:2])
        narrowed = _narrow(builder, dtype, arguments[3])
        for lane in range(LANES):
            element = builder.extract_element(narrowed, ir.Constant(_I32, lane))
            target = builder.bitcast(pointer, element.type.as_pointer())
            builder.store(element, target).align = 4 if dtype == types.float32 else 2
            pointer = builder.gep(pointer, [arguments[2]])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, f32x16), generate


def _narrow(builder: Any, dtype: Any, vector: Any) -> Any:
    if dtype == types.float32:
        return vector
    if dtype == types.int16:
        return builder.fptrunc(vector, ir.VectorType(_F16, LANES))
    if dtype == types.uint16:
        # To the nearest, ties to even; a NaN whose payload would overflow becomes the quiet one.
        bits = builder.bitcast(vector, _INTEGERS)
        sixteen = splat(builder, _I32(16), _INTEGERS)
        odd = builder.and_(builder.lshr(bits, sixteen), splat(builder, _I32(1), _INTEGERS))
        half = builder.add(odd, splat(builder, _I32(0x7FFF), _INTEGERS))
        rounded = builder.trunc(builder.lshr(builder.add(bits, half), sixteen), _SHORTS)
        is_nan = builder.fcmp_unordered("uno", vector, vector)
        return builder.select(is_nan, splat(builder, _I16(0x7FC0), _SHORTS), rounded)
    if dtype == types.uint8:
        # Written so that a NaN becomes the least; it may not reach the conversion.
        least, most = splat(builder, _F32(0.0)), splat(builder, _F32(255.0))
        above = builder.select(builder.fcmp_ordered(">", vector, least), vector, least)
        within = builder.select(builder.fcmp_ordered("<", above, most), above, most)
        whole = call_llvm(builder, "llvm.roundeven.v16f32", _VECTOR, [within])
        return builder.trunc(builder.fptosi(whole, _INTEGERS), ir.VectorType(_I8, LANES))
    raise TypingError(f"no vectors of {dtype}")


@intrinsic
def broadcast(typing, scalar):
    """The float32 `scalar` in all lanes."""

    def generate(context, builder, signature, arguments):
        return splat(builder, arguments[0])

    return f32x16(types.float32), generate


@intrinsic
def fma(typing, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return call_llvm(builder, "llvm.fma.v16f32", _VECTOR, list(arguments))

    return f32x16(f32x16, f32x16, f32x16), generate


@intrinsic
def maximum(typing, a, b):
    """Lane by lane the larger; b where either is NaN."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return f32x16(f32x16, f32x16), generate


@intrinsic
def first_lanes(typing, vector, count, other):
    """The first `count` lanes of `vector`, the rest of `other`; any count will do."""

    def generate(context, builder, signature, arguments):
        vector, count, other = arguments
        wide = ir.VectorType(count.type, LANES)
        lanes = ir.Constant(wide, list(range(LANES)))
        below = builder.icmp_signed("<", lanes, splat(builder, count, wide))
        return builder.select(below, vector, other)

    return f32x16(f32x16, types.intp, f32x16), generate


@intrinsic
def sum_lanes(typing, vector):
    """The sum of all lanes: halves are added to halves, four times."""

    def generate(context, builder, signature, arguments):
        return _fold(builder, arguments[0], builder.fadd)

    return types.float32(f32x16), generate


@intrinsic
def largest_lane(typing, vector):
    """The largest lane; not to be asked of NaN."""

    def generate(context, builder, signature, arguments):
        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _fold(builder, arguments[0], larger)

    return types.float32(f32x16), generate


@intrinsic
def largest_or_nan(typing, a, b):
    """The largest of all lanes of both; NaN if any lane is."""

    def generate(context, builder, signature, arguments):
        larger = call_llvm(builder, "llvm.maximum.v16f32", _VECTOR, list(arguments))
        return call_llvm(builder, "llvm.vector.reduce.fmaximum.v16f32", _F32, [larger])

    return types.float32(f32x16, f32x16), generate


def _fold(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    width = LANES
    while width > 1:
        width //= 2
        lanes = ir.VectorType(_I32, width)
        low = builder.shuffle_vector(vector, vector, ir.Constant(lanes, list(range(width))))
        high = builder.shuffle_vector(
            vector, vector, ir.Constant(lanes, list(range(width, 2 * width)))
        )
        vector = combine(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _define_operator(operation: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def lanewise(typing, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments)

        return f32x16(f32x16, f32x16), generate

    @overload(operation, jit_options=PART)
    def overloaded(a, b):
        if a == f32x16 and b == f32x16:
            return lambda a, b: lanewise(a, b)
        return None


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


@intrinsic
def _scale_by_power_of_two(typing, vector, exponents):
    """vector * 2 ** exponents, for whole exponents that keep the result a normal number."""

    def generate(context, builder, signature, arguments):
        vector, exponents = arguments
        whole = builder.fptosi(exponents, _INTEGERS)
        shift = builder.shl(whole, splat(builder, _I32(23), _INTEGERS))
        return builder.bitcast(builder.add(builder.bitcast(vector, _INTEGERS), shift), _VECTOR)

    return f32x16(f32x16, f32x16), generate


@intrinsic
def nearest_whole(typing, vector):
    """Lane by lane, ties to even."""

    def generate(context, builder, signature, arguments):
        return call_llvm(builder, "llvm.roundeven.v16f32", _VECTOR, list(arguments))

    return f32x16(f32x16), generate


@part
def exp(x):
    """e ** x for x <= 88, lane by lane, to about 1e-7; of less than -87 it is exactly 0.

    Cody and Waite's reduction to |r| <= ln 2 / 2, then the Taylor series to the seventh power.
    """
    lowest = broadcast(-87.0)
    clamped = maximum(lowest, x)  # What is not a number stays so.
    whole = nearest_whole(clamped * broadcast(1.4426950408889634))
    rest = fma(whole, broadcast(-0.693145751953125), clamped)
    rest = fma(whole, broadcast(-1.428606765330187e-06), rest)
    power = broadcast(1.0 / 5040.0)
    power = fma(power, rest, broadcast(1.0 / 720.0))
    power = fma(power, rest, broadcast(1.0 / 120.0))
    power = fma(power, rest, broadcast(1.0 / 24.0))
    power = fma(power, rest, broadcast(1.0 / 6.0))
    power = fma(power, rest, broadcast(0.5))
    power = fma(power, rest, broadcast(1.0))
    power = fma(power, rest, broadcast(1.0))
    return where_at_least(x, lowest, _scale_by_power_of_two(power, whole), clamped - clamped)


@intrinsic
def where_at_least(typing, x, limit, value, other):
    """`value` in the lanes where x >= limit, `other` where it is less or not a number."""

    def generate(context, builder, signature, arguments):
        x, limit, value, other = arguments
        return builder.select(builder.fcmp_ordered(">=", x, limit), value, other)

    return f32x16(f32x16, f32x16, f32x16, f32x16), generate


@intrinsic
def zero_below(typing, x, limit, value):
    """`value`, or 0 in the lanes where x < limit."""

    def generate(context, builder, signature, arguments):
        x, limit, value = arguments
        zeros = splat(builder, _F32(0.0))
        return builder.select(builder.fcmp_ordered("<", x, limit), zeros, value)

    return f32x16(f32x16, f32x16, f32x16), generate
