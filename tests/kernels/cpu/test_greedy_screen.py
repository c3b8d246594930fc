"""The screened argmax is the argmax of all logits, whatever the weights and the rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreel.kernels.cpu.aligned import LINE
from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION, begin_tiles, end_tiles
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.finish import Keep, KeepLargest, finish
from tokenreel.kernels.cpu.greedy_screen import (
    MAX_ROUGH_DEPTH,
    KeepBound,
    best_of_panels,
    bound_panels,
    make_screens,
    new_screened_rows,
    screen_row,
    screens_bytes,
)
from tokenreel.kernels.cpu.int8_rows import row_bytes
from tokenreel.kernels.cpu.product import ROWS, pack, padded, sums
from tokenreel.kernels.cpu.row_blocks import PANEL

Array = NDArray[Any]
NOT_FINITE = -1


by_either_screen = pytest.mark.parametrize("is_rough", [False, True], ids=["fine", "rough"])


def draw(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@compiled
def multiply(rows, stride, num_rows, weights, target, place):  # type: ignore[no-untyped-def]
    for panel in range(len(weights)):
        for row in range(0, num_rows, ROWS):
            count = min(ROWS, num_rows - row)
            sums(rows, row, count, stride, weights, panel, place)
            finish(target, place, row, count, panel)


@compiled
def screen_all(  # type: ignore[no-untyped-def]
    rows,
    depth,
    num_rows,
    head,
    screens,
    screened,
    peaks,
    is_rough,
    vocab_size,
    place,
    tiles,
    token_ids,
    best,
):
    begin_tiles(tiles)
    for row in range(num_rows):
        screen_row(rows, depth, row, screened)
    fine, rough = screens.fine, screens.rough
    panels_stride = len(fine.norms)
    short, stride = screened.bytes, row_bytes(depth)
    if is_rough:
        bound = KeepBound(rough, screened, peaks, panels_stride)
        multiply(short, stride, num_rows, rough.weights, bound, place)
    else:
        target = KeepLargest(vocab_size, peaks, panels_stride)
        multiply(short, stride, num_rows, fine.weights, target, place)
    for row in range(num_rows):
        limit = np.float32(-np.inf) if is_rough else bound_panels(row, fine, screened, peaks)
        token_ids[row], best[row] = best_of_panels(
            row,
            rows,
            depth,
            head,
            fine,
            screened,
            peaks,
            limit,
            is_rough,
            vocab_size,
            place,
        )
    end_tiles()


@compiled
def bound_roughly(rows, depth, num_rows, bound, place):  # type: ignore[no-untyped-def]
    for row in range(num_rows):
        screen_row(rows, depth, row, bound.screened)
    stride = row_bytes(depth)
    multiply(bound.screened.bytes, stride, num_rows, bound.screen.weights, bound, place)


class Head:
    """A vocabulary [vocab_size, depth]."""

    def __init__(self, weights: Array) -> None:
        self.vocab_size, depth = weights.shape
        self._depth = padded(depth)
        self._packed = pack(torch.from_numpy(weights), for_amx=False)
        self._screens = make_screens(torch.from_numpy(weights))
        self._place = np.empty(ROWS * PANEL, np.float32)

    @property
    def has_rough_screen(self) -> bool:
        return len(self._screens.rough.weights) > 0

    def screened(self, hidden: Array, is_rough: bool = False) -> tuple[Array, Array]:
        """The tokens, NOT_FINITE where the largest logit is not, and the largest logits; by the
        fine screen alone, or by the rough one first."""
        num_rows = len(hidden)
        token_ids, best = np.empty(num_rows, np.int64), np.empty(num_rows, np.float32)
        space = padded(num_rows, ROWS)
        peaks = np.full(space * len(self._screens.fine.norms), -np.inf, np.float32)
        screen_all(
            self._rows(hidden),
            self._depth,
            num_rows,
            self._packed,
            self._screens,
            new_screened_rows(space, self._depth),
            peaks,
            is_rough,
            self.vocab_size,
            self._place,
            TILE_CONFIGURATION,
            token_ids,
            best,
        )
        return np.where(np.isfinite(best), token_ids, NOT_FINITE), best

    def rough_bounds(self, hidden: Array) -> Array:
        """[rows, panels]"""
        space, num_panels = padded(len(hidden), ROWS), len(self._packed)
        bounds = np.full((space, len(self._screens.fine.norms)), np.nan, np.float32)
        rows = new_screened_rows(space, self._depth)
        bound_roughly(
            self._rows(hidden),
            self._depth,
            len(hidden),
            KeepBound(self._screens.rough, rows, bounds.reshape(-1), bounds.shape[1]),
            self._place,
        )
        return bounds[: len(hidden), :num_panels]

    def logits(self, hidden: Array) -> Array:
        stride = len(self._packed) * PANEL
        out = np.empty(len(hidden) * stride, np.float32)
        target = Keep(np.empty(0, np.float32), out, stride)
        multiply(self._rows(hidden), self._depth, len(hidden), self._packed, target, self._place)
        return out.reshape(-1, stride)[:, : self.vocab_size]

    def _rows(self, hidden: Array) -> Array:
        rows = np.zeros((padded(len(hidden), ROWS), self._depth), np.float32)
        rows[: len(hidden), : hidden.shape[1]] = hidden
        return rows.reshape(-1)


def assert_exact(hidden: Array, weights: Array) -> None:
    """The first largest of all logits, and its value to the bit, by either screen."""
    head = Head(weights)
    logits = head.logits(hidden)
    is_finite = np.isfinite(logits.max(1))  # NaN if any is
    expected = np.where(is_finite, logits.argmax(1), NOT_FINITE)
    for is_rough in (False, True)[: 1 + head.has_rough_screen]:
        token_ids, best = head.screened(hidden, is_rough)
        assert token_ids.tolist() == expected.tolist()
        assert best[is_finite].tolist() == logits.max(1)[is_finite].tolist()


@pytest.mark.parametrize("vocab_size", [1, 2, 63, 64, 65, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("depth", [16, 48, 128, 576])
def test_it_finds_the_argmax(vocab_size: int, depth: int) -> None:
    weights = 0.02 * draw(vocab_size, depth, seed=vocab_size)
    for num_rows in (1, 3, 4, 5, 40):
        assert_exact(draw(num_rows, depth, seed=num_rows), weights)


@pytest.mark.parametrize("depth", [16, 80, MAX_ROUGH_DEPTH, MAX_ROUGH_DEPTH + 1])
def test_the_room_that_screens_take_is_known(depth: int) -> None:
    screens = make_screens(torch.from_numpy(draw(5000, depth, seed=0)))
    taken = sum(array.nbytes for screen in screens for array in screen)
    assert abs(taken / screens_bytes(5000, depth) - 1) < 0.01


def test_weights_of_4_bits_begin_with_a_cache_line() -> None:
    for vocab_size in (3000, 3100, 3200, 3300):
        rough = make_screens(torch.from_numpy(draw(vocab_size, 32, seed=0))).rough
        assert rough.weights.ctypes.data % LINE == 0


def test_a_deep_vocabulary_is_not_looked_at_in_4_bits() -> None:
    depths = (16, MAX_ROUGH_DEPTH, MAX_ROUGH_DEPTH + 1)
    assert [Head(draw(70, n, seed=0)).has_rough_screen for n in depths] == [True, True, False]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(1, MAX_ROUGH_DEPTH),
    vocab_size=st.integers(1, 400),
    scale=st.sampled_from([1.0, 1e-9, 1e9]),
)
def test_no_logit_exceeds_its_panels_rough_bound(
    seed: int, depth: int, vocab_size: int, scale: float
) -> None:
    hidden = np.float32(scale) * draw(3, depth, seed=seed)
    weights = draw(vocab_size, depth, seed=seed + 1) * draw(vocab_size, 1, seed=seed + 2)
    head = Head(weights)
    bounds = np.repeat(head.rough_bounds(hidden), PANEL, 1)[:, :vocab_size]
    logits = hidden.astype(np.float64) @ weights.T.astype(np.float64)
    assert (logits <= bounds).all()
    # Nor is it far above all of them, the padding's 0 included.
    norms = np.linalg.norm(hidden, axis=1) * np.linalg.norm(weights, axis=1).max()
    assert (bounds.max(1) - logits.max(1).clip(min=0) <= 0.2 * norms).all()


def test_what_a_row_loses_in_8_bits_is_bounded_too() -> None:
    """Nearly half a step everywhere, in one direction, with weights that lose next to nothing."""
    hidden = np.full((1, MAX_ROUGH_DEPTH), 0.49, np.float32)
    hidden[0, :2] = 0, 127
    weights = np.full((1, MAX_ROUGH_DEPTH), 7, np.float32)
    weights[0, :2] = 7.5, 0
    assert Head(weights).rough_bounds(hidden)[0, 0] >= (hidden @ weights.T).item()


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


@pytest.mark.parametrize(
    ("depth", "hidden", "rivals"),
    [
        (256, 3e38, {3: (1, 6e-11, 0.0), 40: (1, 7.5e-12, 0.499e-12)}),
        (16, 1.5e-12, {3: (8, 3.3e38, 0.0), 40: (8, 3.3e38, 3.3e38)}),
    ],
    ids=["rows", "tokens"],
)
def test_norms_that_no_number_holds(
    depth: int, hidden: float, rivals: dict[int, tuple[int, float, float]]
) -> None:
    """Of two tokens the first so many weights, and all others."""
    weights = np.zeros((70, depth), np.float32)
    for token_id, (count, first, others) in rivals.items():
        weights[token_id, :count], weights[token_id, count:] = first, others
    assert_exact(np.full((1, depth), hidden, np.float32), weights)


@by_either_screen
def test_the_first_of_equals_wins_across_panels(is_rough: bool) -> None:
    weights = np.zeros((4200, 16), np.float32)
    weights[[70, 71, 4199]] = 1.0
    ones, head = np.ones((2, 16), np.float32), Head(weights)
    assert head.screened(ones, is_rough)[0].tolist() == [70, 70]
    assert head.screened(-ones, is_rough)[0].tolist() == [0, 0]
    assert head.screened(0 * ones, is_rough)[0].tolist() == [0, 0]


def test_a_vocabulary_of_negative_logits_is_not_beaten_by_the_padding() -> None:
    weights = -1 - np.abs(draw(70, 16, seed=0))
    assert_exact(np.ones((1, 16), np.float32), weights)


@by_either_screen
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_say_so_and_harm_nobody(bad: float, is_rough: bool) -> None:
    hidden, head = draw(5, 32, seed=0), Head(draw(3000, 32, seed=1))
    expected = head.screened(hidden, is_rough)[0].tolist()
    hidden[2, 31] = bad
    found = head.screened(hidden, is_rough)[0].tolist()
    assert found == [*expected[:2], NOT_FINITE, *expected[3:]]


@by_either_screen
def test_a_token_without_numbers_spoils_every_row(is_rough: bool) -> None:
    hidden, weights = draw(2, 32, seed=0), draw(3000, 32, seed=1)
    weights[2500, 3] = math.nan
    assert Head(weights).screened(hidden, is_rough)[0].tolist() == [NOT_FINITE] * 2
    weights[2500] = -math.inf
    assert_exact(np.abs(hidden), weights)  # a token that is never the best


def test_a_row_is_the_same_alone_and_in_company() -> None:
    hidden, head = draw(40, 64, seed=0), Head(draw(9000, 64, seed=1))
    token_ids, best = head.screened(hidden)
    for row in range(0, 40, 7):
        alone = head.screened(hidden[row : row + 1], is_rough=True)
        assert (alone[0][0], alone[1][0]) == (token_ids[row], best[row])
