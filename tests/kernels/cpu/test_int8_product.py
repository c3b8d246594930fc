"""Products of 8 bits with 8 bits: exactly what integers give, with every instruction alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_product import ShortProduct, random, with_each

from tokenreel.kernels.cpu.int8_product import (
    make_sums,
    pack_steps,
    quantize,
    supported_instructions,
)

with_each_instruction = with_each(["amx", "avx512vnni", "avxvnni", "avx2", "any"])
product = ShortProduct(make_sums, quantize, pack_steps)


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
    assert np.array_equal(product(instruction, source, weight), product.expected(source, weight))


@with_each_instruction
def test_sums_are_exact_for_every_number_of_rows(instruction: str) -> None:
    source, weight = random(1, 40, 130), torch.from_numpy(random(2, 33, 130))
    want = product.expected(source, weight)
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
