"""The screened argmax is the argmax of the logits as defined, whatever the weights and the rows."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreel.kernels.cpu.greedy_head import (
    MAX_ROWS,
    NOT_FINITE,
    exact_logit,
    greedy,
    head_item,
    make_greedy_head,
    make_greedy_rows,
    make_greedy_scratch,
    merge_row,
    num_head_items,
    take_row,
)
from tokenreel.kernels.cpu.vector import compiled

Array = NDArray[Any]


def draw(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def screened(hidden: Array, weights: Array) -> tuple[Array, Array]:
    head = make_greedy_head(weights)
    rows, scratch = make_greedy_rows(head), make_greedy_scratch()
    rows.shorts.fill(-1)
    rows.peaks.fill(np.nan)
    token_ids, peaks = np.empty(len(hidden), np.int64), np.empty(len(hidden), np.float32)
    greedy(hidden, len(hidden), head, rows, scratch, token_ids, peaks)
    return token_ids, peaks


@compiled
def every_logit(hidden, weights, out):  # type: ignore[no-untyped-def]
    depth = weights.shape[1]
    for row in range(len(hidden)):
        for token in range(len(weights)):
            out[row, token] = exact_logit(hidden, row * depth, weights, token, depth)


def defined(hidden: Array, weights: Array) -> Array:
    out = np.empty((len(hidden), len(weights)), np.float32)
    every_logit(hidden, weights, out)
    return out


def assert_exact(hidden: Array, weights: Array) -> None:
    """The first largest of the logits as defined, and its value to the bit."""
    token_ids, peaks = screened(hidden, weights)
    logits = defined(hidden, weights)
    is_finite = np.isfinite(logits.max(1))  # NaN if any is
    expected = np.where(is_finite, logits.argmax(1), NOT_FINITE)
    assert token_ids.tolist() == expected.tolist()
    assert peaks[is_finite].tolist() == logits.max(1)[is_finite].tolist()


@pytest.mark.parametrize("vocab_size", [1, 2, 63, 64, 65, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("depth", [16, 48, 128, 1040])
def test_it_finds_the_argmax(vocab_size: int, depth: int) -> None:
    weights = 0.02 * draw(vocab_size, depth, seed=vocab_size)
    for num_rows in (1, 3, 4, 5, MAX_ROWS):
        assert_exact(draw(num_rows, depth, seed=num_rows), weights)


@pytest.mark.parametrize("depth", [16, 128])
def test_logits_as_defined_are_those_of_the_products(depth: int) -> None:
    hidden, weights = draw(3, depth, seed=0), draw(70, depth, seed=1)
    exact = hidden.astype(np.float64) @ weights.astype(np.float64).T
    np.testing.assert_allclose(defined(hidden, weights), exact, rtol=1e-5, atol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 6),
    spread=st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2]),
    outlier=st.sampled_from([0.0, 1.0, 100.0]),
    scale=st.sampled_from([1.0, 1e-6, 1e6]),
    copies=st.integers(0, 5),
)
def test_close_rivals_and_outliers_do_not_mislead_it(
    seed: int, num_rows: int, spread: float, outlier: float, scale: float, copies: int
) -> None:
    """Rows of the weights differ by `spread` only, so that every logit is close to every other, and
    some are the same."""
    weights = draw(1, 32, seed=seed) + np.float32(spread) * draw(300, 32, seed=seed + 1)
    weights[seed % 300] *= np.float32(1.0000003)
    weights[np.random.default_rng(seed).integers(0, 300, copies)] = weights[seed % 300]
    hidden = draw(num_rows, 32, seed=seed + 2)
    hidden[0, 0] += outlier
    assert_exact(hidden * np.float32(scale), weights)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    hidden_power=st.integers(-40, 30),
    weight_powers=st.lists(st.integers(-44, 36), min_size=1, max_size=5),
)
def test_magnitudes_beyond_what_the_bounds_hold_for(
    seed: int, hidden_power: int, weight_powers: list[int]
) -> None:
    """Denormals, and sums that overflow: then all logits are looked at."""
    weights = draw(130, 16, seed=seed)
    for i, power in enumerate(weight_powers):
        weights[i * 20] *= np.float32(10.0**power)
    assert_exact(draw(2, 16, seed=seed + 1) * np.float32(10.0**hidden_power), weights)


def test_the_first_of_equals_wins_across_items() -> None:
    weights = np.zeros((4200, 16), np.float32)
    weights[[70, 71, 4199]] = 1.0
    ones = np.ones((2, 16), np.float32)
    assert screened(ones, weights)[0].tolist() == [70, 70]
    assert screened(-ones, weights)[0].tolist() == [0, 0]
    assert screened(0 * ones, weights)[0].tolist() == [0, 0]


def test_a_vocabulary_of_negative_logits_is_not_beaten_by_the_padding() -> None:
    weights = -1 - np.abs(draw(70, 16, seed=0))
    assert_exact(np.ones((1, 16), np.float32), weights)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_say_so_and_harm_nobody(bad: float) -> None:
    hidden, weights = draw(5, 32, seed=0), draw(3000, 32, seed=1)
    expected = screened(hidden, weights)[0].tolist()
    hidden[2, 31] = bad
    assert screened(hidden, weights)[0].tolist() == [*expected[:2], NOT_FINITE, *expected[3:]]


def test_a_token_without_numbers_spoils_every_row() -> None:
    hidden, weights = draw(2, 32, seed=0), draw(3000, 32, seed=1)
    weights[2500, 3] = math.nan
    assert screened(hidden, weights)[0].tolist() == [NOT_FINITE] * 2
    weights[2500] = -math.inf
    assert_exact(np.abs(hidden), weights)  # a token that is never the best


def test_a_row_is_the_same_alone_and_in_any_company_and_order_of_items() -> None:
    hidden, weights = draw(7, 64, seed=0), draw(9000, 64, seed=1)
    token_ids, peaks = screened(hidden, weights)
    head = make_greedy_head(weights)
    rows, scratch = make_greedy_rows(head), [make_greedy_scratch(), make_greedy_scratch()]
    for row in np.random.default_rng(0).permutation(7):
        take_row(row, hidden, head, rows)
    for item in np.random.default_rng(1).permutation(num_head_items(head)):
        head_item(item, hidden, 7, head, rows, scratch[item % 2])
    merged = [merge_row(row, head, rows) for row in range(7)]
    assert merged == list(zip(token_ids.tolist(), peaks.tolist(), strict=True))
    for row in range(7):
        alone = screened(hidden[row : row + 1], weights)
        assert (alone[0][0], alone[1][0]) == merged[row]
