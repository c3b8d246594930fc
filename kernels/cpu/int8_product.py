"""Products of rows in 8 bits with a weight in 8 bits: exact sums, then two scales.

Because integer sums are exact, a result is the same alone and in a batch, and with each of the
instructions that a CPU may have for it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray

from tokenreel.kernels.cpu.amx import has_amx, make_tile_product
from tokenreel.kernels.cpu.compiler import INLINED
from tokenreel.kernels.cpu.floats_in_bytes import read_float
from tokenreel.kernels.cpu.int8_dots import INSTRUCTIONS, STEP_BYTES, dots_emitter
from tokenreel.kernels.cpu.int8_rows import MAX_STEPS, OFFSET, STEP, scale_place
from tokenreel.kernels.cpu.product import padded, sums
from tokenreel.kernels.cpu.row_blocks import PANEL, make_blocks
from tokenreel.kernels.cpu.vector import LANES, element_pointer, splat

if TYPE_CHECKING:
    from torch import Tensor

EPILOGUE_BYTES = 2 * 4 * PANEL
"""Behind a panel's weights: 32 scales in float32, then 32 sums of weights in int32."""
MAX_ROWS_WITHOUT_TILES = 4
"""So many rows VNNI multiplies faster than AMX."""
_ROWS_AT_ONCE = 512
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_INTEGERS = ir.VectorType(_I32, LANES)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FEATURES = binding.get_host_cpu_features()


def supported_instructions() -> list[str]:
    """What this CPU has, the fastest first."""
    has = [name for name in ("avx512vnni", "avxvnni", "avx2") if _FEATURES.get(name)]
    has_tiles = "avx512vnni" in has and has_amx() and _FEATURES.get("amx-int8")
    return [*(["amx"] if has_tiles else []), *has, "any"]


def quantize(weight: "Tensor", most: float = MAX_STEPS) -> "tuple[Tensor, Tensor]":
    """weight [out, in] -> int8 steps [out, in], float32 size of a step [out].

    The largest magnitude of a row is `most` steps.
    """
    import torch

    steps, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    # Some rows at a time: wide copies of a large vocabulary would take much memory.
    for first in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        wide = weight[rows].float()
        scales[rows] = wide.abs().amax(1) / most
        steps[rows] = (wide / scales[rows].clamp(min=1e-37).unsqueeze(1)).round()
    return steps, scales


def pack(weight: "Tensor") -> NDArray[np.int8]:
    """weight [out, in], floating point -> [panels, bytes]: for rows of `int8_rows`.

    A panel is [depth / 64, 2 tiles, 16 quads, 16 columns, 4], then what the sums are corrected and
    scaled with.
    """
    return pack_steps(*quantize(weight))


def pack_steps(steps: "Tensor", scales: "Tensor") -> NDArray[np.int8]:
    """`pack`, of what `quantize` gives."""
    import torch

    num_out, num_in = steps.shape
    whole = steps.new_zeros(padded(num_out), padded(num_in, STEP))
    whole[:num_out, :num_in] = steps
    # Four neighbours along the depth are moved as one number.
    quads = whole.view(torch.int32).view(-1, 2, LANES, whole.shape[1] // STEP, STEP // 4)
    tiles = quads.permute(0, 3, 1, 4, 2).flatten(1).view(torch.int8)
    all_scales = scales.new_zeros(len(whole))
    all_scales[:num_out] = scales
    corrections = whole.sum(1, dtype=torch.int32) * OFFSET
    epilogue = [part.view(-1, PANEL).view(torch.int8) for part in (all_scales, corrections)]
    return torch.cat([tiles, *epilogue], 1).numpy()


def make_sums(instruction: str) -> Any:
    """`sums` for rows in 8 bits, with one of `supported_instructions`."""
    multiply = _make_tiles() if instruction == "amx" else _make_blocks(instruction)

    def int8_sums(rows, row, num_rows, stride, weights, panel, out):
        steps = (weights.shape[1] - EPILOGUE_BYTES) // STEP_BYTES
        begin = panel * weights.shape[1]
        multiply(rows, row * stride, num_rows, stride, weights, begin, steps, out)
        scales = row * stride + scale_place(steps * STEP)
        scale_sums(rows, scales, num_rows, stride, weights, begin + steps * STEP_BYTES, out)

    return int8_sums


@register_jitable(**INLINED)
def scale_sums(rows, scales, num_rows, stride, weights, epilogue, out):
    """Turns rows of 32 integer sums into what they stand for. `scales` is the first row's place of
    its scale, `epilogue` where the panel's weights end."""
    for i in range(num_rows):
        scale = read_float(rows, scales + i * stride)
        for column in range(0, PANEL, LANES):
            _scale(out, i * PANEL + column, weights, epilogue + 4 * column, scale)


@overload(sums, jit_options=INLINED)
def _overload_sums(rows, row, num_rows, stride, weights, panel, out):
    return _fastest_sums if (rows.dtype, weights.dtype) == (types.uint8, types.int8) else None


def _make_blocks(name: str) -> Any:
    # As many sums as registers hold beside the operands.
    num_tiles, many, few = {
        "avx512vnni": (2, 8, 4),
        "avxvnni": (1, 4, 2),
        "avx2": (1, 3, 2),
        "any": (1, 2, 2),
    }[name]
    blocks = make_blocks(dots_emitter(INSTRUCTIONS[name], num_tiles), many, few)

    @register_jitable(**INLINED)
    def multiply(rows, start, num_rows, stride, weights, begin, steps, out):
        for tile in range(0, 2, num_tiles):
            position = begin + tile * (STEP_BYTES // 2)
            blocks(rows, start, num_rows, stride, weights, position, steps, out, tile * LANES)

    return multiply


def _make_tiles() -> Any:
    many_rows = make_tile_product("tdpbusd")
    few_rows = _make_blocks("avx512vnni")

    @register_jitable(**INLINED)
    def multiply(rows, start, num_rows, stride, weights, begin, steps, out):
        if num_rows <= MAX_ROWS_WITHOUT_TILES:
            few_rows(rows, start, num_rows, stride, weights, begin, steps, out)
        else:
            many_rows(rows, start, num_rows, stride, weights, begin, steps, out)

    return multiply


@intrinsic
def _scale(typing, out, place, weights, epilogue, row_scale):
    """Turns 16 integer sums in `out` into what they stand for."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, out, *arguments[:2])
        epilogue = element_pointer(context, builder, weights, *arguments[2:4])

        def read(pointer, vector):
            value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            value.align = 4
            return value

        totals = read(pointer, _INTEGERS)
        corrections = read(builder.gep(epilogue, [_I64(4 * PANEL)]), _INTEGERS)
        exact = builder.sitofp(builder.sub(totals, corrections), _VECTOR)
        scaled = builder.fmul(exact, read(epilogue, _VECTOR))
        result = builder.fmul(scaled, splat(builder, arguments[4]))
        builder.store(result, builder.bitcast(pointer, _VECTOR.as_pointer())).align = 4
        return context.get_dummy_value()

    offset = types.intp
    return types.void(out, offset, weights, offset, types.float32), generate


_fastest_sums = make_sums(supported_instructions()[0])
