"""What a journal holds, in order: events with their effects, and the journal's own marks."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tokenreel.messages.journal import (
    CORE_FAILED,
    EFFECT,
    IGNORABLE,
    INPUT,
    LAST_OF_WRITE,
    JournalDamaged,
)
from tokenreel.tools.replay.reading.events import RecordedEvent, decode_effect, decode_event
from tokenreel.tools.replay.reading.stream import StreamedRecord


class Mark(NamedTuple):
    """A record of one of the journal's own types: `kind` is META, SNAPSHOT, CORE_FAILED, ..."""

    seq: int
    t_ns: int
    segment: str
    offset: int
    kind: int
    payload: bytes


Entry = RecordedEvent | Mark


def entries(records: Iterable[StreamedRecord]) -> Iterator[Entry]:
    """Each as soon as its write is complete; what may be ignored is. Raises JournalDamaged."""
    pending: RecordedEvent | None = None
    for segment, record in records:
        seq, t_ns, offset, flags = record.seq, record.t_ns, record.offset, record.flags
        if flags & EFFECT:
            if pending is None:
                raise JournalDamaged(segment, offset, "an effect without an input")
            pending.effects.append(decode_effect(record, segment))
        elif not flags & IGNORABLE:
            if pending is not None:
                yield pending
                pending = None
            if flags & INPUT:
                event = decode_event(record, segment)
                pending = RecordedEvent(seq, t_ns, segment, offset, event, [])
            else:
                yield Mark(seq, t_ns, segment, offset, record.type, record.payload)
        if flags & LAST_OF_WRITE and pending is not None:
            yield pending
            pending = None


def is_failure(entry: Entry) -> bool:
    """Whether the core failed here: at the event before it."""
    return isinstance(entry, Mark) and entry.kind == CORE_FAILED
