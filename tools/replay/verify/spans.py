"""The stretches of a journal that can be replayed on their own, in turn or in processes beside each
other, and what they say together: the same, whichever way it was asked."""

import contextlib
import signal
from collections.abc import Callable, Generator
from multiprocessing import connection, get_context
from typing import Any, NamedTuple, cast

import msgspec

from tokenreel.messages.journal import JournalDamaged
from tokenreel.messages.journal_meta import CoreFailed, Meta
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.verify.divergence import Divergence

SPANS_PER_JOB = 4
"""More spans than jobs, so that none is idle while another has the long one."""

_TICK_BYTES = 8
"""A result is longer."""


class Span(NamedTuple):
    """Segments [first, end) of the journal, by their place in it. They are replayed from the run's
    start or the snapshot of the first, and must arrive at the snapshot of segment `end`."""

    first: int
    end: int


class Damage(msgspec.Struct, frozen=True):
    segment: str
    offset: int
    reason: str


def damage_of(error: JournalDamaged) -> Damage:
    return Damage(error.segment, error.offset, error.reason)


class Counts(msgspec.Struct):
    num_events: int = 0
    num_effects: int = 0
    num_steps: int = 0
    num_tokens: int = 0
    num_gaps: int = 0
    num_records_lost: int = 0

    def add(self, other: "Counts") -> None:
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))


class SpanResult(msgspec.Struct):
    """What the replay of a span found. `skipped` are segments between divergences that this code
    could not start from. `step` and `last_step_agreed` are where it stood at the end; 0 if it met
    none. `has_started` is false if the span's own first snapshot is none to start from."""

    divergences: list[Divergence] = []
    damage: Damage | None = None
    skipped: list[Damage] = []
    reproduced: CoreFailed | None = None
    meta: Meta | None = None
    counts: Counts = msgspec.field(default_factory=Counts)
    step: int = 0
    last_step_agreed: int = 0
    last_t_ns: int = 0
    has_started: bool = True


Tick = Callable[[int], None]
"""Told how many further bytes of the journal were replayed."""
ReplaySpan = Callable[[Span, int, Tick], SpanResult]
"""The replay of a span up to that many divergences."""


def split(journal: Journal, first: int, end: int, jobs: int) -> list[Span]:
    """Segments [first, end) as spans of about equal length, enough to keep `jobs` busy."""
    if jobs == 1:
        return [Span(first, end)]
    num_records = sum(segment.num_records for segment in journal.segments[first:end])
    fill = num_records / (jobs * SPANS_PER_JOB)
    spans: list[Span] = []
    begin, held = first, 0
    for index in range(first, end):
        held += journal.segments[index].num_records
        if held >= fill or index == end - 1:
            spans.append(Span(begin, index + 1))
            begin, held = index + 1, 0
    return spans


def replay_spans(
    spans: list[Span], replay: ReplaySpan, jobs: int, max_divergences: int, tick: Tick
) -> SpanResult:
    """As if one replay had gone through all of them: it ends at the first damage, and at the
    `max_divergences`-th divergence."""
    whole = Span(spans[0].first, spans[-1].end)
    if len(spans) == 1:
        return replay(whole, max_divergences, tick)
    merged = SpanResult()
    with contextlib.closing(_in_processes(spans, replay, max_divergences, jobs, tick)) as results:
        for span, result in zip(spans, results, strict=True):
            if not result.has_started:
                # One replay in a row would not start from this snapshot, only compare it.
                return replay(whole, max_divergences, _silent)
            room = max_divergences - len(merged.divergences)
            if len(result.divergences) >= room and room < max_divergences:
                # It went on behind the one with which the whole replay ends.
                result = replay(span, room, _silent)
            _append(merged, result)
            if merged.damage is not None or len(merged.divergences) == max_divergences:
                break
    return merged


def _append(merged: SpanResult, result: SpanResult) -> None:
    """A replay that went through both would have remembered, in the second, the steps of the
    first."""
    merged.divergences += [
        msgspec.structs.replace(
            divergence,
            step=divergence.step or merged.step,
            last_step_agreed=divergence.last_step_agreed or merged.last_step_agreed,
        )
        for divergence in result.divergences
    ]
    merged.damage = result.damage
    merged.skipped += result.skipped
    merged.reproduced = result.reproduced
    merged.meta = result.meta or merged.meta
    merged.counts.add(result.counts)
    merged.step = result.step or merged.step
    merged.last_step_agreed = result.last_step_agreed or merged.last_step_agreed
    merged.last_t_ns = max(merged.last_t_ns, result.last_t_ns)


def _in_processes(
    spans: list[Span], replay: ReplaySpan, max_divergences: int, jobs: int, tick: Tick
) -> Generator[SpanResult, None, None]:
    """The results in the order of the spans, at most `jobs` of which are replayed at a time."""
    running: dict[Any, int] = {}  # the reading end of each process's pipe, and its span's number
    processes: dict[int, Any] = {}
    done: dict[int, SpanResult] = {}
    started = 0
    try:
        for wanted in range(len(spans)):
            while wanted not in done:
                while started < len(spans) and len(running) < jobs:
                    reader, processes[started] = _start(spans[started], replay, max_divergences)
                    running[reader] = started
                    started += 1
                for ready in connection.wait(list(running)):
                    reader = cast(connection.Connection, ready)
                    number = running[reader]
                    told = _receive(reader)
                    if isinstance(told, int):
                        tick(told)
                        continue
                    del running[reader]
                    reader.close()
                    processes.pop(number).join()
                    # A process that died tells nothing: its span is replayed here, so that what
                    # is wrong with it comes out.
                    done[number] = told or replay(spans[number], max_divergences, _silent)
            yield done.pop(wanted)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _start(span: Span, replay: ReplaySpan, max_divergences: int) -> tuple[Any, Any]:
    context = get_context("fork")  # the core under test may be no module that could be imported
    reader, writer = context.Pipe(duplex=False)
    arguments = (span, replay, max_divergences, writer)
    process = context.Process(target=_replay_and_tell, args=arguments, daemon=True)
    process.start()
    writer.close()
    return reader, process


def _replay_and_tell(span: Span, replay: ReplaySpan, max_divergences: int, writer: Any) -> None:
    def tick(num_bytes: int) -> None:
        writer.send_bytes(num_bytes.to_bytes(_TICK_BYTES, "little"))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; the parent ends its children
    with contextlib.suppress(Exception):  # the parent meets it again, or is gone
        result = replay(span, max_divergences, tick)
        writer.send_bytes(msgspec.msgpack.encode(result))


def _receive(reader: Any) -> int | SpanResult | None:
    """Progress, or the result; None if the process ended without one."""
    try:
        told = reader.recv_bytes()
    except (EOFError, OSError):
        return None
    if len(told) == _TICK_BYTES:
        return int.from_bytes(told, "little")
    return msgspec.msgpack.decode(told, type=SpanResult)


def _silent(num_bytes: int) -> None:
    """Nobody watches."""
