"""The largest of a row of logits: the first, or all that come into question for the k largest.

Nothing is sorted. A value that at least k logits reach is found by bisection over a few of them
(the largest of each sixteen), and what reaches it is put side by side.
"""

import math

import numpy as np
from numba.extending import register_jitable

from tokenreel.kernels.cpu.compiler import PART, part
from tokenreel.kernels.cpu.lane_selection import (
    collect,
    count_at_least,
    first_at_least,
    from_ordinal,
    load_first,
    mark_nan,
    ordinal,
)
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    largest_lane,
    load,
    maximum,
    store,
    sum_lanes,
)

CHUNK = 256
"""Logits of which one vector of peaks is kept: the largest of every sixteenth."""
_LOWEST = -float("inf")


@register_jitable(**PART)
def num_chunks(size):
    return (size + CHUNK - 1) // CHUNK


@part
def lane_peaks(logits, start, size, peaks):
    """The largest of the `size` logits at `start`: NaN if any of them is, -inf if there are none.

    `peaks` [num_chunks(size) * 16] gets the largest of each lane of each chunk.
    """
    lowest = broadcast(_LOWEST)
    largest = lowest
    marks = broadcast(0.0)
    for chunk in range(num_chunks(size)):
        begin = chunk * CHUNK
        peak = lowest
        if begin + CHUNK <= size:
            for i in range(start + begin, start + begin + CHUNK, 2 * LANES):
                a, b = load(logits, i), load(logits, i + LANES)
                marks = mark_nan(marks, a, b)
                peak = maximum(maximum(a, b), peak)
        else:
            for i in range(begin, size, LANES):
                a = load_first(logits, start + i, size - i, _LOWEST)
                marks = mark_nan(marks, a, a)
                peak = maximum(a, peak)
        store(peaks, chunk * LANES, peak)
        largest = maximum(peak, largest)
    return largest_lane(largest) + sum_lanes(marks)


@part
def first_equal(logits, start, size, peaks, peak):
    """The number of the first logit that equals `peak`, the largest."""
    for chunk in range(num_chunks(size)):
        if count_at_least(load(peaks, chunk * LANES), peak) > 0:
            begin = chunk * CHUNK
            for i in range(begin, min(begin + CHUNK, size), LANES):
                lane = first_at_least(load_first(logits, start + i, size - i, _LOWEST), peak)
                if lane < LANES:
                    return i + lane
    return 0


@part
def collect_logits(logits, start, size, peaks, limit, values, ids):
    """Logits no less than `limit` and their numbers, in order; how many there are.

    `values` [size + 16] is filled up with -inf to a whole vector; `ids` [size + 1].
    """
    count = 0
    for chunk in range(num_chunks(size)):
        if count_at_least(load(peaks, chunk * LANES), limit) > 0:
            begin = chunk * CHUNK
            for i in range(begin, min(begin + CHUNK, size), LANES):
                # What stands for a lane behind the end must reach no limit, not even -inf.
                vector = load_first(logits, start + i, size - i, math.nan)
                if count_at_least(vector, limit) > 0:
                    count = collect(vector, limit, i, values, ids, count)
    store(values, count, broadcast(_LOWEST))
    return count


@part
def reached_by(values, size, wanted, most):
    """A number that at least `wanted` of `values` reach, and no more than `most` unless equals do
    not allow it: then it is the wanted-th largest of them.

    `values` [size] are no NaN and followed by -inf up to a whole vector. Bisection over all
    float32: at most 32 passes.
    """
    low, high = ordinal(_LOWEST), ordinal(-_LOWEST) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        limit = from_ordinal(middle)
        count = 0
        for i in range(0, size, LANES):
            count += count_at_least(load(values, i), limit)
        if count < wanted:
            high = middle
        else:
            low = middle
            if count <= most:
                break
    return from_ordinal(low)


@part
def top_k_bound(peaks, size, k):
    """A number that at least k of a row's `size` logits reach, and rarely many more."""
    num_peaks = num_chunks(size) * LANES
    return reached_by(peaks, num_peaks, k, 2 * k) if k <= num_peaks else np.float32(_LOWEST)
