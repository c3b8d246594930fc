"""Writes a run as a trace for ui.perfetto.dev: what was recorded, and what a replay adds."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from tokenreel.actors.core.engine import Engine
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.replica import ReplayDiverged
from tokenreel.tools.replay.index.walk import Walk
from tokenreel.tools.replay.reading.entries import entries
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.stream import RunStream
from tokenreel.tools.replay.trace.counters import Counters
from tokenreel.tools.replay.trace.proto import TraceWriter
from tokenreel.tools.replay.trace.run_trace import JournalTrace

GZIP_LEVEL = 6


def export(index: Index, out: Path) -> int:
    """Writes the trace to `out`, whole or not at all, compressed if the name ends in .gz; returns
    its bytes. Raises UsageError if it cannot be written."""
    part = out.with_name(out.name + ".part")
    try:
        with open(part, "wb") as file:
            if out.suffix == ".gz":
                with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                    write_trace(index, cast(IO[bytes], packed).write)
            else:
                write_trace(index, file.write)
        num_bytes = part.stat().st_size
        os.replace(part, out)
        return num_bytes
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def write_trace(index: Index, write: Callable[[bytes], object]) -> None:
    first = index.journal.segments[0].header
    writer = TraceWriter(write)
    writer.clocks(first.monotonic_ns, first.wall_ns)
    trace = JournalTrace(writer)
    state = _State(index)
    for entry in entries(RunStream(index.journal.path)):
        trace.tell(entry)
        if isinstance(entry, RecordedEvent):
            state.count(entry, trace.counters)
    trace.end()


class _State:
    """The core's state after each event, as far as the installed code replays the run."""

    def __init__(self, index: Index) -> None:
        self._walk: Walk | None = None
        try:
            self._walk = index.walk()
        except ReplayDiverged:  # the index says so among its notes
            pass

    def count(self, entry: RecordedEvent, counters: Counters) -> None:
        """Nothing where the replay has lost the run."""
        walk = self._walk
        while walk is not None and (next_seq := walk.next_seq) is not None:
            if next_seq > entry.seq:
                return
            if next(walk, None) is None:
                return
            if next_seq == entry.seq:
                engine = walk.engine
                assert isinstance(engine, Engine)
                counters.count_state(engine.statistics(), engine.config.num_blocks, entry.t_ns)
                return
