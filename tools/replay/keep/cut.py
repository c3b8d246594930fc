"""A part of a journal as a journal of its own, which starts from the state that the run was in."""

from itertools import dropwhile
from pathlib import Path

from tokenreel.actors.core.config import CoreConfig
from tokenreel.messages.journal import AFTER_GAP
from tokenreel.messages.journal_meta import core_failed
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.index.walk import Start, Walk
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.reading.writing import Identity, RunWriter, run_meta
from tokenreel.tools.replay.redact.script import chapters_of


class CannotCut(Exception):
    """One line that says why."""


def cut(journal: Journal, out: Path, code: CoreCode, first_seq: int, last_seq: int) -> None:
    """Writes the run directory `out` with the events of seq `first_seq` to `last_seq`, decided by
    `code`. Whatever the core raises on the way is its last record. Raises CannotCut."""
    if any(segment.header.flags & AFTER_GAP for segment in journal.segments):
        raise CannotCut("a run with a gap is kept as a whole")
    config = next(chapters_of(journal)).configuration
    walk = Walk(journal.directory, journal.segments, code, Start(0)).advance(first_seq)
    if walk.next_seq is None:
        raise CannotCut("nothing is recorded from there on")
    core, starts_anew = walk.engine, walk.next_seq <= _first_event(journal)
    with RunWriter(out, run_meta(config), _identity(journal)) as writer:
        _write(writer, journal, core, config, first_seq, last_seq, starts_anew)


def _write(
    writer: RunWriter,
    journal: Journal,
    core: Core,
    config: CoreConfig,
    first_seq: int,
    last_seq: int,
    starts_anew: bool,
) -> None:
    is_first = True
    for each in dropwhile(lambda each: each.seq < first_seq, recorded_events(journal)):
        if each.seq > last_seq:
            return
        if is_first:
            _begin(writer, journal, core, each.t_ns, each.seq, starts_anew)
            is_first = False
        try:
            effects = core.apply(each.event)
        except Exception as error:
            writer.write_failure(each.t_ns, each.event, core_failed(error, ""))
            return
        writer.write(each.t_ns, each.event, effects)
    if journal.has_ended:
        writer.end(journal.segments[-1].last_t_ns)


def _begin(
    writer: RunWriter, journal: Journal, core: Core, t_ns: int, seq: int, starts_anew: bool
) -> None:
    if starts_anew and journal.segments[0].header.number == 0:
        writer.begin_segment(t_ns=t_ns)
    else:
        writer.begin_segment(core.snapshot(), t_ns, number=1, first_seq=seq)


def _identity(journal: Journal) -> Identity:
    header = journal.segments[0].header
    return Identity(header.run_id, header.salt, header.wall_ns, header.monotonic_ns, header.epoch)


def _first_event(journal: Journal) -> int:
    return next(recorded_events(journal)).seq
