"""The largest of each of 16 rows of 32 sums, all rows at once.

Row by row a horizontal maximum takes some 32 cycles, which for a vocabulary in panels is more than
its products on AMX take. Here halves of two vectors are compared at a time, as when a matrix is
transposed, so that 15 comparisons serve 16 rows.
"""

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.vector import LANES, call_llvm, element_pointer, f32x16, splat

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_INTEGERS = ir.VectorType(_I32, LANES)


@intrinsic
def peaks_of_rows(typing, sums, offset):
    """sums: [16, 32] float32 at `offset` -> the largest of row i in lane i; NaN if any is."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, sums, *arguments)
        rows = [_ordered_peaks(builder, pointer, row * PANEL) for row in range(LANES)]
        num_lanes = LANES
        while len(rows) > 1:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [_halve(builder, first, second, num_lanes) for first, second in pairs]
            num_lanes //= 2
        return builder.bitcast(_flip_negative(builder, rows[0]), _VECTOR)

    return f32x16(sums, types.intp), generate


def _ordered_peaks(builder, pointer, offset):
    """16 lanes that hold a row's largest, as integers in the order of what they stand for; NaN,
    without its sign, is the largest of all."""

    def read(column):
        place = builder.gep(pointer, [ir.Constant(ir.IntType(64), offset + column)])
        value = builder.load(builder.bitcast(place, _VECTOR.as_pointer()))
        value.align = 4
        return value

    low, high = read(0), read(LANES)
    larger = builder.select(builder.fcmp_ordered(">", low, high), low, high)
    has_nan = builder.fcmp_unordered("uno", low, high)
    larger = builder.select(has_nan, splat(builder, _F32(math.nan)), larger)
    return _flip_negative(builder, builder.bitcast(larger, _INTEGERS))


def _flip_negative(builder, integers):
    """Floats' bits to integers in the same order, and back: of negative ones all but the sign."""
    sign = builder.ashr(integers, splat(builder, _I32(31), _INTEGERS))
    return builder.xor(integers, builder.and_(sign, splat(builder, _I32(0x7FFFFFFF), _INTEGERS)))


def _halve(builder, first, second, num_lanes):
    """Two vectors of rows, `num_lanes` lanes each -> one of all these rows, half as many each."""
    starts = range(0, 2 * LANES, num_lanes)
    half = num_lanes // 2
    halves = (
        [start + shift + lane for start in starts for lane in range(half)] for shift in (0, half)
    )
    lanes = (ir.Constant(_INTEGERS, numbers) for numbers in halves)
    low, high = (builder.shuffle_vector(first, second, numbers) for numbers in lanes)
    return call_llvm(builder, "llvm.smax.v16i32", _INTEGERS, [low, high])
