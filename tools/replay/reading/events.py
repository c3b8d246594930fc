"""The events of a journal as they were recorded, each with its effects. Nothing is re-executed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenreel.messages.codec import CoreEvent, Effect, MalformedMessage, decode, tag_of
from tokenreel.messages.journal import INPUT, JournalDamaged, Record
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.reading.turns import Turn, turns_of


class RecordedEvent(NamedTuple):
    """What reached the core and what the core then put out. `seq`, `offset` and `t_ns` (the core's
    monotonic clock) are those of the input's record."""

    seq: int
    t_ns: int
    segment: str
    offset: int
    event: CoreEvent
    effects: list[Effect]


def recorded_events(journal: Journal) -> Iterator[RecordedEvent]:
    """In the order of the journal. Raises JournalDamaged where a record is no message, or an effect
    has no input."""
    for _, name, records in read_records(journal):
        for turn in turns_of(records, name):
            if isinstance(turn, Turn):
                yield _decoded(turn, name)


def decode_event(record: Record, segment: str) -> CoreEvent:
    """The message in an INPUT's payload; raises JournalDamaged if it holds none."""
    event: CoreEvent = _decode(record, segment, CoreEvent)
    return event


def decode_effect(record: Record, segment: str) -> Effect:
    """The message in an EFFECT's payload; raises JournalDamaged if it holds none."""
    effect: Effect = _decode(record, segment, Effect)
    return effect


def decode_record(record: Record, segment: str) -> CoreEvent | Effect:
    """Of the one or the other."""
    if record.flags & INPUT:
        return decode_event(record, segment)
    return decode_effect(record, segment)


def _decoded(turn: Turn, segment: str) -> RecordedEvent:
    record = turn.input
    effects = [decode_effect(effect, segment) for effect in turn.effects]
    event = decode_event(record, segment)
    return RecordedEvent(record.seq, record.t_ns, segment, record.offset, event, effects)


def _decode(record: Record, segment: str, kind: Any) -> Any:
    try:
        message = decode(record.payload)
    except MalformedMessage as error:
        raise JournalDamaged(segment, record.offset, f"no message of this code: {error}") from None
    if not isinstance(message, kind) or tag_of(message) != record.type:
        raise JournalDamaged(
            segment, record.offset, f"{type(message).__name__} in a record of type {record.type}"
        )
    return message
