"""Products of floating-point rows with weights of 8 bits, and what becomes of their scales."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.kernels.cpu import product
from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION, begin_tiles, end_tiles, has_amx
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.int8_product import quantize
from tokenreel.kernels.cpu.int8_weights import pack
from tokenreel.kernels.cpu.product import ROWS, as_numpy, padded, sums
from tokenreel.kernels.cpu.row_blocks import PANEL

needs_amx = pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX")


@compiled
def multiply(rows, num_rows, stride, weights, place, out):
    for panel in range(len(weights)):
        for row in range(0, num_rows, ROWS):
            count = min(ROWS, num_rows - row)
            sums(rows, row, count, stride, weights, panel, place)
            for i in range(count):
                for column in range(PANEL):
                    out[row + i, panel * PANEL + column] = place[i * PANEL + column]


@compiled
def multiply_in_tiles(tiles, rows, num_rows, stride, weights, place, out):
    begin_tiles(tiles)
    multiply(rows, num_rows, stride, weights, place, out)
    end_tiles()


def multiplied(source: Tensor, weights: NDArray[np.generic], for_amx: bool) -> Tensor:
    """source [rows, in] -> [rows, out, padded]"""
    num_rows, num_in = source.shape
    stride = padded(num_in)
    rows = torch.zeros(num_rows + ROWS - 1, stride)
    rows[:num_rows, :num_in] = source
    out = np.full((num_rows, len(weights) * PANEL), np.nan, np.float32)
    place = np.full(ROWS * PANEL, np.nan, np.float32)
    if for_amx:
        flat = as_numpy(rows.bfloat16().view(-1))
        multiply_in_tiles(TILE_CONFIGURATION, flat, num_rows, stride, weights, place, out)
    else:
        multiply(rows.view(-1).numpy(), num_rows, stride, weights, place, out)
    return torch.from_numpy(out)


def check(num_rows: int, num_out: int, num_in: int, seed: int, for_amx: bool) -> None:
    """Bitwise what `product` makes of the steps as floating-point numbers, then the scales."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(num_rows, num_in, generator=generator)
    weight = torch.randn(num_out, num_in, generator=generator)
    result = multiplied(source, pack(weight, for_amx), for_amx)
    steps, scales = quantize(weight)
    dtype = torch.bfloat16 if for_amx else torch.float32
    unscaled = multiplied(source, product.pack(steps.to(dtype), for_amx), for_amx)
    assert torch.equal(result[:, :num_out], unscaled[:, :num_out] * scales)
    assert not result[:, num_out:].any()
    rounded = source.to(dtype).double()
    truth = rounded @ (steps.double() * scales.double().unsqueeze(1)).T
    assert (result[:, :num_out] - truth).abs().max() < 1e-5 * num_in


sizes = given(
    num_rows=st.integers(1, 70),
    num_out=st.integers(1, 100),
    num_in=st.integers(1, 200),
    seed=st.integers(0, 1000),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@sizes
def test_by_fma_it_is_the_product_with_the_steps(
    num_rows: int, num_out: int, num_in: int, seed: int
) -> None:
    check(num_rows, num_out, num_in, seed, for_amx=False)


@needs_amx
@settings(max_examples=25, deadline=None, derandomize=True)
@sizes
def test_on_amx_it_is_the_product_with_the_steps(
    num_rows: int, num_out: int, num_in: int, seed: int
) -> None:
    check(num_rows, num_out, num_in, seed, for_amx=True)


@pytest.mark.parametrize("for_amx", [False, pytest.param(True, marks=needs_amx)])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(for_amx: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(40, 100, generator=generator)
    weights = pack(torch.randn(64, 100, generator=generator), for_amx)
    together = multiplied(source, weights, for_amx)
    for row in range(40):
        assert torch.equal(multiplied(source[row : row + 1], weights, for_amx)[0], together[row])


@pytest.mark.parametrize("for_amx", [False, pytest.param(True, marks=needs_amx)])
def test_what_is_not_finite_stays_visible(for_amx: bool) -> None:
    source, weight = torch.ones(2, 64), torch.ones(3, 64)
    source[1, 3] = torch.nan
    weight[2, 5] = torch.nan
    result = multiplied(source, pack(weight, for_amx), for_amx)[:, :3]
    assert result.isfinite().tolist() == [[True, True, False], [False] * 3]
