"""Products of rows with a weight matrix that was packed at load, in panels of 32 output columns.

A result is one sum over the depth, from first to last, whatever the number of rows: the same bits
alone and in a batch. What happens to the sums (a bias, a residual, an activation) is the caller's,
while they are in the first-level cache.
"""

from typing import Any

import torch
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tokenreel.kernels.cpu.amx import DEPTH, make_tile_product
from tokenreel.kernels.cpu.compiler import PART
from tokenreel.kernels.cpu.vector import LANES, call_llvm, element_pointer, splat, widen

PANEL = 32
"""Output columns that are computed together."""
ROWS = 32
"""Rows that are computed together."""
_HAS_32_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f"))
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FMA = "llvm.fma.v16f32"


def padded(size: int, multiple: int = PANEL) -> int:
    return -(-size // multiple) * multiple


def pack(weight: Tensor, for_amx: bool) -> NDArray[Any]:
    """weight [out, in] -> [panels, depth, 32], or as AMX wants it [panels, depth / 32, 1024].

    Both sizes are padded with zeros to multiples of 32. The elements stay what they are.
    """
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


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """16-bit floating point goes by the integers that stand for it: see `vector`."""
    integers = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
    return tensor.view(integers.get(tensor.dtype, tensor.dtype)).numpy()


def sums(rows, row, num_rows, stride, weights, panel, out):
    """Puts the sums of up to 32 rows with the 32 columns of a panel into `out` [1024] float32.

    rows: flat, `stride` elements each, padded with zeros along the depth; float32, or bfloat16 for
    AMX, which computes 16 or 32 rows: they must exist, and their sums are read by nobody.
    weights: one layer's of `pack`. `int8_product` brings rows and weights of 8 bits.
    """
    raise NotImplementedError("for compiled functions only")


@overload(sums, jit_options=PART)
def _overload_sums(rows, row, num_rows, stride, weights, panel, out):
    if weights.dtype == types.int8:
        return None
    return _amx_sums if rows.dtype == types.uint16 else _fma_sums


_one_tile, _two_tiles = make_tile_product(1), make_tile_product(2)


def _amx_sums(rows, row, num_rows, stride, weights, panel, out):
    steps = weights.shape[1]
    begin = panel * steps * 1024
    if num_rows > 16:
        _two_tiles(rows, row * stride, stride, weights, begin, steps, out, 0)
    else:
        _one_tile(rows, row * stride, stride, weights, begin, steps, out, 0)


def _make_block(num_rows: int, num_vectors: int):
    """A compiled product of some rows with some vectors of columns, all sums in registers."""

    @intrinsic
    def block(typing, rows, row_offset, row_stride, weights, weight_offset, depth, out, out_offset):
        def generate(context, builder, signature, arguments):
            first_row = element_pointer(context, builder, rows, *arguments[:2])
            panel = element_pointer(context, builder, weights, *arguments[3:5])
            out_pointer = element_pointer(context, builder, out, *arguments[6:8])
            pointers = [
                builder.gep(first_row, [builder.mul(arguments[2], _I64(row))])
                for row in range(num_rows)
            ]
            totals = _emit_depth_loop(
                builder, weights.dtype, pointers, panel, arguments[5], num_vectors
            )
            for row, vectors in enumerate(totals):
                for column, vector in enumerate(vectors):
                    place = builder.gep(out_pointer, [_I64(row * PANEL + column * LANES)])
                    builder.store(vector, builder.bitcast(place, _VECTOR.as_pointer())).align = 4
            return context.get_dummy_value()

        offset = types.intp
        signature = types.void(rows, offset, offset, weights, offset, offset, out, offset)
        return signature, generate

    return block


def _emit_depth_loop(builder, dtype, row_pointers, panel, depth, num_vectors):
    """The sums over the depth, as LLVM values [row][vector]."""
    before = builder.block
    loop = builder.append_basic_block("depth")
    after = builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    position = builder.phi(_I64)
    position.add_incoming(_I64(0), before)
    totals = [[builder.phi(_VECTOR) for _ in range(num_vectors)] for _ in row_pointers]
    first = builder.gep(panel, [builder.mul(position, _I64(PANEL))])
    columns = [
        widen(builder, dtype, builder.gep(first, [_I64(vector * LANES)]))
        for vector in range(num_vectors)
    ]
    sums = []
    for pointer, vectors in zip(row_pointers, totals, strict=True):
        element = splat(builder, builder.load(builder.gep(pointer, [position])))
        terms = zip(columns, vectors, strict=True)
        sums.append(
            [call_llvm(builder, _FMA, _VECTOR, [element, column, total]) for column, total in terms]
        )
        for total, following in zip(vectors, sums[-1], strict=True):
            total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
            total.add_incoming(following, loop)
    following = builder.add(position, _I64(1))
    position.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return sums


# As many sums as registers hold beside the weights: 24 of 32 with AVX-512; 12 of 16 with AVX2,
# where a vector of 16 takes two.
_VECTORS = 2 if _HAS_32_REGISTERS else 1
_MANY = 12 if _HAS_32_REGISTERS else 6
_FEW = 4 if _HAS_32_REGISTERS else 2
_many_rows, _few_rows, _one_row = (_make_block(n, _VECTORS) for n in (_MANY, _FEW, 1))


def _fma_sums(rows, row, num_rows, stride, weights, panel, out):
    depth = weights.shape[1]
    fma_panel(rows, row, num_rows, stride, weights, panel * depth * PANEL, depth, out)


@register_jitable(**PART)
def fma_panel(rows, row, num_rows, stride, weights, first, depth, out):
    """Sums with the 32 columns that lie [depth, 32] from element `first` of the weights."""
    for column in range(0, PANEL, _VECTORS * LANES):
        begin = first + column
        done = 0
        while done < num_rows:
            left = num_rows - done
            start, place = (row + done) * stride, done * PANEL + column
            if left >= _MANY:
                _many_rows(rows, start, stride, weights, begin, depth, out, place)
                done += _MANY
            elif left >= _FEW:
                _few_rows(rows, start, stride, weights, begin, depth, out, place)
                done += _FEW
            else:
                _one_row(rows, start, stride, weights, begin, depth, out, place)
                done += 1
