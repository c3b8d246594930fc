"""Log-probabilities of a row: what normalizes it, and the most likely tokens in order."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled, inlined, part
from tokenreel.kernels.cpu.largest_logits import (
    collect_logits,
    lane_peaks,
    reached_by,
    top_k_bound,
)
from tokenreel.kernels.cpu.sampling import RowScratch, weigh
from tokenreel.kernels.cpu.team import Meeting, barrier, next_item

Array = NDArray[Any]


@compiled
def log_softmax_rows(
    rank: int,
    meeting: Meeting,
    logits: Array,
    size: int,
    rows: Array,
    num_top: Array,
    places: tuple[Array, Array, Array],
    scratches: tuple[RowScratch, ...],
) -> None:
    """For a team: `log_softmax_row` for each of `rows` [n] of `logits` [num_rows, stride].

    num_top [n]; places: log_sums [n, 2] float32, top_ids int64 and top float32 [n, most].
    """
    log_sums, top_ids, top = places
    while True:
        i = next_item(meeting, 0)
        if i >= len(rows):
            break
        log_softmax_row(
            logits,
            rows[i] * logits.shape[1],
            size,
            num_top[i],
            log_sums[i],
            top_ids[i],
            top[i],
            scratches[rank],
        )
    barrier(meeting)


@part
def log_softmax_row(logits, start, size, num_top, log_sum, top_ids, top, scratch):
    """The `num_top` <= size most likely tokens and their log-probabilities, the lowest of equals
    first, of the `size` float32 logits at `start`.

    log_sum [2] gets the largest logit and the logarithm of what the softmax divides by, to be
    subtracted one by one. Both are NaN, and the tops 0, if the largest is not finite.
    """
    peak = lane_peaks(logits, start, size, scratch.peaks)
    if not math.isfinite(peak):
        log_sum[:] = np.nan
        top_ids[:], top[:] = 0, 0.0
        return
    lowest = np.float32(-np.inf)
    one, zero = np.float32(1.0), np.float32(0.0)
    log_sum[0] = peak
    log_sum[1] = math.log(weigh(logits, start, size, peak, one, lowest, zero, scratch))
    if num_top == 0:
        return
    limit = top_k_bound(scratch.peaks, size, num_top)
    count = collect_logits(logits, start, size, scratch.peaks, limit, scratch.values, scratch.ids)
    _keep_first(count, num_top, scratch)
    _sort(scratch.values, scratch.ids, num_top)
    for i in range(num_top):
        top_ids[i] = scratch.ids[i]
        top[i] = scratch.values[i] - log_sum[0] - log_sum[1]


@inlined
def _keep_first(count, k, scratch):
    """The k largest of `count` values, of equals the first, are moved to the front."""
    values, ids = scratch.values, scratch.ids
    limit = reached_by(values, count, k, k)
    num_tied = k
    for i in range(count):
        num_tied -= values[i] > limit
    place = 0
    for i in range(count):
        is_tied = values[i] == limit and num_tied > 0
        if is_tied or values[i] > limit:
            num_tied -= is_tied
            values[place], ids[place] = values[i], ids[i]
            place += 1


@inlined
def _sort(values, ids, size):
    """Heapsort: the largest value first, and the lowest id of equal ones."""
    for root in range(size // 2 - 1, -1, -1):
        _sift(values, ids, root, size)
    for end in range(size - 1, 0, -1):
        values[0], values[end] = values[end], values[0]
        ids[0], ids[end] = ids[end], ids[0]
        _sift(values, ids, 0, end)


@inlined
def _sift(values, ids, root, size):
    """Lets the pair at `root` sink until no pair below it belongs behind it."""
    while 2 * root + 1 < size:
        child = 2 * root + 1
        if child + 1 < size and _is_behind(values, ids, child + 1, child):
            child += 1
        if not _is_behind(values, ids, child, root):
            return
        values[root], values[child] = values[child], values[root]
        ids[root], ids[child] = ids[child], ids[root]
        root = child


@inlined
def _is_behind(values, ids, a, b):
    return values[a] < values[b] or (values[a] == values[b] and ids[a] > ids[b])
