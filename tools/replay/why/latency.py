"""Where a sequence's time went, from its arrival to its delivery: each nanosecond in one row."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec


class Row(NamedTuple):
    """A line of the table: `group` such as "decode", `what` in words."""

    group: str
    what: str


PREFILL = Row("prefill", "computing the prompt")
RECOMPUTE = Row("preempted", "computing again what was lost")
DECODE = Row("decode", "computing")
DECODE_BESIDE_PREFILL = Row("decode", "computing, beside prompt tokens of others")
NOT_BEGUN = Row("between", "its step was sent, the worker had not begun it")
HAND_OVER = Row("between", "from the worker to the core's next step")
DELIVERY = Row("delivery", "until the last text had left")

GROUPS = ("queued", "prefill", "decode", "preempted", "held up", "between", "delivery")
"""In the order of the table: "queued" is waiting before the first step, "preempted" waiting after a
preemption, "held up" waiting while it runs."""


class Interval(NamedTuple):
    from_ns: int
    to_ns: int
    row: Row


class Share(msgspec.Struct):
    """A sequence's part of a step: when the step was composed, when the worker had it, when the
    core had its result; 0 for what did not happen."""

    step_id: int
    row: Row
    composed_ns: int
    began_ns: int = 0
    ended_ns: int = 0
    completed_ns: int = 0


def spend(
    from_ns: int, finished_ns: int, to_ns: int, shares: Sequence[Share], waits: Iterable[Interval]
) -> dict[Row, int]:
    """Nanoseconds by row; their sum is `to_ns - from_ns`, exactly.

    Where a share computes, nothing else counts; where one is under way, no wait does. `shares` are
    in the order of their steps, on one clock (`on_one_clock`).
    """
    computing = [Interval(s.began_ns, s.ended_ns, s.row) for s in shares]
    queued, under_way = [], []
    for share in shares:
        under_way.append(Interval(share.composed_ns, share.completed_ns, HAND_OVER))
        queued.append(Interval(share.composed_ns, share.began_ns, NOT_BEGUN))
    layers = [[Interval(finished_ns, to_ns, DELIVERY)], computing, queued, under_way, waits]
    return _paint(from_ns, to_ns, layers, HAND_OVER)


def on_one_clock(shares: Iterable[Share], now_ns: int) -> bool:
    """Makes the shares, in the order of their steps, fit for `spend`: what is still open counts as
    computed until `now_ns`, from when the worker was done with the step before. False if the
    worker's clock is not the core's: then all of a step, from composition to completion, counts as
    computed."""
    is_one, idle_ns = True, 0
    for share in shares:
        if not share.completed_ns:
            share.began_ns = min(max(share.composed_ns, idle_ns), now_ns)
            share.ended_ns = share.completed_ns = now_ns
        elif not share.composed_ns <= share.began_ns <= share.ended_ns <= share.completed_ns:
            is_one = False
            share.began_ns, share.ended_ns = share.composed_ns, share.completed_ns
        idle_ns = share.ended_ns
    return is_one


def _paint(
    from_ns: int, to_ns: int, layers: Sequence[Iterable[Interval]], default: Row
) -> dict[Row, int]:
    """Each moment counts for the first layer that covers it."""
    changes: list[tuple[int, int, int, Row]] = []
    for depth, layer in enumerate(layers):
        for interval in layer:
            begin, end = max(from_ns, interval.from_ns), min(to_ns, interval.to_ns)
            if begin < end:
                changes += [(begin, 1, depth, interval.row), (end, -1, depth, interval.row)]
    changes.sort(key=lambda change: change[0])
    active: list[dict[Row, int]] = [{} for _ in layers]
    spent: dict[Row, int] = {}
    at_ns = from_ns
    for t_ns, change, depth, row in [*changes, (to_ns, 0, 0, default)]:
        if t_ns > at_ns:
            top = next((next(iter(rows)) for rows in active if rows), default)
            spent[top] = spent.get(top, 0) + t_ns - at_ns
            at_ns = t_ns
        if change:
            count = active[depth].get(row, 0) + change
            active[depth][row] = count
            if not count:
                del active[depth][row]
    return spent
