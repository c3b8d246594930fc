"""Vectors hold what PyTorch would compute, and keep what is not a number."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    exp,
    first_lanes,
    largest_or_nan,
    load,
    store,
    sum_lanes,
)

Array = NDArray[Any]
SPECIAL = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    1e-45,
    1e38,
    3.4e38,
    1.00390625,
    65504.0,
    65520,
]


@compiled
def copy(source, target):  # type: ignore[no-untyped-def]
    for i in range(0, source.size, LANES):
        store(target, i, load(source, i))


@compiled
def all_exp(source, target):  # type: ignore[no-untyped-def]
    for i in range(0, source.size, LANES):
        store(target, i, exp(load(source, i)))


@compiled
def keep_first(source, count, other, target):  # type: ignore[no-untyped-def]
    store(target, 0, first_lanes(load(source, 0), count, broadcast(other)))


@compiled
def fold(source):  # type: ignore[no-untyped-def]
    vector = load(source, 0)
    return sum_lanes(vector), largest_or_nan(vector, load(source, LANES))


def draw(size: int) -> Array:
    numbers = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    numbers *= np.float32(10.0) ** np.random.default_rng(1).integers(-30, 30, size)
    numbers[: len(SPECIAL)] = SPECIAL
    return numbers


@pytest.mark.parametrize(
    ("dtype", "integers"), [(torch.bfloat16, np.uint16), (torch.float16, np.int16)]
)
def test_sixteen_bits_are_rounded_and_widened_as_by_pytorch(
    dtype: torch.dtype, integers: type[np.generic]
) -> None:
    numbers = draw(4096)
    narrow, wide = np.empty(4096, integers), np.empty(4096, np.float32)
    copy(numbers, narrow)
    expected = torch.from_numpy(numbers).to(dtype)
    found = torch.from_numpy(narrow.view(np.int16)).view(dtype)
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    copy(narrow, wide)
    assert torch.equal(torch.from_numpy(wide).nan_to_num(7.0), found.float().nan_to_num(7.0))


def test_the_exponential_is_good_to_the_last_digits() -> None:
    x = np.linspace(-86, 88, 1 << 14).astype(np.float32)
    found = np.empty_like(x)
    all_exp(x, found)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=1.5e-7)


def test_the_exponential_of_what_is_no_number_is_none_and_of_much_less_than_zero_is_zero() -> None:
    x = np.array([math.nan, -math.inf, -3e38, -88.0] * 4, np.float32)
    found = np.full(LANES, math.nan, np.float32)
    all_exp(x, found)
    assert np.isnan(found[0::4]).all()
    assert not found[1::4].any() and not found[2::4].any() and not found[3::4].any()


@pytest.mark.parametrize("count", [-5, 0, 1, 15, 16, 40])
def test_lanes_behind_the_first_are_replaced(count: int) -> None:
    numbers = np.arange(LANES, dtype=np.float32)
    found = np.full(LANES, math.nan, np.float32)
    keep_first(numbers, count, np.float32(-1.0), found)
    kept = min(max(count, 0), LANES)
    assert found.tolist() == [*range(kept), *[-1.0] * (LANES - kept)]


def test_halves_are_added_to_halves() -> None:
    numbers = draw(2 * LANES)
    numbers[: 2 * LANES] = np.random.default_rng(2).standard_normal(2 * LANES)
    halves = numbers[:LANES]
    while len(halves) > 1:
        halves = halves[: len(halves) // 2] + halves[len(halves) // 2 :]
    total, largest = fold(numbers)
    assert total == halves[0]
    assert largest == numbers.max()
    numbers[20] = math.nan
    assert math.isnan(fold(numbers)[1])
