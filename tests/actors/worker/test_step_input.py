"""Entries and rows become arrays in which every token knows its place, or nothing happens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.worker.step_input import (
    Extent,
    Rows,
    StepInput,
    entries_of,
    make_step_input,
    measure,
)
from tokenreel.messages.ids import Row, SeqId
from tokenreel.messages.steps import ScheduledSequence

NUM_ROWS, MAX_LEN = 5, 40
BOUNDS = np.array([(1, (1 << 63) - 1), (0, NUM_ROWS - 1), (0, MAX_LEN), (1, MAX_LEN), (0, 1)])


def new_rows(block_size: int) -> Rows:
    rng = np.random.default_rng(block_size)
    max_blocks = -(-MAX_LEN // block_size)
    return Rows(
        seq_ids=np.arange(NUM_ROWS) + 100,
        tokens=rng.integers(0, 1000, (NUM_ROWS, MAX_LEN + 1)).astype(np.int32),
        num_known=np.full(NUM_ROWS, MAX_LEN - 3),
        room=np.full(NUM_ROWS, MAX_LEN),
        tables=rng.permutation(NUM_ROWS * max_blocks).reshape(NUM_ROWS, -1).astype(np.int32),
        last_sampled=np.full(NUM_ROWS, -1),
    )


def entry(row: int, start: int, length: int, num_logits: int = 1) -> ScheduledSequence:
    return ScheduledSequence(SeqId(100 + row), Row(row), start, length, num_logits, [])


def extent_of(entries: Any) -> Extent | None:
    return measure(entries, BOUNDS, np.zeros(NUM_ROWS, np.bool_))


@st.composite
def steps(draw: st.DrawFn) -> list[ScheduledSequence]:
    rows = draw(st.permutations(range(NUM_ROWS)))[: draw(st.integers(1, NUM_ROWS))]
    is_decode = draw(st.booleans())
    step = []
    for row in rows:
        start = draw(st.integers(0, MAX_LEN - 4))
        length = 1 if is_decode else draw(st.integers(1, MAX_LEN - 3 - start))
        step.append(entry(row, start, length, draw(st.integers(0, 1))))
    return step


@settings(derandomize=True, deadline=None, max_examples=150)
@given(scheduled=steps(), block_size=st.sampled_from([1, 3, 16]), is_async=st.booleans())
def test_each_token_is_taken_from_its_row_and_goes_to_its_rows_block(
    scheduled: list[ScheduledSequence], block_size: int, is_async: bool
) -> None:
    rows, before = new_rows(block_size), new_rows(block_size)
    entries = entries_of(scheduled)
    extent = extent_of(entries)
    lengths = [e.num_tokens for e in scheduled]
    ends = np.array([e.start + e.num_tokens for e in scheduled])
    has_logits = np.array([e.num_logits == 1 for e in scheduled])
    assert extent == (sum(lengths), has_logits.sum(), max(lengths), ends.max())
    step = make_step_input(entries, extent, rows, block_size, is_async)
    assert isinstance(step, StepInput)

    owners = np.repeat([e.row for e in scheduled], lengths)
    positions = np.concatenate([np.arange(e.start, e.start + e.num_tokens) for e in scheduled])
    assert step.positions.tolist() == positions.tolist()
    assert step.token_ids.tolist() == before.tokens[owners, positions].tolist()
    assert (step.slot_mapping // block_size).tolist() == [
        before.tables[row, position // block_size]
        for row, position in zip(owners, positions, strict=True)
    ]
    assert (step.slot_mapping % block_size).tolist() == (positions % block_size).tolist()
    assert step.query_start_loc.tolist() == [0, *np.cumsum(lengths)]
    assert step.context_lens.tolist() == ends.tolist()
    num_blocks = -(-ends.max() // block_size)
    own_rows = [e.row for e in scheduled]
    assert step.block_tables.tolist() == before.tables[own_rows, :num_blocks].tolist()
    assert step.logit_indices.tolist() == (np.cumsum(lengths) - 1)[has_logits].tolist()
    assert step.sampled_rows.tolist() == np.array(own_rows)[has_logits].tolist()
    assert step.sampled_seq_ids.tolist() == (np.array(own_rows) + 100)[has_logits].tolist()
    assert step.sampled_indices.tolist() == ends[has_logits].tolist()
    assert set(step.feedback_rows.tolist()) == {-1}
    sampled = step.sampled_rows
    assert rows.num_known[sampled].tolist() == (ends[has_logits] + 1).tolist()
    assert rows.last_sampled[sampled].tolist() == (
        ends[has_logits].tolist() if is_async else [-1] * len(sampled)
    )


def test_a_token_that_is_not_known_here_is_fed_back_on_the_device() -> None:
    rows = new_rows(16)
    first, second = entries_of([entry(2, 5, 4)]), entries_of([entry(1, 9, 1), entry(2, 9, 1)])
    for entries in (first, second):
        step = make_step_input(entries, extent_of(entries) or pytest.fail(), rows, 16, True)
        assert isinstance(step, StepInput)
    assert step.feedback_rows.tolist() == [-1, 2]


@pytest.mark.parametrize(
    "odd",
    [
        ScheduledSequence(SeqId(99), Row(1), 0, 4, 1, []),
        ScheduledSequence(SeqId(101), Row(1), MAX_LEN - 3, 1, 1, []),
    ],
    ids=["another's row", "a token nobody knows"],
)
def test_what_does_not_fit_is_pointed_out_and_changes_nothing(odd: ScheduledSequence) -> None:
    rows, before = new_rows(4), new_rows(4)
    entries = entries_of([entry(0, 0, 3), odd, entry(3, 2, 9)])
    fits = make_step_input(entries, extent_of(entries) or pytest.fail(), rows, 4, True)
    assert isinstance(fits, np.ndarray)
    assert fits.tolist() == [True, False, True]
    assert all(np.array_equal(*pair) for pair in zip(rows, before, strict=True))


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, 0, 1, 1),
        (101, -1, 0, 1, 1),
        (101, NUM_ROWS, 0, 1, 1),
        (101, 1, -1, 1, 1),
        (101, 1, 0, 0, 1),
        (101, 1, 0, MAX_LEN + 1, 1),
        (101, 1, 0, 1, 2),
        (101, 0, 4, 1, 1),
    ],
)
def test_what_makes_no_sense_has_no_extent(numbers: tuple[int, ...]) -> None:
    is_taken = np.zeros(NUM_ROWS, np.bool_)
    good = (100, 0, 3, 1, 1)
    assert measure(np.array([good]), BOUNDS, is_taken) == (1, 1, 1, 4)
    assert measure(np.array([good, numbers]), BOUNDS, is_taken) is None
    assert not is_taken.any()
