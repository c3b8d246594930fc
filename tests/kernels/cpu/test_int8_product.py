"""Products of 8 bits with 8 bits: exactly what integers give, with every instruction alike."""

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

from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION, begin_tiles, end_tiles
from tokenreel.kernels.cpu.int8_product import make_sums, pack, quantize, supported_instructions
from tokenreel.kernels.cpu.int8_rows import quantize_row, row_bytes
from tokenreel.kernels.cpu.product import ROWS
from tokenreel.kernels.cpu.row_blocks import PANEL

Floats = NDArray[np.float32]
INSTRUCTIONS = ["amx", "avx512vnni", "avxvnni", "avx2", "any"]
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
    has_tiles = instruction == "amx"

    @njit(nogil=True)
    def product(source, num_rows, rows, weights, place, out):
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


def product(instruction: str, source: Floats, weight: Tensor) -> Floats:
    """source [rows, in], weight [out, in] -> [rows, out]"""
    num_rows, num_in = source.shape
    depth = -(-num_in // 16) * 16
    padded = np.zeros((num_rows, depth), np.float32)
    padded[:, :num_in] = source
    # As many rows as AMX may read; what is not written holds anything.
    rows = np.full((num_rows + ROWS - 1) * row_bytes(depth), 201, np.uint8)
    weights = pack(weight)
    out = np.full((num_rows, len(weights) * PANEL), np.nan, np.float32)
    place = np.full(ROWS * PANEL, np.nan, np.float32)
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
    num_rows=st.integers(1, 70),
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
def test_sums_are_exact_for_every_number_of_rows(instruction: str) -> None:
    source, weight = random(1, 40, 130), torch.from_numpy(random(2, 33, 130))
    want = expected(source, weight)
    for num_rows in range(1, 41):
        assert np.array_equal(product(instruction, source[:num_rows], weight), want[:num_rows])


@with_each_instruction
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(instruction: str, sign: int) -> None:
    num_in = 16384
    source = np.full((17, num_in), 127, np.float32)
    source[1::2] *= -1
    weight = torch.full((40, num_in), sign * 127.0)
    total = sign * 127.0 * 127.0 * num_in
    want = np.where(np.arange(17) % 2 == 0, total, -total)[:, np.newaxis]
    assert np.array_equal(product(instruction, source, weight), np.broadcast_to(want, (17, 40)))


@with_each_instruction
def test_zeros_stay_zero(instruction: str) -> None:
    source, weight = random(3, 7, 96), torch.from_numpy(random(4, 48, 96))
    source[3] = 0
    weight[5] = 0
    result = product(instruction, source, weight)
    assert not result[3].any()
    assert not result[:, 5].any()
    assert np.isfinite(result).all()


@with_each_instruction
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_spoils_itself_alone(instruction: str, bad: float) -> None:
    source, weight = random(5, 20, 64), torch.from_numpy(random(6, 64, 64))
    clean = product(instruction, source, weight)
    source[4, 7] = bad
    result = product(instruction, source, weight)
    assert not np.isfinite(result[4]).any()
    others = np.arange(20) != 4
    assert np.array_equal(result[others], clean[others])


@with_each_instruction
def test_a_row_has_the_same_bits_alone_and_in_a_batch(instruction: str) -> None:
    source, weight = random(7, 40, 200), torch.from_numpy(random(8, 64, 200))
    together = product(instruction, source, weight)
    for row in range(40):
        assert np.array_equal(product(instruction, source[row : row + 1], weight)[0], together[row])


def test_a_weight_that_is_not_finite_is_not_hidden() -> None:
    weight = torch.from_numpy(random(9, 3, 64))
    weight[1, 5] = torch.nan
    weight[2, 6] = torch.inf
    result = product(supported_instructions()[0], random(10, 2, 64), weight)
    assert np.isfinite(result).all(0).tolist() == [True, False, False]


def test_weights_lose_half_a_step_at_most() -> None:
    weight = torch.from_numpy(random(11, 50, 70)).bfloat16()
    steps, scales = quantize(weight)
    assert steps.abs().amax(1).eq(127).all()
    lost = (steps * scales.unsqueeze(1) - weight.float()).abs()
    assert (lost <= scales.unsqueeze(1) * 0.5001).all()
