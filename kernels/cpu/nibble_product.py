"""Products of rows in 8 bits with a weight in 4: a rough look, at half the reading of 8 bits."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from tokenreel.kernels.cpu import int8_product
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.compiler import INLINED
from tokenreel.kernels.cpu.int8_dots import (
    INSTRUCTIONS,
    STEP_BYTES,
    TILE_BYTES,
    nibble_dots_emitter,
)
from tokenreel.kernels.cpu.int8_product import EPILOGUE_BYTES, scale_sums
from tokenreel.kernels.cpu.int8_rows import STEP, scale_place
from tokenreel.kernels.cpu.product import sums
from tokenreel.kernels.cpu.row_blocks import PANEL, make_block

if TYPE_CHECKING:
    from torch import Tensor

_LEAST, _MOST = -8, 7


def quantize(weight: "Tensor") -> "tuple[Tensor, Tensor]":
    """weight [out, in] -> 16ths of steps [out, in], -128 to 112, float32 size of a 16th [out].

    No element is off by more than half a step: the largest magnitude of a row is 7.5 steps.
    """
    steps, scales = int8_product.quantize(weight, (_MOST - _LEAST) / 2)
    return steps.clamp_(_LEAST, _MOST) * 16, scales / 16


def pack_steps(steps: "Tensor", scales: "Tensor") -> NDArray[np.uint8]:
    """What `quantize` gives -> [panels, bytes], for rows of `int8_rows`.

    A panel is [depth / 64, 16 quads, 16 columns, 4], the first 16 columns in the lower halves of
    the bytes, the others in the upper ones: as a signed byte each is a step's 16ths once the rest
    of the byte is 0. Behind them is the epilogue of `int8_product.pack`.
    """
    whole = int8_product.pack_steps(steps, scales).view(np.uint8)
    weights, epilogue = np.split(whole, [-EPILOGUE_BYTES], 1)
    tiles = weights.reshape(len(whole), weights.shape[1] // STEP_BYTES, 2, TILE_BYTES)
    width = weights.shape[1] // 2
    packed = zeros((len(whole), width + EPILOGUE_BYTES), np.uint8)
    packed[:, :width] = (tiles[:, :, 0] >> 4 | tiles[:, :, 1]).reshape(len(whole), width)
    packed[:, width:] = epilogue
    return packed


def make_sums(instruction: str) -> Any:
    """`sums` for weights of 4 bits, by one of the `INSTRUCTIONS`: row by row."""
    block = make_block(1, nibble_dots_emitter(INSTRUCTIONS[instruction]))

    def nibble_sums(rows, row, num_rows, stride, weights, panel, out):
        steps = (weights.shape[1] - EPILOGUE_BYTES) // TILE_BYTES
        begin, first = panel * weights.shape[1], row * stride
        for i in range(num_rows):
            block(rows, first + i * stride, stride, weights, begin, steps, out, i * PANEL)
        scales = first + scale_place(steps * STEP)
        scale_sums(rows, scales, num_rows, stride, weights, begin + steps * TILE_BYTES, out)

    return nibble_sums


def _fastest() -> str:
    return next(name for name in int8_product.supported_instructions() if name in INSTRUCTIONS)


_fastest_sums = make_sums(_fastest())


@overload(sums, jit_options=INLINED)
def _overload_sums(rows, row, num_rows, stride, weights, panel, out):
    return _fastest_sums if (rows.dtype, weights.dtype) == (types.uint8, types.uint8) else None
