"""The largest of a row are found without a look beyond the row, which NaN would betray."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.largest_logits import (
    collect_logits,
    first_equal,
    lane_peaks,
    num_chunks,
    reached_by,
    top_k_bound,
)

_collect_logits = compiled(collect_logits)
_first_equal = compiled(first_equal)
_lane_peaks = compiled(lane_peaks)
_reached_by = compiled(reached_by)
_top_k_bound = compiled(top_k_bound)

Array = NDArray[Any]
SIZES = [1, 2, 15, 16, 17, 31, 255, 256, 257, 300, 511, 512, 1000, 4099]
START = 5


def make_row(size: int, seed: int, has_ties: bool = False) -> Array:
    """START NaN, `size` logits, some of them -inf, and more NaN."""
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal(size).astype(np.float32)
    if has_ties:
        logits = logits.round()
    logits[random.random(size) < 0.1] = -math.inf
    nan = np.full(START, math.nan, np.float32)
    return np.concatenate([nan, logits, nan, nan, nan, nan])


def peaks_of(row: Array, size: int) -> tuple[float, Array]:
    peaks = np.full(num_chunks(size) * 16, math.nan, np.float32)
    return _lane_peaks(row, START, size, peaks), peaks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_ties", [False, True])
def test_the_first_of_the_largest(size: int, has_ties: bool) -> None:
    for seed in range(5):
        row = make_row(size, seed, has_ties)
        logits = row[START : START + size]
        peak, peaks = peaks_of(row, size)
        assert peak == logits.max()
        assert _first_equal(row, START, size, peaks, peak) == logits.argmax()


@pytest.mark.parametrize("size", SIZES)
def test_nan_anywhere_is_the_largest(size: int) -> None:
    for place in {0, size // 2, size - 1}:
        row = make_row(size, 0)
        row[START + place] = math.nan
        assert math.isnan(peaks_of(row, size)[0])


def test_numbers_whose_sum_would_overflow_are_numbers() -> None:
    row = np.tile(np.array([3e38, -3e38], np.float32), 200)
    assert peaks_of(row, 300)[0] == np.float32(3e38)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 1000),
    k=st.integers(1, 5000),
    has_ties=st.booleans(),
)
def test_the_k_largest_are_collected_in_order(size: int, seed: int, k: int, has_ties: bool) -> None:
    k = min(k, size)
    row = make_row(size, seed, has_ties)
    logits = row[START : START + size]
    _, peaks = peaks_of(row, size)
    bound = _top_k_bound(peaks, size, k)
    values = np.full(size + 16, math.nan, np.float32)
    ids = np.full(size + 1, -1, np.int32)
    count = _collect_logits(row, START, size, peaks, bound, values, ids)
    assert k <= count
    assert ids[:count].tolist() == np.flatnonzero(logits >= bound).tolist()
    assert (values[:count] == logits[ids[:count]]).all()

    limit = _reached_by(values, count, k, k)
    kth = np.sort(logits)[-k]
    assert (values[:count] >= limit).tolist() == (values[:count] >= kth).tolist()
