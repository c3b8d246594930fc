"""Products of floating-point rows with a weight in 8 bits, which is widened on its way.

A sum is that of the rows with whole steps, and scaled afterwards: what `product` computes of such
weights, at a quarter of the bytes.
"""

from typing import TYPE_CHECKING

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from tokenreel.kernels.cpu import product
from tokenreel.kernels.cpu.amx import DEPTH, make_tile_product
from tokenreel.kernels.cpu.compiler import INLINED, part
from tokenreel.kernels.cpu.floats_in_bytes import read_floats
from tokenreel.kernels.cpu.int8_product import quantize
from tokenreel.kernels.cpu.product import fma_panel, sums
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.vector import LANES, load, store

if TYPE_CHECKING:
    from torch import Tensor

_SCALE_BYTES = 4 * PANEL
"""Behind a panel's weights: 32 scales in float32."""


def pack(weight: "Tensor", for_amx: bool) -> NDArray[np.int8]:
    """weight [out, in], floating point -> [panels, bytes]: steps as in `product.pack`, and scales.

    For AMX the even members of 16 columns' pairs lie before the odd ones.
    """
    import torch

    steps, scales = quantize(weight)
    packed = torch.from_numpy(product.pack(steps, for_amx))
    if for_amx:
        packed = packed.view(*packed.shape[:2], -1, LANES, 2).transpose(3, 4)
    all_scales = scales.new_zeros(len(packed) * PANEL)
    all_scales[: len(scales)] = scales
    epilogue = all_scales.view(-1, PANEL).view(torch.int8)
    return torch.cat([packed.reshape(len(packed), -1), epilogue], 1).numpy()


@overload(sums, jit_options=INLINED)
def _overload_sums(rows, row, num_rows, stride, weights, panel, out):
    if weights.dtype != types.int8 or rows.dtype == types.uint8:
        return None
    return _amx_sums if rows.dtype == types.uint16 else _fma_sums


def _fma_sums(rows, row, num_rows, stride, weights, panel, out):
    begin, end = panel * weights.shape[1], (panel + 1) * weights.shape[1] - _SCALE_BYTES
    fma_panel(rows, row, num_rows, stride, weights, begin, (end - begin) // PANEL, out)
    _scale(out, num_rows, weights, end)


_tile_product = make_tile_product()


def _amx_sums(rows, row, num_rows, stride, weights, panel, out):
    begin, end = panel * weights.shape[1], (panel + 1) * weights.shape[1] - _SCALE_BYTES
    steps = (end - begin) // (PANEL * DEPTH)
    _tile_product(rows, row * stride, num_rows, stride, weights, begin, steps, out)
    _scale(out, num_rows, weights, end)


@part
def _scale(out, num_rows, weights, scales):
    for column in range(0, PANEL, LANES):
        scale = read_floats(weights, scales + 4 * column)
        for place in range(column, num_rows * PANEL, PANEL):
            store(out, place, load(out, place) * scale)
