"""Products with packed weights are PyTorch's, row by row the same bits in any company; so is what
becomes of their sums."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION, begin_tiles, end_tiles, has_amx
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.finish import AddTo, Keep, KeepLargest, SiluAndMultiply, finish
from tokenreel.kernels.cpu.product import (
    ROWS,
    as_numpy,
    pack,
    padded,
    panels_at_once,
    sums_of_panels,
)
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.vector import LANES

Array = NDArray[Any]
KINDS = [
    pytest.param(torch.float32, False, id="float32"),
    pytest.param(torch.bfloat16, False, id="bfloat16"),
    pytest.param(torch.float16, False, id="float16"),
    pytest.param(
        torch.bfloat16,
        True,
        id="amx",
        marks=pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX for bfloat16"),
    ),
]
NO_BIAS = np.empty(0, np.float32)


@compiled
def multiply(rows, stride, num_rows, weights, target, place, tiles):  # type: ignore[no-untyped-def]
    begin_tiles(tiles)
    at_once = panels_at_once(rows, num_rows, weights)
    for panel in range(0, len(weights), at_once):
        width = min(at_once, len(weights) - panel)
        for row in range(0, num_rows, ROWS):
            count = min(ROWS, num_rows - row)
            sums_of_panels(rows, row, count, stride, weights, panel, width, place)
            for i in range(width):
                finish(target, place[i * PANEL :], row, count, panel + i)
    end_tiles()


def run(rows: Tensor, weights: Array, for_amx: bool, target: Any) -> None:
    """rows [n, in] float32"""
    num_rows, num_in = rows.shape
    whole = rows.new_full((padded(num_rows, ROWS), padded(num_in)), math.nan)
    whole[:num_rows] = 0.0
    whole[:num_rows, :num_in] = rows
    place = np.full(ROWS * PANEL, math.nan, np.float32)
    flat = as_numpy(whole.bfloat16() if for_amx else whole).reshape(-1)
    multiply(flat, whole.shape[1], num_rows, weights, target, place, TILE_CONFIGURATION)


def product(rows: Tensor, weights: Array, for_amx: bool, num_out: int) -> Tensor:
    out = np.full((len(rows), padded(num_out)), math.nan, np.float32)
    run(rows, weights, for_amx, Keep(NO_BIAS, out.reshape(-1), out.shape[1]))
    assert not out[np.isfinite(out[:, 0]), num_out:].any()
    return torch.from_numpy(out[:, :num_out])


@pytest.mark.parametrize(("dtype", "for_amx"), KINDS)
@settings(derandomize=True, deadline=None, max_examples=40)
@given(num_rows=st.integers(1, 70), num_in=st.integers(1, 200), num_out=st.integers(1, 100))
def test_a_product_is_pytorchs(
    dtype: torch.dtype, for_amx: bool, num_rows: int, num_in: int, num_out: int
) -> None:
    generator = torch.Generator().manual_seed(num_rows * num_in)
    rows = torch.randn(num_rows, num_in, generator=generator)
    weight = torch.randn(num_out, num_in, generator=generator).to(dtype)
    found = product(rows, pack(weight, for_amx), for_amx, num_out)
    taken = rows.bfloat16().double() if for_amx else rows.double()
    torch.testing.assert_close(found.double(), taken @ weight.double().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "for_amx"), KINDS)
def test_a_row_has_the_same_bits_in_any_company(dtype: torch.dtype, for_amx: bool) -> None:
    rows, weight = torch.randn(77, 96), torch.randn(70, 96).to(dtype)
    packed = pack(weight, for_amx)
    together = product(rows, packed, for_amx, 70)
    for first, last in ((0, 1), (5, 6), (3, 20), (40, 77), (60, 61)):
        assert torch.equal(product(rows[first:last], packed, for_amx, 70), together[first:last])


@pytest.mark.parametrize(("dtype", "for_amx"), KINDS)
def test_a_row_that_is_no_number_harms_no_other(dtype: torch.dtype, for_amx: bool) -> None:
    rows, weight = torch.randn(20, 64), torch.randn(33, 64).to(dtype)
    packed = pack(weight, for_amx)
    expected = product(rows, packed, for_amx, 33)
    rows[7, 3] = math.nan
    found = product(rows, packed, for_amx, 33)
    assert found[7].isnan().all()
    found[7] = expected[7]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("has_bias", [False, True])
def test_sums_are_added_to_a_residual(has_bias: bool) -> None:
    rows, weight, residual = torch.randn(9, 48), torch.randn(64, 48), torch.randn(9, 64)
    bias = torch.randn(64)
    out = residual.clone()
    target = AddTo(bias.numpy() if has_bias else NO_BIAS, out.view(-1).numpy(), 64)
    run(rows, pack(weight, False), False, target)
    expected = residual + functional.linear(rows, weight, bias if has_bias else None)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_gate_and_up_become_one_row(has_bias: bool) -> None:
    """Gates are made large too: silu must neither overflow nor lose what is no number."""
    rows, weight = 30 * torch.randn(9, 48), torch.randn(2, 48, 48)
    rows[4, 0] = math.nan
    bias = torch.randn(2, 48) if has_bias else torch.zeros(2, 48)
    interleaved = weight.view(2, 3, LANES, 48).transpose(0, 1).reshape(96, 48)
    packed_bias = bias.view(2, 3, LANES).transpose(0, 1).reshape(96)
    out = np.full((9, 48), math.nan, np.float32)
    target = SiluAndMultiply(packed_bias.numpy() if has_bias else NO_BIAS, out.reshape(-1), 48)
    run(rows, pack(interleaved, False), False, target)
    gate, up = (functional.linear(rows, weight[i], bias[i]) for i in range(2))
    expected = functional.silu(gate) * up
    assert np.isnan(out[4]).all()
    expected[4] = 0.0
    out[4] = 0.0
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-3)


def test_the_largest_of_a_panel_is_kept_and_padding_is_none() -> None:
    rows, weight = torch.randn(40, 32), -torch.rand(70, 32)
    rows = rows.abs()
    rows[3, 3] = math.nan
    out = np.full((64, 16), 7.0, np.float32)
    packed = pack(weight, False)
    run(rows, packed, False, KeepLargest(70, out.reshape(-1), 16))
    logits = product(rows, packed, False, 70).numpy()
    for panel in range(3):
        expected = logits[:, panel * PANEL : (panel + 1) * PANEL].max(1)
        np.testing.assert_array_equal(out[:40, panel], expected)
    assert (out[:, 3:] == 7.0).all() and (out[48:] == 7.0).all()
