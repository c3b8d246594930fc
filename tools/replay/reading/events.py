"""The events of a journal as they were recorded, each with its effects. Nothing is re-executed."""

from collections.abc import Iterator
from typing import NamedTuple

from tokenreel.messages.codec import CoreEvent, Effect, MalformedMessage, decode
from tokenreel.messages.journal import EFFECT, INPUT, JournalDamaged, Record
from tokenreel.tools.replay.reading.journal import Journal, read_records


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
    """In the order of the journal. Raises JournalDamaged where a record is no message."""
    pending: RecordedEvent | None = None
    for _, name, records in read_records(journal):
        for record in records:
            if record.flags & INPUT:
                if pending is not None:
                    yield pending
                event: CoreEvent = decode_record(record, name)  # type: ignore[assignment]
                pending = RecordedEvent(record.seq, record.t_ns, name, record.offset, event, [])
            elif record.flags & EFFECT:
                if pending is None:
                    raise JournalDamaged(name, record.offset, "an effect without an input")
                effect: Effect = decode_record(record, name)  # type: ignore[assignment]
                pending.effects.append(effect)
    if pending is not None:
        yield pending


def decode_record(record: Record, segment: str) -> CoreEvent | Effect:
    """The message in an INPUT's or an EFFECT's payload; raises JournalDamaged if it holds none."""
    try:
        message = decode(record.payload)
    except MalformedMessage as error:
        raise JournalDamaged(segment, record.offset, f"no message of this code: {error}") from None
    if not isinstance(message, CoreEvent if record.flags & INPUT else Effect):
        raise JournalDamaged(
            segment, record.offset, f"{type(message).__name__} in a record of type {record.type}"
        )
    return message
