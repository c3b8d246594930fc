"""Products of 8 bits with 4 bits: exactly what integers give, with every instruction alike."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.kernels.cpu.int8_product import supported_instructions
from tokenreel.kernels.cpu.int8_rows import quantize_row, row_bytes
from tokenreel.kernels.cpu.nibble_product import make_sums, pack_steps, quantize
from tokenreel.kernels.cpu.row_blocks import PANEL

Floats = NDArray[np.float32]
INSTRUCTIONS = ["avx512vnni", "avxvnni", "avx2", "any"]
with_each_instruction = pytest.mark.parametrize(
    "instruction",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in supported_instructions(), reason=f"this CPU has no {name}"
            ),
        )
        for name in INSTRUCTIONS
    ],
)


@functools.cache
def compile_product(instruction: str) -> Any:
    sums = register_jitable(make_sums(instruction))

    @njit(nogil=True)
    def product(source, num_rows, rows, weights, place, out):
        depth = source.shape[1]
        for row in range(num_rows):
            quantize_row(source, row * depth, depth, rows, row)
        for panel in range(len(weights)):
            sums(rows, 0, num_rows, row_bytes(depth), weights, panel, place)
            for i in range(num_rows):
                begin = panel * PANEL
                out[i, begin : begin + PANEL] = place[i * PANEL : (i + 1) * PANEL]

    return product


def product(instruction: str, source: Floats, weight: Tensor) -> Floats:
    """source [rows, in], weight [out, in] -> [rows, out]"""
    num_rows, num_in = source.shape
    depth = -(-num_in // 16) * 16
    padded = np.zeros((num_rows, depth), np.float32)
    padded[:, :num_in] = source
    rows = np.full(num_rows * row_bytes(depth), 201, np.uint8)  # padding holds anything
    weights = pack_steps(*quantize(weight))
    out = np.full((num_rows, len(weights) * PANEL), np.nan, np.float32)
    place = np.full(num_rows * PANEL, np.nan, np.float32)
    compile_product(instruction)(padded, num_rows, rows, weights, place, out)
    return out[:, : len(weight)]


def expected(source: Floats, weight: Tensor) -> Floats:
    """By 64-bit integers, then the two scales."""
    steps, scales = quantize(weight)
    largest = np.maximum(np.abs(source).max(1, keepdims=True), np.float32(1e-30))
    inverse = np.float32(127) / largest
    rows = np.rint(source * inverse + np.float32(128)).astype(np.int64) - 128
    totals = rows @ steps.numpy().astype(np.int64).T
    product: Floats = totals.astype(np.float32) * scales.numpy() * (largest / np.float32(127))
    return product


def random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@with_each_instruction
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num_rows=st.integers(1, 5),
    num_out=st.integers(1, 100),
    num_in=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_sums_are_exact(
    instruction: str, num_rows: int, num_out: int, num_in: int, seed: int
) -> None:
    source = random(seed, num_rows, num_in)
    weight = torch.from_numpy(random(seed + 1, num_out, num_in))
    assert np.array_equal(product(instruction, source, weight), expected(source, weight))


@with_each_instruction
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_spoils_itself_alone(instruction: str, bad: float) -> None:
    source, weight = random(5, 3, 64), torch.from_numpy(random(6, 64, 64))
    clean = product(instruction, source, weight)
    source[1, 7] = bad
    result = product(instruction, source, weight)
    assert not np.isfinite(result[1]).any()
    assert np.array_equal(result[[0, 2]], clean[[0, 2]])


def test_weights_lose_half_a_step_at_most() -> None:
    weight = torch.from_numpy(random(11, 50, 70))
    weight[7] = 0
    steps, scales = quantize(weight)
    assert (steps % 16 == 0).all()
    assert not steps[7].any()
    lost = (steps * scales.unsqueeze(1) - weight).abs()
    assert (lost <= 16 * scales.unsqueeze(1) * 0.5001).all()


def test_it_takes_half_the_room_of_eight_bits() -> None:
    packed = pack_steps(*quantize(torch.from_numpy(random(12, 64, 128))))
    scales_and_corrections = 8 * PANEL
    assert packed.shape == (2, 128 * PANEL // 2 + scales_and_corrections)


def test_a_weight_without_columns_has_no_panels() -> None:
    assert len(pack_steps(*quantize(torch.empty(0, 576)))) == 0
