"""Draws tokens from rows of logits: softmax with temperature, top_k, top_p, min_p, inverse CDF.

The filters mean what actors/worker/sampling_filters.py says, ties included. They are thresholds,
found without sorting; where top_k or min_p is given only the tokens that can pass it are looked at
again. A row's token is a function of the row and its parameters alone.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled, inlined, part
from tokenreel.kernels.cpu.lane_selection import (
    collect_between,
    count_at_least,
    from_ordinal,
    load_first,
    ordinal,
)
from tokenreel.kernels.cpu.largest_logits import (
    CHUNK,
    collect_logits,
    first_equal,
    lane_peaks,
    num_chunks,
    reached_by,
    top_k_bound,
)
from tokenreel.kernels.cpu.philox import uniform
from tokenreel.kernels.cpu.team import Meeting, barrier, next_item
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    exp,
    load,
    store,
    sum_lanes,
    zero_below,
)

Array = NDArray[Any]

NOT_FINITE = -1
"""In place of a token where a row's largest logit is NaN or infinite."""
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-30, 1e38
"""Infinity times zero is not a number."""
_MARGIN = 1e-5
"""By which logits that min_p excludes at first glance lie below its limit: rounding is less."""
_HALVES = 4
"""The search for top_p's limit leaves tokens behind once only one in so many is in question."""


class Parameters(NamedTuple):
    """Of rows to draw from; all arrays are [n]. temperature 0 is the first of the largest logits;
    top_k 0, top_p 1 and min_p 0 exclude nothing."""

    temperature: Array
    """float32, as are top_p and min_p."""
    top_k: Array
    """int64"""
    top_p: Array
    min_p: Array
    seeds: Array
    """uint64"""
    indices: Array
    """uint64: which number of the seed's sequence decides."""


class RowScratch(NamedTuple):
    """What a thread needs to draw from one row; its contents mean nothing before or after."""

    peaks: Array
    values: Array
    spare: Array
    ids: Array
    sums: Array


def make_row_scratch(vocab_size: int) -> RowScratch:
    """For rows of up to `vocab_size` logits."""
    padded = num_chunks(vocab_size) * CHUNK
    return RowScratch(
        np.empty(padded // LANES, np.float32),
        np.empty(padded + LANES, np.float32),
        np.empty(padded + LANES, np.float32),
        np.empty(padded + LANES, np.int32),
        np.empty(padded // CHUNK, np.float64),
    )


@compiled
def sample_rows(
    rank: int,
    meeting: Meeting,
    logits: Array,
    size: int,
    parameters: Parameters,
    out: Array,
    scratches: tuple[RowScratch, ...],
) -> None:
    """For a team, whose items are rows: `sample_row` for each of `logits` [n, stride] float32.

    out [n] int64 gets the tokens; each thread has a scratch of its own.
    """
    while True:
        row = next_item(meeting, 0)
        if row >= len(out):
            break
        out[row] = sample_row(
            logits,
            row * logits.shape[1],
            size,
            parameters.temperature[row],
            parameters.top_k[row],
            parameters.top_p[row],
            parameters.min_p[row],
            uniform(parameters.seeds[row], parameters.indices[row]),
            scratches[rank],
        )
    barrier(meeting)


@part
def sample_row(logits, start, size, temperature, top_k, top_p, min_p, number, scratch):
    """The token that `number` [0, 1) float64 picks from the `size` float32 logits at `start`.

    The other parameters are those of `Parameters`. NOT_FINITE if the largest logit is.
    """
    peaks, values = scratch.peaks, scratch.values
    peak = lane_peaks(logits, start, size, peaks)
    if not math.isfinite(peak):
        return NOT_FINITE
    if temperature == 0.0:
        return first_equal(logits, start, size, peaks, peak)
    scale = np.float32(min(max(1.0 / temperature, _SMALLEST_SCALE), _LARGEST_SCALE))
    has_top_k = 0 < top_k < size
    if not has_top_k and min_p <= 0.0:
        lowest = np.float32(-np.inf)
        total = weigh(logits, start, size, peak, scale, lowest, np.float32(0.0), scratch)
        return _draw(size, total, top_p, number, scratch)

    limit = _min_p_limit(peak, temperature, min_p)
    if has_top_k:
        limit = max(limit, top_k_bound(peaks, size, top_k))
    count = collect_logits(logits, start, size, peaks, limit, values, scratch.ids)
    excess = 0
    if has_top_k and count > top_k:
        limit = reached_by(values, count, top_k, top_k)
        excess = -top_k
        for i in range(0, count, LANES):
            excess += count_at_least(load(values, i), limit)
    total = weigh(values, 0, count, peak, scale, limit, min_p, scratch)
    if excess > 0:
        # Ties of the last of the k may be drawn, but top_p is a share of k tokens.
        tied = sum_lanes(_weights(broadcast(limit), peak, scale, limit, min_p)) / LANES
        total -= excess * np.float64(tied)
    return scratch.ids[_draw(count, total, top_p, number, scratch)]


@inlined
def _min_p_limit(peak, temperature, min_p):
    """No logit below it has a weight of min_p."""
    if min_p <= 0.0:
        return np.float32(-np.inf)
    limit = peak - temperature * (_MARGIN - math.log(np.float64(min_p)))
    return np.float32(limit - _MARGIN * abs(limit))


@inlined
def _weights(logits, peak, scale, lowest, floor):
    """exp((logits - peak) * scale), or 0 for logits below `lowest` and weights below `floor`."""
    weights = exp((logits - broadcast(peak)) * broadcast(scale))
    kept = zero_below(logits, broadcast(lowest), weights)
    return zero_below(weights, broadcast(floor), kept)


@inlined
def weigh(logits, start, size, peak, scale, lowest, floor, scratch):
    """Puts the weights of `size` logits to scratch.values, filled up with zeros to a whole vector,
    and the sum of each chunk to scratch.sums; returns the sum of all. May work in place."""
    values, sums = scratch.values, scratch.sums
    total = 0.0
    for chunk in range(num_chunks(size)):
        begin, added = chunk * CHUNK, broadcast(0.0)
        if begin + CHUNK <= size:
            for i in range(begin, begin + CHUNK, LANES):
                weights = _weights(load(logits, start + i), peak, scale, lowest, floor)
                store(values, i, weights)
                added = added + weights
        else:
            for i in range(begin, size, LANES):
                part = load_first(logits, start + i, size - i, np.float32(-np.inf))
                weights = _weights(part, peak, scale, lowest, floor)
                store(values, i, weights)
                added = added + weights
        sums[chunk] = sum_lanes(added)
        total += sums[chunk]
    return total


@inlined
def _draw(size, total, top_p, number, scratch):
    """The index that `number` picks from the weights that `weigh` left, after top_p.

    `total` is the sum of which top_p is a share.
    """
    values, sums = scratch.values, scratch.sums
    floor = np.float32(0.0)
    if top_p < 1.0:
        floor = _top_p_floor(size, total, top_p, scratch)
        for chunk in range(num_chunks(size)):
            begin = chunk * CHUNK
            sums[chunk] = _sum_at_least(values, begin, min(begin + CHUNK, size), floor)[0]
    return _inverse_cdf(values, size, floor, sums, number)


@inlined
def _sum_at_least(values, begin, end, floor):
    """Sum and number of the values [begin, end) that are no less than `floor`; behind `end` there
    are zeros up to a whole vector. float32 over a chunk, float64 over chunks."""
    total, count = 0.0, 0
    for chunk in range(begin, end, CHUNK):
        added = broadcast(0.0)
        for i in range(chunk, min(chunk + CHUNK, end), LANES):
            vector = load(values, i)
            added = added + zero_below(vector, broadcast(floor), vector)
            count += count_at_least(vector, floor)
        total += sum_lanes(added)
    return total, count


@inlined
def _top_p_floor(size, total, top_p, scratch):
    """The largest weight that, with all that are larger, makes up `top_p` of `total`.

    Bisection over float32. Values on either side of the question are left behind in passing.
    """
    wanted = np.float64(top_p) * total
    # What is less than this adds up to less than the rest, and to half of that after rounding.
    low = ordinal(np.float32(0.5 * (total - wanted) / size))
    high = ordinal(np.float32(1.0)) + 1
    source, above = scratch.values, 0.0
    from_high, num_high, num_low = 0.0, 0, size
    while high - low > 1:
        middle = (low + high) >> 1
        added, count = _sum_at_least(source, 0, size, from_ordinal(middle))
        if above + added >= wanted:
            low, num_low = middle, count
        else:
            high, num_high, from_high = middle, count, added
        if size > CHUNK and (num_low - num_high) * _HALVES <= size:
            size = _narrow(source, size, from_ordinal(low), from_ordinal(high), scratch.spare)
            source, above = scratch.spare, above + from_high
            from_high, num_high, num_low = 0.0, 0, size
    return from_ordinal(low)


@inlined
def _narrow(source, size, low, high, target):
    """Puts what is in [low, high) side by side, with zeros up to a whole vector; how many."""
    count = 0
    for i in range(0, size, LANES):
        count = collect_between(load(source, i), low, high, target, count)
    store(target, count, broadcast(0.0))
    return count


@inlined
def _inverse_cdf(weights, size, floor, sums, number):
    """The first index at which the sum of the weights that reach `floor` exceeds number * total;
    at the latest the last that adds something. `sums` are those of the chunks."""
    total = 0.0
    for chunk in range(num_chunks(size)):
        total += sums[chunk]
    target = number * total
    before, cumulated, chosen = 0.0, 0.0, 0
    for chunk in range(num_chunks(size)):
        if sums[chunk] > 0.0:
            chosen, before = chunk, cumulated
            cumulated += sums[chunk]
            if cumulated > target:
                break
    # Rounding must not lead before the chunk: a token without weight could stand there first.
    target = max(target - before, 0.0)
    cumulated, last = 0.0, 0
    for i in range(chosen * CHUNK, min(chosen * CHUNK + CHUNK, size)):
        if weights[i] >= floor and weights[i] > 0.0:
            last = i
            cumulated += weights[i]
            if cumulated > target:
                break
    return last
