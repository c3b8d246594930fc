"""A row's token: what it may be at the edges, and of which memory it is a function."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.sampling import (
    NOT_FINITE,
    Parameters,
    make_row_scratch,
    sample_row,
    sample_rows,
)
from tokenreel.kernels.cpu.team import Team

_sample_row = compiled(sample_row)

Array = NDArray[Any]
BELOW_ONE = 1 - 2.0**-53


def token_of(
    logits: Array,
    number: float,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    start: int = 3,
) -> int:
    """With NaN around the row, and in the scratch."""
    row = np.full(start + len(logits) + 40, math.nan, np.float32)
    row[start : start + len(logits)] = logits
    scratch = make_row_scratch(len(logits))
    for array in scratch:
        array.fill(-1 if array.dtype == np.int32 else math.nan)
    shares = np.float32(temperature), np.int64(top_k), np.float32(top_p), np.float32(min_p)
    token: int = _sample_row(row, start, len(logits), *shares, number, scratch)
    return token


def log_weights(weights: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(weights).astype(np.float32)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    shares=st.lists(st.tuples(st.integers(0, 699), st.floats(1e-30, 1.0)), min_size=1, max_size=9),
    place=st.integers(0, 9),
)
def test_no_number_leads_to_a_token_without_weight(
    shares: list[tuple[int, float]], place: int
) -> None:
    """Not even one on the edge between two tokens, nor the last below 1."""
    weights = np.zeros(700)
    for token_id, share in shares:
        weights[token_id] = share
    cumulated = weights.cumsum()
    edges = np.unique(cumulated / cumulated[-1])
    number = min(float(edges[place % len(edges)]), BELOW_ONE) if place else BELOW_ONE
    assert weights[token_of(log_weights(weights), number)] > 0


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    weights=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 8.0, 20.0]), min_size=1, max_size=700),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([1.0, 0.97, 0.83, 0.51, 0.03]),
    min_p=st.sampled_from([0.0, 0.07, 0.3]),
)
def test_what_may_be_drawn_is_as_defined_ties_included(
    weights: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    """min_p, then top_k, then top_p of the k largest; what ties with the last one kept is kept."""
    exact = np.array(weights)
    if not exact.any():
        exact[0] = 1.0
    kept = np.where(exact >= min_p * exact.max() * (1 - 1e-6), exact, 0)
    order = np.sort(kept)[::-1]
    if 0 < top_k < len(order):
        order = order[:top_k]
    last = np.flatnonzero(order.cumsum() >= top_p * order.sum() * (1 - 1e-6))[0]
    expected = np.flatnonzero((kept >= order[last]) & (kept > 0))
    share = kept[expected].cumsum() / kept[expected].sum()
    centres = share - kept[expected] / kept[expected].sum() / 2
    found = {
        token_of(log_weights(exact), centre, top_k=top_k, top_p=top_p, min_p=min_p)
        for centre in centres
    }
    assert found == set(expected.tolist())


@pytest.mark.parametrize("size", [1, 16, 255, 257, 4099])
def test_a_flat_row_is_cut_into_equal_shares(size: int) -> None:
    """Every token has its place, in vocabulary order."""
    flat = np.full(size, -7.5, np.float32)
    numbers = (np.arange(size) + 0.5) / size
    assert [token_of(flat, number) for number in numbers] == list(range(size))


def test_where_a_row_lies_does_not_matter() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for number in np.linspace(0, BELOW_ONE, 30):
        filters = {"top_k": 90, "top_p": 0.8, "min_p": 0.01}
        assert len({token_of(logits, number, start=s, **filters) for s in (0, 1, 16, 37)}) == 1
        assert len({token_of(logits, number, top_p=0.8, start=s) for s in (0, 1, 16, 37)}) == 1


def test_a_team_draws_what_one_thread_does() -> None:
    random, num_rows, size = np.random.default_rng(0), 23, 3000
    logits = random.standard_normal((num_rows, size + 8)).astype(np.float32)
    parameters = Parameters(
        random.choice([0.0, 0.7], num_rows).astype(np.float32),
        random.choice([0, 40], num_rows),
        random.choice([1.0, 0.8], num_rows).astype(np.float32),
        random.choice([0.0, 0.1], num_rows).astype(np.float32),
        np.arange(num_rows, dtype=np.uint64),
        np.full(num_rows, 7, np.uint64),
    )
    alone, together = np.full((2, num_rows), -7)
    scratches = make_row_scratch(size), make_row_scratch(size)
    team = Team(2, 1)
    for out in (alone, together):
        arguments = logits, size, parameters, out, scratches
        team.run(sample_rows, *arguments, alone=out is alone)
    team.close()
    assert together.tolist() == alone.tolist()


def test_temperature_zero_is_the_first_of_the_largest() -> None:
    logits = np.zeros(700, np.float32)
    logits[[300, 301, 650]] = 1.0
    assert token_of(logits, 0.9, temperature=0.0) == 300


@pytest.mark.parametrize("temperature", [1e-40, 1e-30, 1e-3])
def test_a_temperature_near_zero_is_not_beyond_it(temperature: float) -> None:
    logits = np.linspace(-5, 5, 700, dtype=np.float32)
    for filters in ({}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}):
        assert token_of(logits, BELOW_ONE, temperature=temperature, **filters) == 699


@pytest.mark.parametrize("temperature", [1e30, math.inf])
def test_without_end_to_the_temperature_all_that_is_not_masked_is_alike(temperature: float) -> None:
    logits = np.linspace(-5, 5, 10, dtype=np.float32)
    logits[[0, 9]] = -math.inf
    numbers = (np.arange(8) + 0.5) / 8
    found = [token_of(logits, number, temperature=temperature) for number in numbers]
    assert found == list(range(1, 9))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_not_finite_say_so(temperature: float) -> None:
    logits = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    for bad in (math.nan, math.inf):
        spoilt = logits.copy()
        spoilt[299] = bad
        assert token_of(spoilt, 0.5, temperature=temperature) == NOT_FINITE
        assert token_of(spoilt, 0.5, temperature=temperature, top_k=3) == NOT_FINITE
    masked = np.full(300, -math.inf, np.float32)
    assert token_of(masked, 0.5, temperature=temperature) == NOT_FINITE
