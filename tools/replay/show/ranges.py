"""From where to where a journal is shown."""

from tokenreel.messages.journal import SegmentHeader
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.replay.reading.entries import Entry
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.seek import Kind, Place


class Range:
    """`begin` and `until` are both inside; None is as far as the journal goes."""

    def __init__(self, begin: Place | None, until: Place | None) -> None:
        self._begin = begin
        self._until = until

    def skips(self, header: SegmentHeader, first: SegmentHeader) -> bool:
        """Whether nothing before this segment is inside. `first` is the header of the run's first
        segment."""
        begin = self._begin
        if begin is None or begin.kind is Kind.STEP:
            return False
        if begin.kind is Kind.SEQ:
            return header.first_seq <= begin.value
        return header.monotonic_ns <= begin.clock_ns(first)

    def has_begun(self, entry: Entry, first: SegmentHeader) -> bool:
        return self._begin is None or not _is_before(entry, self._begin, first)

    def has_ended(self, entry: Entry, first: SegmentHeader) -> bool:
        return self._until is not None and _is_behind(entry, self._until, first)


def _is_before(entry: Entry, place: Place, first: SegmentHeader) -> bool:
    if place.kind is Kind.STEP:
        begun = _step_begun(entry)
        return begun is None or begun < place.value
    if place.kind is Kind.SEQ:
        return entry.seq < place.value
    return entry.t_ns < place.clock_ns(first)


def _is_behind(entry: Entry, place: Place, first: SegmentHeader) -> bool:
    """Behind a step is where the next one begins."""
    if place.kind is Kind.STEP:
        begun = _step_begun(entry)
        return begun is not None and begun > place.value
    if place.kind is Kind.SEQ:
        return entry.seq > place.value
    return entry.t_ns > place.clock_ns(first)


def _step_begun(entry: Entry) -> int | None:
    if isinstance(entry, RecordedEvent) and isinstance(entry.event, StepBegan):
        return entry.event.step_id
    return None
