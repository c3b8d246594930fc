"""float32 that lie among other things in an array of bytes, at multiples of four."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import element_pointer, f32x16, widen

_F32 = ir.FloatType()


def _pointer(context, builder, array_type, array, place):
    pointer = element_pointer(context, builder, array_type, array, place)
    return builder.bitcast(pointer, _F32.as_pointer())


@intrinsic
def read_float(typing, array, place):
    def generate(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, array, *arguments))
        value.align = 4
        return value

    return types.float32(array, types.intp), generate


@intrinsic
def read_floats(typing, array, place):
    """16 of them."""

    def generate(context, builder, signature, arguments):
        return widen(builder, types.float32, _pointer(context, builder, array, *arguments))

    return f32x16(array, types.intp), generate


@intrinsic
def write_float(typing, array, place, value):
    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, array, *arguments[:2])
        builder.store(arguments[2], pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate
