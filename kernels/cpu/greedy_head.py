"""The largest logit of a few rows, exactly, for a quarter of the reading that all logits cost.

The logit of a row h and a token's weights w is defined by one order of float32 operations: of 16
lanes, l adds h[i] * w[i] for i = l, l + 16, ... by fma, and `sum_lanes` adds up the lanes. See
`exact_logit`; whoever computes logits in another way must look at the closest tokens with it.

A copy of the weights in 8 bits and a row in 16 give integer products, which are off by a bounded
amount. With ^ for what is taken instead,

  |^h.^w - h.w|  <=  |^h - h| |^w|  +  |h| |^w - w|        (Cauchy and Schwarz)

so that the largest exact logit stands among those that reach, with this bound, the largest of what
the others are at least. Their logits are computed as defined. Bounds are measured at load, token by
token, rounding included.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.byte_dots import PAIR, TOKENS, dots_of_four, dots_of_one
from tokenreel.kernels.cpu.lane_selection import count_at_least
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    compiled,
    fma,
    largest_lane,
    load,
    magnitude,
    maximum,
    store,
    sum_lanes,
)

Array = NDArray[Any]

NOT_FINITE = -1
TOKENS_PER_ITEM = 2048
MAX_ROWS = 16
"""For more, a product in blocks of rows is faster."""
_ROWS_AT_ONCE = 4
_SMALLEST, _LARGEST = 1e-12, 1e12
"""The bounds hold for magnitudes between these: nothing overflows, or is flushed to zero."""
_ROUNDOFF = 2.0**-24
_ROUNDING = 1e-6
_SLACK = 1.01
"""For the rounding of the bounds themselves."""


class GreedyHead(NamedTuple):
    """Use `make_greedy_head`. Tokens are padded to whole groups of TOKENS."""

    weights: Array
    """[vocab_size, depth], as given."""
    bytes: Array
    """[num_groups, depth / 2, TOKENS, 2] int8"""
    scales: Array
    """[num_groups * TOKENS] float32: what 1 means in the bytes. Never 0; NaN where no token is."""
    bounds: Array
    """[num_groups] float32: how far a logit can be off, by its scale and the row's norm; infinite
    where tokens must be looked at in any case."""
    limit: int
    """The largest 16-bit number that a row may hold without an overflow of the sums."""


class GreedyRows(NamedTuple):
    """What is known of up to MAX_ROWS rows, and what the items have found; shared by threads."""

    shorts: Array
    """[MAX_ROWS, depth] int16"""
    norms: Array
    """[MAX_ROWS] float32, in units of what 1 means in `shorts`; infinite where the bounds do not
    hold, NaN where the row is not finite."""
    scales: Array
    """[MAX_ROWS] float32: how many units of `shorts` are 1; 0 where `norms` is not finite."""
    bests: Array
    """[MAX_ROWS] float32: the largest logit that some item has found. A thread may read it late,
    and then looks at more tokens than it must."""
    peaks: Array
    """[MAX_ROWS, num_items] float32"""
    token_ids: Array
    """[MAX_ROWS, num_items] int64"""


class GreedyScratch(NamedTuple):
    """A thread's own."""

    sums: Array
    uppers: Array
    """[MAX_ROWS, TOKENS_PER_ITEM] float32: what logits are at most."""
    lowers: Array
    """[MAX_ROWS, 16] float32: what the largest is at least."""


def make_greedy_head(weights: Array) -> GreedyHead:
    """weights [vocab_size, depth] float32, whose depth is a multiple of 16; kept as they are."""
    vocab_size, depth = weights.shape
    num_groups = -(-vocab_size // TOKENS)
    limit = min(2**15 - 1, (2**31 - 1) // (127 * depth))
    packed = np.zeros((num_groups, depth // PAIR, TOKENS, PAIR), np.int8)
    scales = np.full(num_groups * TOKENS, np.nan, np.float32)
    bounds = np.empty(num_groups, np.float32)
    for group in range(num_groups):
        first = group * TOKENS
        part = weights[first : first + TOKENS]
        steps, own = _quantize(part), slice(first, first + len(part))
        packed[group, :, : len(part)] = steps[0].reshape(len(part), -1, PAIR).transpose(1, 0, 2)
        scales[own], bounds[group] = steps[1], _bound_of(part, *steps, limit)
    return GreedyHead(weights, packed, scales, bounds, limit)


def _quantize(weights: Array) -> tuple[Array, Array]:
    """8 bits, and a float32 scale per token; nothing but zeros where that cannot be."""
    largest = np.abs(weights).max(1)
    is_held = (largest >= _SMALLEST) & (largest <= _LARGEST)
    scales = np.where(is_held, largest / np.float32(127), _SMALLEST).astype(np.float32)
    rounded = np.rint(np.where(is_held[:, None], weights, 0) / scales[:, None])
    return np.clip(rounded, -127, 127).astype(np.int8), scales


def _bound_of(weights: Array, taken: Array, scales: Array, limit: int) -> float:
    """In units of the scales, for a row whose norm is 1."""
    depth = weights.shape[1]
    with np.errstate(all="ignore"):
        exact = weights / scales[:, None].astype(np.float64)
        norm, taken_norm = np.linalg.norm(exact, axis=1), np.linalg.norm(taken, axis=1)
        lost = np.linalg.norm(taken - exact, axis=1)
    # Each of a row's numbers is off by half a step, and the largest of them is `limit` steps.
    row_error = 0.51 * math.sqrt(depth) / limit
    # Of the defined sum, and of the few operations on the integer one.
    rounding = (depth / LANES + 16) * _ROUNDOFF
    bounds = _SLACK * (lost + row_error * taken_norm + rounding * (norm + taken_norm))
    is_known = (taken_norm > 0) | (norm == 0)
    return float(np.where(is_known, np.maximum(bounds, _SMALLEST), np.inf).max())


def make_greedy_rows(head: GreedyHead) -> GreedyRows:
    depth, num_items = head.weights.shape[1], num_head_items(head)
    return GreedyRows(
        np.empty((MAX_ROWS, depth), np.int16),
        np.empty(MAX_ROWS, np.float32),
        np.empty(MAX_ROWS, np.float32),
        np.empty(MAX_ROWS, np.float32),
        np.empty((MAX_ROWS, num_items), np.float32),
        np.empty((MAX_ROWS, num_items), np.int64),
    )


def make_greedy_scratch() -> GreedyScratch:
    return GreedyScratch(
        np.empty((_ROWS_AT_ONCE, TOKENS), np.float32),
        np.empty((MAX_ROWS, TOKENS_PER_ITEM), np.float32),
        np.empty((MAX_ROWS, LANES), np.float32),
    )


@compiled
def greedy(
    hidden: Array,
    num_rows: int,
    head: GreedyHead,
    rows: GreedyRows,
    scratch: GreedyScratch,
    token_ids: Array,
    peaks: Array,
) -> None:
    """On one thread: for each of the first `num_rows` <= MAX_ROWS rows of `hidden` [n, depth]
    float32 the first token of the largest logit, or NOT_FINITE, and that logit."""
    for row in range(num_rows):
        take_row(row, hidden, head, rows)
    for item in range(num_head_items(head)):
        head_item(item, hidden, num_rows, head, rows, scratch)
    for row in range(num_rows):
        token_ids[row], peaks[row] = merge_row(row, head, rows)


@compiled
def exact_logit(hidden, place, weights, token, depth):
    """The logit of the row at `place` of `hidden`, as defined above."""
    total = broadcast(0.0)
    for i in range(0, depth, LANES):
        total = fma(load(hidden, place + i), load(weights, token * depth + i), total)
    return sum_lanes(total)


@compiled
def take_row(row, hidden, head, rows):
    """First phase, an item per row: rounds it to 16 bits and measures it."""
    depth = head.weights.shape[1]
    place = row * depth
    largest, squares, marks = broadcast(0.0), broadcast(0.0), broadcast(0.0)
    for i in range(place, place + depth, LANES):
        part = load(hidden, i)
        largest = maximum(magnitude(part), largest)
        squares = fma(part, part, squares)
        marks = fma(part, broadcast(0.0), marks)
    most, is_finite = largest_lane(largest), sum_lanes(marks) == 0.0
    scale = np.float32(0.0)
    rows.norms[row] = np.inf if is_finite else np.nan
    if is_finite and _SMALLEST <= most <= _LARGEST:
        scale = np.float32(head.limit / most)
        rows.norms[row] = math.sqrt(sum_lanes(squares)) * scale
    rows.scales[row], rows.bests[row] = scale, -np.inf
    for i in range(depth):
        number = hidden.flat[place + i] * scale if scale > 0.0 else np.float32(0.0)
        rows.shorts[row, i] = np.int16(math.floor(number + np.float32(0.5)))


@compiled
def num_head_items(head):
    return (head.weights.shape[0] + TOKENS_PER_ITEM - 1) // TOKENS_PER_ITEM


@compiled
def head_item(item, hidden, num_rows, head, rows, scratch):
    """Second phase, after all rows are taken: the best of a range of tokens for every row."""
    vocab_size = head.weights.shape[0]
    begin = item * TOKENS_PER_ITEM
    end = min(begin + TOKENS_PER_ITEM, vocab_size)
    for row in range(num_rows):
        store(scratch.lowers, row * LANES, broadcast(-np.inf))
    for token in range(begin, end, TOKENS):
        group = token // TOKENS
        row = 0
        while row < num_rows:
            if row + _ROWS_AT_ONCE <= num_rows:
                dots_of_four(head.bytes, group, rows.shorts, row, scratch.sums)
                count = _ROWS_AT_ONCE
            else:
                dots_of_one(head.bytes, group, rows.shorts, row, scratch.sums)
                count = 1
            for i in range(count):
                _bound(i, row + i, token, token - begin, head, rows, scratch)
            row += count
    for row in range(num_rows):
        _look_closely(row, item, begin, end, hidden, head, rows, scratch)


@compiled
def _bound(i, row, token, column, head, rows, scratch):
    """From the sums of row `i` of the block: what the logits of TOKENS tokens are at most, and what
    the largest is at least, in the row's units."""
    error = broadcast(rows.norms[row] * head.bounds[token // TOKENS])
    lower = load(scratch.lowers, row * LANES)
    for j in range(0, TOKENS, LANES):
        sums, scales = load(scratch.sums, i * TOKENS + j), load(head.scales, token + j)
        store(scratch.uppers, row * TOKENS_PER_ITEM + column + j, (sums + error) * scales)
        lower = maximum((sums - error) * scales, lower)
    store(scratch.lowers, row * LANES, lower)


@compiled
def _look_closely(row, item, begin, end, hidden, head, rows, scratch):
    """The exact logits of the tokens that may be the best."""
    depth = head.weights.shape[1]
    best, best_id = np.float32(-np.inf), begin
    limit = largest_lane(load(scratch.lowers, row * LANES))
    if rows.scales[row] > 0.0 and rows.bests[row] > -np.inf:
        found = rows.bests[row] * rows.scales[row]
        limit = max(limit, found - np.float32(_ROUNDING) * abs(found))
    for i in range(0, end - begin, LANES):
        place = row * TOKENS_PER_ITEM + i
        if count_at_least(load(scratch.uppers, place), limit) == 0:
            continue
        for column in range(i, min(i + LANES, end - begin)):
            if scratch.uppers[row, column] >= limit:
                logit = exact_logit(hidden, row * depth, head.weights, begin + column, depth)
                # No comparison with NaN is true: once there, it stays.
                if logit > best or math.isnan(logit):
                    best, best_id = logit, begin + column
    rows.peaks[row, item], rows.token_ids[row, item] = best, best_id
    if best > rows.bests[row]:
        rows.bests[row] = best


@compiled
def merge_row(row, head, rows):
    """Third phase, after all items: the token of the largest logit, and that logit."""
    best, best_id = np.float32(-np.inf), 0
    for item in range(num_head_items(head)):
        peak = rows.peaks[row, item]
        if peak > best or math.isnan(peak):
            best, best_id = peak, rows.token_ids[row, item]
    return (best_id if math.isfinite(best) else NOT_FINITE), best
