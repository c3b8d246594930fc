"""Products of rows with a weight matrix that was packed at load, in panels of 32 output columns.

A result is one sum over the depth, from first to last, whatever the number of rows: the same bits
alone and in a batch. What happens to the sums (a bias, a residual, an activation) is the caller's,
while they are in the first-level cache.
"""

from itertools import product
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.extending import overload, register_jitable
from numpy.typing import NDArray

from tokenreel.kernels.cpu.amx import DEPTH, make_tile_product
from tokenreel.kernels.cpu.compiler import INLINED
from tokenreel.kernels.cpu.row_blocks import PANEL, emit_loop, make_block, make_blocks
from tokenreel.kernels.cpu.vector import HAS_AVX512, LANES, call_llvm, splat, widen

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 32
"""Rows that are computed together."""
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FMA = "llvm.fma.v16f32"
_SHORT = types.int8, types.uint8
"""Of weights in 8 and in 4 bits, which have products of their own."""


def padded(size: int, multiple: int = PANEL) -> int:
    return -(-size // multiple) * multiple


def pack(weight: "Tensor", for_amx: bool) -> NDArray[Any]:
    """weight [out, in] -> [panels, depth, 32], or as AMX wants it [panels, depth / 32, 1024].

    Both sizes are padded with zeros to multiples of 32. The elements stay what they are.
    """
    import torch
    from torch.nn.functional import pad

    num_out, num_in = weight.shape
    missing = -num_in % PANEL, -num_out % PANEL
    whole = pad(weight, (0, missing[0], 0, missing[1])) if any(missing) else weight.contiguous()
    panels = whole.view(-1, PANEL, whole.shape[1])
    if not for_amx:
        return as_numpy(panels.transpose(1, 2).contiguous())
    # A pair is moved as one number: many times as fast.
    pairs = panels.view({1: torch.int16, 2: torch.int32}[weight.element_size()])
    tiles = pairs.view(-1, 2, LANES, whole.shape[1] // DEPTH, DEPTH // 2).permute(0, 3, 1, 4, 2)
    return as_numpy(tiles.contiguous().view(weight.dtype).view(len(panels), -1, 2 * LANES * DEPTH))


def as_numpy(tensor: "Tensor") -> NDArray[Any]:
    """16-bit floating point goes by the integers that stand for it: see `vector`."""
    import torch

    integers = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
    return tensor.view(integers.get(tensor.dtype, tensor.dtype)).numpy()


def sums(rows, row, num_rows, stride, weights, panel, out):
    """Puts the sums of up to 32 rows with the 32 columns of a panel into `out` [1024] float32.

    rows: flat, `stride` elements each, padded with zeros along the depth; float32, or bfloat16 for
    AMX, which computes 16 or 32 rows: they must exist, and their sums are read by nobody.
    weights: one layer's of `pack`. `int8_product` brings rows and weights of 8 bits,
    `nibble_product` weights of 4.
    """
    raise NotImplementedError("for compiled functions only")


@overload(sums, jit_options=INLINED)
def _overload_sums(rows, row, num_rows, stride, weights, panel, out):
    if weights.dtype in _SHORT:
        return None
    return _amx_sums if rows.dtype == types.uint16 else _fma_sums


def panels_at_once(rows, num_rows, weights):
    """How many panels `sums_of_panels` takes: two for a single float32 row, whose weights come from
    memory faster in two streams."""
    raise NotImplementedError("for compiled functions only")


def sums_of_panels(rows, row, num_rows, stride, weights, panel, num_panels, out):
    """`sums` with neighbouring panels, the second one's behind the first one's in `out`."""
    raise NotImplementedError("for compiled functions only")


@overload(panels_at_once, jit_options=INLINED)
def _overload_panels_at_once(rows, num_rows, weights):
    if _is_by_fma(rows, weights):
        return lambda rows, num_rows, weights: 2 if num_rows == 1 else 1
    return lambda rows, num_rows, weights: 1


@overload(sums_of_panels, jit_options=INLINED)
def _overload_sums_of_panels(rows, row, num_rows, stride, weights, panel, num_panels, out):
    return _fma_sums_of_panels if _is_by_fma(rows, weights) else _sums_of_one_panel


def _is_by_fma(rows, weights):
    return rows.dtype == types.float32 and weights.dtype not in _SHORT


_tile_product = make_tile_product()


def _amx_sums(rows, row, num_rows, stride, weights, panel, out):
    steps = weights.shape[1]
    begin = panel * steps * 1024
    _tile_product(rows, row * stride, num_rows, stride, weights, begin, steps, out)


def _emitter(num_vectors, num_panels=1):
    """Sums of rows with so many vectors of columns of each of some neighbouring panels, that lie
    [depth, 32]."""

    def emit_sums(builder, dtype, row_pointers, panel, depth):
        panel_size = builder.mul(depth, _I64(PANEL))
        panels = [builder.gep(panel, [builder.mul(panel_size, _I64(n))]) for n in range(num_panels)]

        def add(position, totals):
            place = builder.mul(position, _I64(PANEL))
            firsts = [builder.gep(start, [place]) for start in panels]
            columns = [
                widen(builder, dtype, builder.gep(first, [_I64(vector * LANES)]))
                for first in firsts
                for vector in range(num_vectors)
            ]
            elements = [
                splat(builder, builder.load(builder.gep(pointer, [position])))
                for pointer in row_pointers
            ]
            factors = product(elements, columns)
            return [
                call_llvm(builder, _FMA, _VECTOR, [*pair, total])
                for pair, total in zip(factors, totals, strict=True)
            ]

        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        width = num_panels * num_vectors
        totals = emit_loop(builder, depth, [zero] * (len(row_pointers) * width), add)
        return [totals[i : i + width] for i in range(0, len(totals), width)]

    return emit_sums


# As many sums as registers hold beside the weights: 24 of 32 with AVX-512; 12 of 16 with AVX2,
# where a vector of 16 takes two.
_VECTORS = 2 if HAS_AVX512 else 1
_blocks = make_blocks(_emitter(_VECTORS), *((12, 4) if HAS_AVX512 else (6, 2)))


_row_by_pair = make_block(1, _emitter(PANEL // LANES, num_panels=2))


def _fma_sums(rows, row, num_rows, stride, weights, panel, out):
    depth = weights.shape[1]
    fma_panel(rows, row, num_rows, stride, weights, panel * depth * PANEL, depth, out)


@register_jitable(**INLINED)
def fma_panel(rows, row, num_rows, stride, weights, first, depth, out):
    """Sums with the 32 columns that lie [depth, 32] from element `first` of the weights."""
    for column in range(0, PANEL, _VECTORS * LANES):
        _blocks(rows, row * stride, num_rows, stride, weights, first + column, depth, out, column)


def _fma_sums_of_panels(rows, row, num_rows, stride, weights, panel, num_panels, out):
    if num_panels == 1:
        sums(rows, row, num_rows, stride, weights, panel, out)
    else:
        depth = weights.shape[1]
        begin = panel * depth * PANEL
        _row_by_pair(rows, row * stride, stride, weights, begin, depth, out, 0)


def _sums_of_one_panel(rows, row, num_rows, stride, weights, panel, num_panels, out):
    sums(rows, row, num_rows, stride, weights, panel, out)
