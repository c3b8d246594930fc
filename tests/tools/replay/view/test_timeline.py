"""Bins of steps say what a plain loop over the steps says."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.tools.replay.index.tables import Steps
from tokenreel.tools.replay.view.recorded import Recorded
from tokenreel.tools.replay.view.timeline import bins_of, next_where


def steps_with(ids: list[int], **columns: list[int]) -> Steps:
    """Steps of which only some columns matter; the others count upwards."""
    others = {field.name: np.arange(len(ids)) for field in fields(Steps)}
    given_columns = {name: np.array(column) for name, column in columns.items()}
    return Steps(**others | {"step_id": np.array(ids, np.int64)} | given_columns)


def by_hand(steps: Steps, first: int, last: int, num_bins: int) -> list[list[int]]:
    """The rows in each bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    width = last - first + 1
    for row, step in enumerate(steps.step_id.tolist()):
        if first <= step <= last:
            edges = [first + number * width // num_bins for number in range(num_bins + 1)]
            place = max(number for number in range(num_bins) if edges[number] <= step)
            bins[place].append(row)
    return bins


IDS = st.lists(st.integers(1, 120), unique=True, min_size=1, max_size=60).map(sorted)


def test_the_last_step_counts_where_the_bins_behind_it_are_empty() -> None:
    steps = steps_with([1, 2, 3], num_tokens=[10, 20, 90])
    told = bins_of(steps, 1, 6, 2, np.array([], np.int64), 0)
    assert told["columns"]["tokens_max"] == [90, 0]


@given(IDS, st.integers(0, 130), st.integers(0, 130), st.integers(1, 40), st.randoms())
@settings(derandomize=True, deadline=None)
def test_bins_are_those_of_a_plain_loop(
    ids: list[int], one: int, other: int, num_bins: int, chance: Any
) -> None:
    first, last = min(one, other), max(one, other)
    tokens = [chance.randrange(1, 500) for _ in ids]
    preempted = [chance.randrange(3) for _ in ids]
    steps = steps_with(ids, num_tokens=tokens, num_preempted=preempted)
    divergent = np.array(sorted({chance.choice(ids) for _ in range(3)}))
    told = bins_of(steps, first, last, num_bins, divergent, 0)
    bins = by_hand(steps, first, last, told["bins"])
    columns = told["columns"]
    assert told["bins"] == min(num_bins, last - first + 1)
    assert columns["steps"] == [len(rows) for rows in bins]
    assert columns["tokens_max"] == [max((tokens[r] for r in rows), default=0) for rows in bins]
    assert columns["preempted"] == [sum(preempted[r] for r in rows) for rows in bins]
    assert columns["divergent"] == [sum(ids[r] in divergent for r in rows) for rows in bins]
    for place, rows in enumerate(bins):
        if rows:
            assert (columns["first"][place], columns["last"][place]) == (
                ids[rows[0]],
                ids[rows[-1]],
            )
            mean = sum(tokens[r] for r in rows) / len(rows)
            total = columns["prefill"][place] + columns["decode"][place]
            assert total == pytest.approx(mean, abs=0.02)


def test_a_journal_without_steps_has_empty_bins() -> None:
    told = bins_of(steps_with([]), 0, 10, 5, np.zeros(0, np.int64), 0)
    assert told["columns"]["steps"] == [0] * 5
    assert (told["max_tokens"], told["max_sequences"]) == (0, 0)


@given(IDS, st.integers(0, 130), st.booleans(), st.randoms())
@settings(derandomize=True, deadline=None)
def test_the_next_marked_step_is_the_nearest(
    ids: list[int], step: int, forward: bool, chance: Any
) -> None:
    marked = [chance.random() < 0.3 for _ in ids]
    candidates = [i for i, is_marked in zip(ids, marked, strict=True) if is_marked]
    nearest = (
        min((i for i in candidates if i > step), default=None)
        if forward
        else max((i for i in candidates if i < step), default=None)
    )
    assert next_where(steps_with(ids), np.array(marked), step, forward) == nearest


def test_a_bin_per_step_is_the_step(recorded: Recorded, states: dict[int, dict[str, Any]]) -> None:
    last = max(states)
    columns = recorded.bins(1, last, last)["columns"]
    assert columns["first"] == list(states)
    for place, state in enumerate(states.values()):
        assert columns["prefill"][place] == state["budget"]["prefill"]
        assert columns["decode"][place] == state["budget"]["decode"]
        assert columns["running"][place] == state["running"]["count"]
        assert columns["waiting"][place] == state["waiting"]["count"]
        assert columns["preempted"][place] == len(state["preempted"])
        counts = state["pool"]["counts"]
        assert columns["free"][place] == counts["free"] + counts["cached"]
