"""Inputs with what was recorded of their consequences, as records: nothing is decoded."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tokenreel.messages.journal import (
    CORE_FAILED,
    EFFECT,
    IGNORABLE,
    INPUT,
    JournalDamaged,
    Record,
)


class Turn(NamedTuple):
    """One input with what was recorded of its consequences."""

    input: Record
    effects: list[Record]
    failure: Record | None


def turns_of(records: Iterable[Record], segment: str) -> Iterator[Turn | Record]:
    """Inputs with their effects; records of the journal's own types stand alone, in their place."""
    turn: Turn | None = None
    for record in records:
        if record.flags & EFFECT:
            if turn is None:
                raise JournalDamaged(segment, record.offset, "an effect without an input")
            turn.effects.append(record)
        elif record.flags & INPUT:
            if turn is not None:
                yield turn
            turn = Turn(record, [], None)
        elif record.type == CORE_FAILED:
            if turn is None:
                raise JournalDamaged(segment, record.offset, "a failure without an input")
            turn = turn._replace(failure=record)
        elif not record.flags & IGNORABLE:
            if turn is not None:
                yield turn
                turn = None
            yield record
    if turn is not None:
        yield turn
