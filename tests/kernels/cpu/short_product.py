"""Products of rows in 8 bits with short weights, as their tests call them and as they should be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.kernels.cpu import int8_product, nibble_product
from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION, begin_tiles, end_tiles
from tokenreel.kernels.cpu.int8_product import supported_instructions
from tokenreel.kernels.cpu.int8_rows import quantize_row, row_bytes
from tokenreel.kernels.cpu.product import ROWS
from tokenreel.kernels.cpu.row_blocks import PANEL

Floats = NDArray[np.float32]


class ShortProduct:
    """By the `sums` that a module makes for each of some instructions."""

    def __init__(self, module: Any, instructions: Sequence[str]) -> None:
        self.instructions = instructions
        self._module = module
        self._compiled: dict[str, Any] = {}

    def __call__(self, instruction: str, source: Floats, weight: Tensor) -> Floats:
        """source [rows, in], weight [out, in] -> [rows, out]"""
        if instruction not in self._compiled:
            self._compiled[instruction] = _compile(self._module.make_sums(instruction), instruction)
        num_rows, num_in = source.shape
        depth = -(-num_in // 16) * 16
        padded = np.zeros((num_rows, depth), np.float32)
        padded[:, :num_in] = source
        # As many rows as AMX may read; what is not written holds anything.
        rows = np.full((num_rows + ROWS - 1) * row_bytes(depth), 201, np.uint8)
        weights = self._module.pack_steps(*self._module.quantize(weight))
        out = np.full((num_rows, len(weights) * PANEL), np.nan, np.float32)
        place = np.full(ROWS * PANEL, np.nan, np.float32)
        self._compiled[instruction](padded, num_rows, rows, weights, place, out)
        return out[:, : len(weight)]

    def expected(self, source: Floats, weight: Tensor) -> Floats:
        """By 64-bit integers, then the two scales."""
        steps, scales = self._module.quantize(weight)
        largest = np.maximum(np.abs(source).max(1, keepdims=True), np.float32(1e-30))
        inverse = np.float32(127) / largest
        rows = np.rint(source * inverse + np.float32(128)).astype(np.int64) - 128
        totals = rows @ steps.numpy().astype(np.int64).T
        product: Floats = totals.astype(np.float32) * scales.numpy() * (largest / np.float32(127))
        return product


def _compile(plain_sums: Any, instruction: str) -> Any:
    sums = register_jitable(plain_sums)
    has_tiles = instruction == "amx"

    @njit(nogil=True)
    def product(source, num_rows, rows, weights, place, out):  # type: ignore[no-untyped-def]
        depth = source.shape[1]
        for row in range(num_rows):
            quantize_row(source, row * depth, depth, rows, row)
        if has_tiles:
            begin_tiles(TILE_CONFIGURATION)
        for panel in range(len(weights)):
            for row in range(0, num_rows, ROWS):
                count = min(ROWS, num_rows - row)
                sums(rows, row, count, row_bytes(depth), weights, panel, place)
                for i in range(count):
                    begin = panel * PANEL
                    out[row + i, begin : begin + PANEL] = place[i * PANEL : (i + 1) * PANEL]
        if has_tiles:
            end_tiles()

    return product


def random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


INT8 = ShortProduct(int8_product, ["amx", "avx512vnni", "avxvnni", "avx2", "any"])
NIBBLES = ShortProduct(nibble_product, ["avx512vnni", "avxvnni", "avx2", "any"])


def with_each(*products: ShortProduct) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("product", "instruction"),
        [
            pytest.param(
                product,
                name,
                marks=pytest.mark.skipif(
                    name not in supported_instructions(), reason=f"this CPU has no {name}"
                ),
                id=f"{'int8' if product is INT8 else 'nibbles'}-{name}",
            )
            for product in products
            for name in product.instructions
        ],
    )
