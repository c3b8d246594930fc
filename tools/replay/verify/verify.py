"""Re-executes a journal: does this code decide as it did then? Every effect is compared, and every
step's digest. What a difference means is told elsewhere (`explanation`, `blame`, `report`)."""

import time
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import NamedTuple

import msgspec

from tokenreel.messages.journal import (
    AFTER_GAP,
    INPUT,
    META,
    SNAPSHOT,
    JournalDamaged,
    Record,
)
from tokenreel.messages.journal_meta import (
    CoreFailed,
    Meta,
)
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.index.walk import Start
from tokenreel.tools.replay.reading.committed import committed_records
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.verify.comparison import CannotStart, Comparison
from tokenreel.tools.replay.verify.divergence import (
    Diverged,
    Divergence,
)
from tokenreel.tools.replay.verify.explanation import explain
from tokenreel.tools.replay.verify.spans import (
    Damage,
    Span,
    SpanResult,
    Tick,
    damage_of,
    replay_spans,
    split,
)

RECORDS_PER_TICK = 4096
END = 1 << 64


class Range(NamedTuple):
    """What is verified: segments [first, end) by their place in the journal, and in the last one
    the inputs up to and with that of seq `until`. With a `start`, which lies within the first one,
    what stands before it there is not replayed."""

    first: int
    end: int
    until: int = END
    start: Start | None = None


class Totals(NamedTuple):
    num_segments: int
    num_records: int
    num_events: int
    num_effects: int
    num_steps: int
    num_tokens: int
    num_gaps: int
    num_records_lost: int
    span_ns: int
    duration_ns: int


class Verdict(NamedTuple):
    """`divergences` is empty if the code decides alike; `reproduced` is the recorded failure of the
    core, if there was one and it came out again. `meta` is in force at the first divergence.

    `skipped` are segments behind a divergence that this code could not start from, `damage` is what
    ended a replay that had found divergences before.
    """

    divergences: list[Divergence]
    reproduced: CoreFailed | None
    meta: Meta
    configuration: msgspec.Struct
    code: CoreCode
    totals: Totals
    skipped: list[Damage]
    damage: Damage | None
    within: Range

    @property
    def divergence(self) -> Divergence | None:
        """The first one."""
        return self.divergences[0] if self.divergences else None


def verify(
    journal: Journal,
    code: CoreCode,
    *,
    within: Range | None = None,
    max_divergences: int = 1,
    jobs: int = 1,
    explained: bool = True,
    tick: Tick = lambda num_bytes: None,
) -> Verdict:
    """Stops at the first divergence; with a higher `max_divergences` it goes on from the snapshot
    of the segment behind each. `jobs` processes come to the same verdict as one. `explained`
    divergences tell more than their place (`explanation`), which takes another look at the segment.

    Raises JournalDamaged if the records, though whole, are none that a core could have made.
    """
    within = within or Range(0, len(journal.segments))
    asked = _Question(journal, code, within, explained)
    began_ns = time.monotonic_ns()

    def replay(span: Span, max_divergences: int, tick: Tick) -> SpanResult:
        return _replay_span(asked, span, max_divergences, tick)

    spans = split(journal, within.first, within.end, jobs)
    result = replay_spans(spans, replay, jobs, max_divergences, tick)
    if result.damage is not None and not result.divergences:
        raise JournalDamaged(result.damage.segment, result.damage.offset, result.damage.reason)
    duration_ns = time.monotonic_ns() - began_ns
    assert result.meta is not None
    return Verdict(
        result.divergences,
        result.reproduced,
        result.meta,
        msgspec.convert(result.meta.configuration, code.configuration),
        code,
        _totals(journal, within, result, duration_ns),
        result.skipped,
        result.damage,
        within,
    )


class _Question(NamedTuple):
    journal: Journal
    code: CoreCode
    within: Range
    explained: bool


def _replay_span(asked: _Question, span: Span, max_divergences: int, tick: Tick) -> SpanResult:
    replay, result = Comparison(asked.code), SpanResult()
    index = span.first
    try:
        while index < span.end:
            try:
                _replay_segment(asked, replay, index, tick)
                index += 1
            except Diverged as diverged:
                _note(asked, replay, index, diverged, result)
                if len(result.divergences) == max_divergences:
                    break
                replay.start_over()
                index += not diverged.is_at_start
            except CannotStart as refusal:
                if not result.divergences:
                    result.has_started = index > span.first
                    raise
                result.skipped.append(damage_of(refusal))
                index += 1
        else:
            _arrive(asked, replay, span.end)
    except JournalDamaged as damage:
        result.damage = damage_of(damage)
    except Diverged as diverged:  # from the snapshot that it should have arrived at
        _note(asked, replay, span.end, diverged, result)
    result.meta = result.meta or replay.meta
    result.reproduced, result.counts = replay.reproduced, replay.counts
    result.step, result.last_step_agreed = replay.step, replay.last_step_agreed
    result.last_t_ns = replay.last_t_ns
    return result


def _note(
    asked: _Question, replay: Comparison, index: int, diverged: Diverged, result: SpanResult
) -> None:
    divergence = diverged.divergence
    if asked.explained:
        divergence = explain(diverged, replay.core, asked.journal, index)
    result.divergences.append(divergence)
    result.meta = result.meta or replay.meta


def _replay_segment(asked: _Question, replay: Comparison, index: int, tick: Tick) -> None:
    records, until = _enter(replay, asked.journal, index), asked.within.until
    start = asked.within.start
    if start is not None and start.segment == index:
        records = _resume(replay, asked.journal, start, next(records))
    if asked.journal.segments[index].next_seq > until:
        records = takewhile(lambda record: record.seq <= until or not record.flags & INPUT, records)
    replayed = 0
    while chunk := list(islice(records, RECORDS_PER_TICK)):
        replay.run(chunk)
        tick(chunk[-1].offset - (replayed or chunk[0].offset))
        replayed = chunk[-1].offset
    replay.require_complete()


def _resume(replay: Comparison, journal: Journal, start: Start, meta: Record) -> Iterator[Record]:
    assert start.position is not None
    replay.resume(meta, start.snapshot, start.last_step_id)
    return committed_records(journal.directory, journal.segments[start.segment], start.position)


def _arrive(asked: _Question, replay: Comparison, index: int) -> None:
    """The state at the end of a span is the one with which the next segment starts."""
    if index == len(asked.journal.segments) or replay.core is None:
        return
    header = asked.journal.segments[index].header
    if header.first_seq - 1 <= asked.within.until and not header.flags & AFTER_GAP:
        records = _enter(replay, asked.journal, index)
        replay.run(takewhile(lambda record: record.type in (META, SNAPSHOT), records))


def _enter(replay: Comparison, journal: Journal, index: int) -> Iterator[Record]:
    segment = journal.segments[index]
    header, name, records = next(read_records(journal._replace(segments=[segment])))
    if header.flags & AFTER_GAP:
        next_seq = journal.segments[index - 1].next_seq if index else header.first_seq
        replay.meet_gap(header.first_seq - next_seq)
    replay.enter_segment(header, name)
    return records


def _totals(journal: Journal, within: Range, result: SpanResult, duration_ns: int) -> Totals:
    """`span_ns` is 0 if nobody knows when the first replayed event came."""
    segments = journal.segments[within.first : within.end]
    span_ns = result.last_t_ns - segments[0].header.monotonic_ns
    return Totals(
        num_segments=len(segments),
        num_records=sum(segment.num_records for segment in segments),
        **msgspec.structs.asdict(result.counts),
        span_ns=max(0, span_ns) if within.start is None else 0,
        duration_ns=duration_ns,
    )
