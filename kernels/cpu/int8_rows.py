"""Rows of activations in 8 bits, each with a scale of its own that is found when it is written.

A row is `row_bytes(depth)` of uint8: the elements as whole steps of scale, plus 128, then the scale
as a float32. The largest magnitude of a row is 127 steps. This is the "dynamic" quantization of
vLLM and of LLM.int8() (Dettmers et al., 2022), without its outliers.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from tokenreel.kernels.cpu.compiler import PART, part
from tokenreel.kernels.cpu.floats_in_bytes import write_float
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    call_llvm,
    f32x16,
    load,
    store,
)

STEP = 64
"""The depth is padded to a multiple."""
OFFSET = 128
"""Of what stands for 0: the instructions want one factor unsigned."""
MAX_STEPS = 127
_LEAST = 1e-30
"""Smaller rows are counted in steps of this, so that a row of zeros needs no case of its own."""
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_INTEGERS = ir.VectorType(_I32, LANES)


@register_jitable(**PART)
def row_bytes(depth):
    """From one row to the next; a multiple of a cache line."""
    return scale_place(depth) + STEP


@register_jitable(**PART)
def scale_place(depth):
    """Where in a row its scale is."""
    return (depth + STEP - 1) // STEP * STEP


@part
def quantize_row(source, offset, depth, rows, row):
    """-> the scale. source: `depth` float32 elements from `offset`, padded with zeros to a
    multiple of 16.

    rows: flat uint8, of which number `row` is written. If an element is NaN or infinite the scale
    is, and so are all products. What pads the depth to whole steps is left as it is: the weights
    are 0 there.
    """
    largest = broadcast(np.float32(0.0))
    for i in range(0, depth, LANES):
        largest = _larger_magnitude(load(source, offset + i), largest)
    most = _largest_magnitude(largest)
    if most < np.float32(_LEAST):
        most = np.float32(_LEAST)
    begin = row * row_bytes(depth)
    steps = broadcast(np.float32(MAX_STEPS) / most)
    middle = broadcast(np.float32(OFFSET))
    for i in range(0, depth, LANES):
        store(rows, begin + i, load(source, offset + i) * steps + middle)
    scale = most / np.float32(MAX_STEPS)
    write_float(rows, begin + scale_place(depth), scale)
    return scale


@intrinsic
def _larger_magnitude(typing, a, b):
    """Lane by lane |a| or |b|, as integers of the same bits compare: NaN is above infinity."""

    def generate(context, builder, signature, arguments):
        bits = [builder.bitcast(_magnitude(builder, a), _INTEGERS) for a in arguments]
        larger = call_llvm(builder, "llvm.smax.v16i32", _INTEGERS, bits)
        return builder.bitcast(larger, arguments[0].type)

    return f32x16(f32x16, f32x16), generate


@intrinsic
def _largest_magnitude(typing, a):
    """The largest |a| of all lanes, NaN above infinity."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(_magnitude(builder, arguments[0]), _INTEGERS)
        return builder.bitcast(
            call_llvm(builder, "llvm.vector.reduce.smax.v16i32", _I32, [bits]), _F32
        )

    return types.float32(f32x16), generate


def _magnitude(builder, vector):
    return call_llvm(builder, "llvm.fabs.v16f32", vector.type, [vector])
