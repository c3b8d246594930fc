"""Lanes are counted, found and put side by side as NumPy does it."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from tokenreel.kernels.cpu import lane_selection
from tokenreel.kernels.cpu.lane_selection import (
    collect,
    collect_between,
    count_at_least,
    first_at_least,
    from_ordinal,
    load_first,
    ordinal,
)
from tokenreel.kernels.cpu.vector import load, store

Array = NDArray[Any]
VALUES = [-math.inf, -1.5, 0.0, 0.5, 2.0, math.inf, math.nan]


@njit
def _count(array, limit):  # type: ignore[no-untyped-def]
    vector = load(array, 0)
    return count_at_least(vector, limit), first_at_least(vector, limit)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    lanes=st.lists(st.sampled_from(VALUES), min_size=16, max_size=16),
    limit=st.sampled_from(VALUES[:-1]),
)
def test_lanes_that_reach_a_limit(lanes: list[float], limit: float) -> None:
    array = np.array(lanes, np.float32)
    reached = np.flatnonzero(array >= limit)
    expected = len(reached), reached[0] if len(reached) else 16
    assert _count(array, np.float32(limit)) == expected


@pytest.mark.parametrize("has_compress", [True, False])
def test_lanes_are_put_side_by_side(has_compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an instruction of AVX-512, and without it."""
    monkeypatch.setattr(lane_selection, "HAS_COMPRESS", has_compress)

    @njit
    def run(array, low, high, values, ids, between):  # type: ignore[no-untyped-def]
        count, num_between = 3, 0
        for i in range(0, len(array), 16):
            vector = load(array, i)
            count = collect(vector, low, i, values, ids, count)
            num_between = collect_between(vector, low, high, between, num_between)
        return count, num_between

    random = np.random.default_rng(0)
    array = random.choice(VALUES, 160).astype(np.float32)
    values, ids = np.zeros(200, np.float32), np.zeros(200, np.int32)
    between = np.zeros(200, np.float32)
    low, high = np.float32(-1.5), np.float32(2.0)
    count, num_between = run(array, low, high, values, ids, between)
    places = np.flatnonzero(array >= low)
    assert ids[3:count].tolist() == places.tolist()
    assert values[3:count].tolist() == array[places].tolist()
    assert not values[:3].any() and not values[count + 1 :].any() and not ids[count + 1 :].any()
    assert between[:num_between].tolist() == array[(array >= low) & (array < high)].tolist()


@njit
def _load_first(array, offset, count, out):  # type: ignore[no-untyped-def]
    store(out, 0, load_first(array, offset, count, -7.0))


@pytest.mark.parametrize("count", [-3, 0, 1, 15, 16, 20])
def test_lanes_behind_the_count_are_another_number(count: int) -> None:
    array, out = np.arange(20, dtype=np.float32), np.empty(16, np.float32)
    _load_first(array, 4, count, out)
    known = min(max(count, 0), 16)
    assert out.tolist() == [*range(4, 4 + known), *[-7.0] * (16 - known)]


@njit
def _ordinals(number):  # type: ignore[no-untyped-def]
    return ordinal(number), from_ordinal(ordinal(number))


def test_ordinals_count_the_numbers() -> None:
    numbers = [-math.inf, -3e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, math.inf]
    found = [_ordinals(np.float32(number)) for number in numbers]
    assert [back for _, back in found] == [np.float32(number) for number in numbers]
    ordinals = [integer for integer, _ in found]
    assert ordinals == sorted(set(ordinals))
    assert _ordinals(np.nextafter(np.float32(1), np.float32(2)))[0] == ordinals[-2] + 1
