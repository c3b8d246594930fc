"""Steps in bins: what a time line can draw of any range, however many steps it holds."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenreel.tools.replay.index.tables import Steps

Column = npt.NDArray[np.int64]


def bins_of(
    steps: Steps, first: int, last: int, num_bins: int, divergent: Column, origin_ns: int
) -> dict[str, Any]:
    """Steps `first` to `last`, in at most `num_bins` bins of equal width. Means are over the steps
    of a bin; where a bin has no steps, `first`, `last` and `t_s` say nothing and the rest is 0.
    `divergent` are step ids, in order; times are told since `origin_ns`."""
    num_bins = min(num_bins, last - first + 1)
    edges = first + (np.arange(num_bins + 1) * (last - first + 1)) // num_bins
    bounds = np.searchsorted(steps.step_id, edges)
    part = slice(int(bounds[0]), int(bounds[-1]))
    sums = _Sums(bounds - bounds[0])
    decode = _as_64(steps.num_decode_tokens[part])
    tokens = _as_64(steps.num_tokens[part])
    running, waiting = _as_64(steps.num_running[part]), _as_64(steps.num_waiting[part])
    step_id, t_ns = _never_empty(steps.step_id), _never_empty(steps.t_ns)
    starts = np.minimum(bounds[:-1], len(step_id) - 1)
    ends = np.maximum(bounds[1:] - 1, 0)
    columns = {
        "steps": sums.counts,
        "first": step_id[starts],
        "last": step_id[ends],
        "t_s": np.round((t_ns[starts] - origin_ns) / 1e9, 6),
        "prefill": sums.mean(tokens - decode),
        "decode": sums.mean(decode),
        "tokens_max": sums.maximum(tokens),
        "running": sums.mean(running),
        "waiting": sums.mean(waiting),
        "free": sums.mean(_as_64(steps.num_free_blocks[part])),
        "preempted": sums.total(_as_64(steps.num_preempted[part])),
        "missed": sums.total(_as_64(steps.num_missed_blocks[part])),
        "hit": sums.total(_as_64(steps.num_cached_tokens[part])),
        "divergent": np.diff(np.searchsorted(divergent, edges)),
    }
    return {
        "from": first,
        "until": last,
        "bins": num_bins,
        "max_tokens": int(tokens.max(initial=0)),
        "max_sequences": int(max(running.max(initial=0), waiting.max(initial=0))),
        "columns": {name: column.tolist() for name, column in columns.items()},
    }


def next_where(steps: Steps, marked: npt.NDArray[np.bool_], step: int, forward: bool) -> int | None:
    """The nearest step behind (or before) `step` of those marked."""
    found = np.flatnonzero(marked)
    ids = steps.step_id[found]
    place = int(np.searchsorted(ids, step, side="right" if forward else "left"))
    place = place if forward else place - 1
    return int(ids[place]) if 0 <= place < len(ids) else None


class _Sums:
    """Sums over consecutive pieces of a column, empty ones among them."""

    def __init__(self, bounds: Column) -> None:
        self._bounds = bounds
        self.counts = np.diff(bounds)

    def total(self, column: Column) -> Column:
        padded = np.concatenate(([0], np.cumsum(column)))
        return np.diff(padded[self._bounds])

    def mean(self, column: Column) -> npt.NDArray[np.float64]:
        return np.round(self.total(column) / np.maximum(self.counts, 1), 2)

    def maximum(self, column: Column) -> Column:
        """Of numbers that are not negative."""
        padded = np.concatenate((column, [0]))  # an empty piece at the end starts here
        found = np.maximum.reduceat(padded, self._bounds[:-1])
        return np.where(self.counts > 0, found, 0)


def _as_64(column: npt.NDArray[Any]) -> Column:
    return column.astype(np.int64)


def _never_empty(column: Column) -> Column:
    """For rows that stand for empty bins."""
    return column if len(column) else np.zeros(1, np.int64)
