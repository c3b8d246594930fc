"""What a product multiplies: rows as they were computed, or made rows of 8 bits first.

`space` is where those of 8 bits go, flat uint8 in the format of `int8_rows`; None: there are none.
"""

from numba import types
from numba.extending import overload

from tokenreel.kernels.cpu.compiler import PART
from tokenreel.kernels.cpu.int8_rows import quantize_row, row_bytes


def factors(rows, stride, space):
    """-> flat rows and their stride, for `sums`."""
    raise NotImplementedError("for compiled functions only")


def make_factor(rows, stride, row, space):
    """To be called when a row is complete, before it is multiplied."""
    raise NotImplementedError("for compiled functions only")


@overload(factors, jit_options=PART)
def _overload_factors(rows, stride, space):
    if isinstance(space, types.NoneType):
        return lambda rows, stride, space: (rows, stride)
    return lambda rows, stride, space: (space, row_bytes(stride))


@overload(make_factor, jit_options=PART)
def _overload_make_factor(rows, stride, row, space):
    if isinstance(space, types.NoneType):
        return lambda rows, stride, row, space: None
    return lambda rows, stride, row, space: quantize_row(rows, row * stride, stride, space, row)
