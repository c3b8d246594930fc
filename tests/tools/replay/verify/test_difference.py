"""Two values that differ are told apart at the first place where they do."""

from typing import Any

import msgspec
import pytest

from tokenreel.messages.ids import Row, SeqId, StepId
from tokenreel.messages.steps import ScheduledSequence, StepScheduled
from tokenreel.tools.replay.verify.difference import ABSENT, Difference, first_difference


def step(num_tokens: int = 1, rows: tuple[int, ...] = ()) -> StepScheduled:
    share = ScheduledSequence(SeqId(1), Row(0), 0, num_tokens, 1, [])
    return StepScheduled(StepId(1), [], [Row(row) for row in rows], [share])


@pytest.mark.parametrize(
    ("recorded", "replayed", "expected"),
    [
        (step(), step(), None),
        (step(1), step(2), Difference("scheduled[0].num_tokens", 1, 2)),
        (step(1, (4, 5)), step(2, (4,)), Difference("removed_rows[1]", 5, ABSENT)),
        (step(1, ()), step(1, (7,)), Difference("removed_rows[0]", ABSENT, 7)),
        ({"a": [1]}, {"a": [1]}, None),
        ({"a": 1}, {"a": 1, "b": 2}, Difference("['b']", ABSENT, 2)),
        ({"a": 1, "b": 2}, {"a": 1}, Difference("['b']", 2, ABSENT)),
        (1, True, Difference("", 1, True)),
        (float("nan"), float("nan"), None),
        (0.0, -0.0, Difference("", 0.0, -0.0)),
        (b"a", b"b", Difference("", b"a", b"b")),
    ],
)
def test_the_first_difference(recorded: Any, replayed: Any, expected: Difference | None) -> None:
    assert repr(first_difference(recorded, replayed)) == repr(expected)


def test_structs_of_different_kinds_differ_as_a_whole() -> None:
    class Other(msgspec.Struct):
        step_id: int

    found = first_difference(step(), Other(1))
    assert found is not None and found.path == ""
