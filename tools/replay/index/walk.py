"""Walks through a journal with a core at one's side: its state before and after any event."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenreel.messages.journal import Record
from tokenreel.messages.journal_reader import SegmentSummary
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.index.replica import DivergedAt, ReplayDiverged, Replica
from tokenreel.tools.replay.reading.committed import Position, committed_records, first_position
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.turns import Turn, turns_of


class Start(NamedTuple):
    """Where a walk may begin: at the start of a segment; or at `position` in it, where
    `snapshot` was taken, behind the step `last_step_id`."""

    segment: int
    position: Position | None = None
    snapshot: bytes = b""
    last_step_id: int = 0


class Walk:
    """Iterating applies one event after the other and yields each once it is applied, with the
    effects that it has now. `engine` is the core behind the event that was yielded last.

    Where the code decides otherwise than the recorded run did, the walk goes on at the next
    recorded snapshot, if there is one, and `divergences` says so.
    """

    def __init__(
        self, directory: Path, segments: Sequence[SegmentSummary], code: CoreCode, start: Start
    ) -> None:
        self.divergences: list[DivergedAt] = []
        self._directory = directory
        self._segments = segments
        self._replica = Replica(code)
        self._turns = self._read(start)
        self._upcoming: Turn | None = None

    @property
    def engine(self) -> Core:
        """Raises ReplayDiverged where there is none."""
        return self._replica.require_engine()

    @property
    def next_seq(self) -> int | None:
        """Of the event that comes next; None at the end of the journal. To ask is to step over
        whatever stands before it, such as a gap, behind which `engine` is another."""
        if self._upcoming is None:
            self._upcoming = next(self._turns, None)
        return None if self._upcoming is None else self._upcoming.input.seq

    def __iter__(self) -> Iterator[RecordedEvent]:
        return self

    def __next__(self) -> RecordedEvent:
        while self.next_seq is not None:
            event = self._apply_one()
            if event is not None:
                return event
        raise StopIteration

    def advance(self, seq: int) -> "Walk":
        """To just before the first event at or behind `seq`. Raises ReplayDiverged if the code
        has lost the recorded run there."""
        while (upcoming := self.next_seq) is not None and upcoming < seq:
            self._apply_one()
        self._replica.require_engine()
        return self

    def advance_past(self, seq: int) -> RecordedEvent:
        """To just behind the event `seq`, which is returned. Raises ReplayDiverged; LookupError if
        there is no such event."""
        self.advance(seq)
        if self.next_seq != seq:
            raise LookupError(f"seq {seq} is no event of the journal")
        event = self._apply_one()
        if event is None:
            raise ReplayDiverged(str(self._replica.divergence))
        return event

    def _apply_one(self) -> RecordedEvent | None:
        """None where the code has lost the recorded run."""
        turn, self._upcoming = self._upcoming, None
        assert turn is not None
        was_lost = self._replica.divergence is not None
        event = self._replica.apply(turn)
        if event is None and not was_lost and self._replica.divergence is not None:
            self.divergences.append(self._replica.divergence)
        return event

    def _read(self, start: Start) -> Iterator[Turn]:
        """Turns from `start` to the end. What stands between them is met on the way."""
        replica = self._replica
        for index in range(start.segment, len(self._segments)):
            segment = self._segments[index]
            replica.enter(segment.header, segment.name)
            position = first_position(segment)
            if index == start.segment and start.position is not None:
                replica.meet(self._meta_of(segment))
                replica.resume(start.snapshot, start.last_step_id)
                position = start.position
            records = committed_records(self._directory, segment, position)
            for turn in turns_of(records, segment.name):
                if isinstance(turn, Turn):
                    yield turn
                else:
                    replica.meet(turn)

    def _meta_of(self, segment: SegmentSummary) -> Record:
        return next(committed_records(self._directory, segment, first_position(segment)))
