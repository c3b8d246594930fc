"""`--from` and `--until`: which segments hold the part of a journal that is asked for."""

from collections.abc import Iterator

from tokenreel.messages.journal import INPUT, Record
from tokenreel.messages.steps import StepDecided
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.index.start import start_before
from tokenreel.tools.replay.reading.events import decode_effect
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.reading.seek import Kind, Place
from tokenreel.tools.replay.verify.verify import END, Range

_STEP_DECIDED = StepDecided.__struct_config__.tag


def range_of(
    journal: Journal, begin: Place | None, until: Place | None, code: CoreCode | None = None
) -> Range:
    """From the snapshot before `begin` on, up to and with the event at `until`. With `code`, it may
    be one of the index (`index.start`). Raises UsageError if there is nothing between them, or if
    the journal has no such step."""
    first, begin_seq = (0, 0) if begin is None else _find(journal, begin)
    end, until_seq = len(journal.segments), END
    if until is not None:
        last, until_seq = _find(journal, until, is_end=True)
        end = last + 1
    if until_seq < begin_seq:
        raise UsageError("--until lies before --from")
    if first == len(journal.segments):
        last_seq = journal.segments[-1].next_seq - 1
        raise UsageError(f"--from lies behind the end of the journal (its last seq is {last_seq})")
    if until_seq < journal.segments[0].header.first_seq:
        first_seq = journal.segments[0].header.first_seq
        raise UsageError(f"--until lies before the journal begins (its first seq is {first_seq})")
    start = None if begin is None or code is None else start_before(journal, first, begin_seq, code)
    return Range(first, end, until_seq, start)


def _find(journal: Journal, place: Place, is_end: bool = False) -> tuple[int, int]:
    """The segment that holds the place, and its seq. The end of a time is the last event at or
    before it; that of a step is its composition."""
    if place.kind is Kind.SEQ:
        return _segment_with_seq(journal, place.value, is_end), place.value
    if place.kind is Kind.STEP:
        return _find_step(journal, place)
    return _find_time(journal, place.clock_ns(journal.segments[0].header), is_end)


def _segment_with_seq(journal: Journal, seq: int, is_end: bool) -> int:
    """The first whose end lies behind `seq`: one before a gap may have lost it."""
    for index, segment in enumerate(journal.segments):
        if seq < segment.next_seq:
            return index
    return len(journal.segments) - is_end


def _find_step(journal: Journal, place: Place) -> tuple[int, int]:
    last = None
    low, high = 0, len(journal.segments)
    while low < high:  # the last segment whose first step is not behind it
        middle = (low + high) // 2
        first = next(_steps(journal, middle), None)
        if first is not None and first[0] > place.value:
            high = middle
        else:
            low = middle + 1
    for index in range(low - 1, -1, -1):
        for step_id, seq in _steps(journal, index):
            if step_id == place.value:
                return index, seq
            last = step_id
        if last is not None:
            break
    raise UsageError(f"{place.text}: the journal has no such step")


def _steps(journal: Journal, index: int) -> Iterator[tuple[int, int]]:
    """Of each step that was composed in a segment its id, and the seq of the event that did it."""
    seq = 0
    for record in _records(journal, index):
        if record.flags & INPUT:
            seq = record.seq
        elif record.type == _STEP_DECIDED:
            decided = decode_effect(record, journal.segments[index].name)
            assert isinstance(decided, StepDecided)
            yield decided.step_id, seq


def _find_time(journal: Journal, t_ns: int, is_end: bool) -> tuple[int, int]:
    for index, segment in enumerate(journal.segments):
        if segment.last_t_ns < t_ns:
            continue
        seq = segment.header.first_seq
        for record in _records(journal, index):
            if record.flags & INPUT:
                if record.t_ns > t_ns or (record.t_ns == t_ns and not is_end):
                    return index, seq if is_end else record.seq
                seq = record.seq
        return index, seq
    return len(journal.segments) - is_end, journal.segments[-1].next_seq


def _records(journal: Journal, index: int) -> Iterator[Record]:
    segment = journal.segments[index]
    return next(read_records(journal._replace(segments=[segment])))[2]
