"""Which request a difference is about, told from the path to it and the messages that it is in."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from tokenreel.messages.ids import RequestKey
from tokenreel.messages.outputs import OutputDelivered
from tokenreel.messages.steps import StepDecided

_STEP = re.compile(r"\['(\w+)'\]|\[(\d+)\]|\.?(\w+)")
_ABOUT_THE_ONE_PASSED_OVER = ("seq_id", "unscheduled", "num_blocks_needed")


class Subject(NamedTuple):
    """A request by its key, or by one of its sequences."""

    key: RequestKey | None
    seq_id: int = 0


def subjects_of(path: str, messages: tuple[Any, ...], event: Any) -> list[Subject]:
    """The requests that `path` leads to in the recorded and in the replayed message, else the one
    that the event names; none if it concerns the engine as a whole.

    `path` is as in a Divergence: it starts with the name of the message.
    """
    steps = [name or number or field for name, number, field in _STEP.findall(path)][1:]
    found = [_innermost(message, steps) for message in messages]
    subjects = [subject for subject in found if subject is not None]
    if not subjects:
        subjects = list(named_by(event))
    return list(dict.fromkeys(subjects))


def named_by(event: Any) -> Iterator[Subject]:
    """The requests that an event names by itself."""
    if isinstance(event, OutputDelivered):
        yield from (Subject(None, seq_id) for seq_id in event.seq_ids)
    elif event is not None and (subject := _subject(event)) is not None:
        yield subject


def _innermost(message: Any, steps: list[str]) -> Subject | None:
    """Of what `steps` lead to, the innermost that belongs to a request."""
    if (
        isinstance(message, StepDecided)
        and steps[:1]
        and steps[0] not in _ABOUT_THE_ONE_PASSED_OVER
    ):
        return None
    found, value = _subject(message), message
    for step in steps:
        value = _item(value, step)
        found = _subject(value) or found
    return found


def _item(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list | tuple):
        return value[int(step)] if step.isdecimal() and int(step) < len(value) else None
    return getattr(value, step, None) if isinstance(value, msgspec.Struct) else None


def _subject(value: Any) -> Subject | None:
    if isinstance(value, dict):
        seq_id, key = value.get("seq_id"), value.get("key")
    else:
        seq_id, key = getattr(value, "seq_id", None), getattr(value, "key", None)
    if isinstance(seq_id, int) and seq_id > 0:
        return Subject(None, seq_id)
    if isinstance(key, list | tuple) and len(key) == len(RequestKey._fields):
        return Subject(RequestKey(*key))
    return None
