"""Products of 8 bits with 4 bits: exactly what integers give, with every instruction alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_product import ShortProduct, random, with_each

from tokenreel.kernels.cpu.nibble_product import make_sums, pack_steps, quantize
from tokenreel.kernels.cpu.row_blocks import PANEL

with_each_instruction = with_each(["avx512vnni", "avxvnni", "avx2", "any"])
product = ShortProduct(make_sums, quantize, pack_steps)


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
    assert np.array_equal(product(instruction, source, weight), product.expected(source, weight))


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
