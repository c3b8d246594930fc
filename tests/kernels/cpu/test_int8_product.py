"""Products of 8 bits with 8 bits: exactly what integers give, with every instruction alike."""

import numpy as np
import pytest
import torch
from short_product import INT8, ShortProduct, random, with_each

from tokenreel.kernels.cpu.int8_product import quantize, supported_instructions


@with_each(INT8)
def test_sums_are_exact_for_every_number_of_rows(product: ShortProduct, instruction: str) -> None:
    source, weight = random(1, 40, 130), torch.from_numpy(random(2, 33, 130))
    want = product.expected(source, weight)
    for num_rows in range(1, 41):
        assert np.array_equal(product(instruction, source[:num_rows], weight), want[:num_rows])


@with_each(INT8)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(
    product: ShortProduct, instruction: str, sign: int
) -> None:
    num_in = 16384
    source = np.full((17, num_in), 127, np.float32)
    source[1::2] *= -1
    weight = torch.full((40, num_in), sign * 127.0)
    total = sign * 127.0 * 127.0 * num_in
    want = np.where(np.arange(17) % 2 == 0, total, -total)[:, np.newaxis]
    assert np.array_equal(product(instruction, source, weight), np.broadcast_to(want, (17, 40)))


@with_each(INT8)
def test_zeros_stay_zero(product: ShortProduct, instruction: str) -> None:
    source, weight = random(3, 7, 96), torch.from_numpy(random(4, 48, 96))
    source[3] = 0
    weight[5] = 0
    result = product(instruction, source, weight)
    assert not result[3].any()
    assert not result[:, 5].any()
    assert np.isfinite(result).all()


@with_each(INT8)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    product: ShortProduct, instruction: str
) -> None:
    source, weight = random(7, 40, 200), torch.from_numpy(random(8, 64, 200))
    together = product(instruction, source, weight)
    for row in range(40):
        assert np.array_equal(product(instruction, source[row : row + 1], weight)[0], together[row])


def test_a_weight_that_is_not_finite_is_not_hidden() -> None:
    weight = torch.from_numpy(random(9, 3, 64))
    weight[1, 5] = torch.nan
    weight[2, 6] = torch.inf
    result = INT8(supported_instructions()[0], random(10, 2, 64), weight)
    assert np.isfinite(result).all(0).tolist() == [True, False, False]


def test_weights_lose_half_a_step_at_most() -> None:
    weight = torch.from_numpy(random(11, 50, 70)).bfloat16()
    steps, scales = quantize(weight)
    assert steps.abs().amax(1).eq(127).all()
    lost = (steps * scales.unsqueeze(1) - weight.float()).abs()
    assert (lost <= scales.unsqueeze(1) * 0.5001).all()
