"""The index of a journal: any state of the core within a moment, and tables of what happened.

Beside each segment lies a file with its part (`index_part`). Steps and requests are told as they
were recorded; snapshots are of the core that is asked, and are made anew when its source changes.
"""

import sys
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenreel.actors.runtime.journal_directory import is_live, segments_of
from tokenreel.messages.journal import JournalDamaged
from tokenreel.messages.journal_reader import SegmentSummary, check_segment
from tokenreel.tools.replay.committed import Position, first_position
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index_part import FileStamp, IndexDamaged, Part, part_in_memory
from tokenreel.tools.replay.index_pass import SegmentPass
from tokenreel.tools.replay.index_place import IndexPlace, is_same_file, stamp_of
from tokenreel.tools.replay.index_rows import TABLES, column_of
from tokenreel.tools.replay.journal import Journal, open_journal, read_file
from tokenreel.tools.replay.progress import Progress
from tokenreel.tools.replay.walk import Start, Walk

if TYPE_CHECKING:
    from array import array

    from tokenreel.tools.replay.index_tables import Requests, Sequences, Steps, Table

T = TypeVar("T")


def open_index(path: Path, progress: bool = True, code: CoreCode | None = None) -> "Index":
    """The index of the journal at `path`, a run's directory or a segment: what lies there if it
    still fits, extended or built anew if not. Raises as `open_journal` does.

    `progress`: say on stderr how far a longer pass has come, and where an index is kept if not
    beside the journal. `code`: the core that is asked; an index made with another than the
    installed one is not stored.
    """
    indexer = _Indexer(path, code or installed_core(), progress)
    journal = open_journal(path, indexer.check)
    indexer.finish()
    return Index(journal, indexer)


class Index:
    """What the passes over a journal found. Tables are read when they are first asked for."""

    def __init__(self, journal: Journal, indexer: "_Indexer") -> None:
        self.journal = journal
        self.parts = [indexer.parts[segment.name] for segment in journal.segments]
        self.code = indexer.code
        self._indexer = indexer
        self._packed: dict[tuple[int, str], tuple[bytes, int]] = {}

    @property
    def notes(self) -> list[str]:
        """Lines that a person should see: those of the journal, and where replay loses it."""
        lost = [part.head.divergence for part in self.parts if part.head.divergence]
        return [*self.journal.notes, *map(str, lost)]

    def walk(self, seq: int = 0) -> Walk:
        """A walk that stands just before the first event at or behind `seq`, at the end of the
        journal if there is none. Raises ReplayDiverged."""
        return self._walk_from(self._start_before(seq)).advance(seq)

    def walk_to_step(self, step_id: int) -> Walk:
        """A walk that stands just behind the event that composed this step. Raises ReplayDiverged,
        and LookupError if the journal has no such step."""
        seq = self.seq_of_step(step_id)
        walk = self.walk(seq)
        walk.advance_past(seq)
        return walk

    def seq_of_step(self, step_id: int) -> int:
        """Of the StepBegan that composed it. Raises LookupError, which names those there are."""
        for number in range(len(self.parts)):
            ids = self._column(number, "steps", "step_id")
            place = bisect_left(ids, step_id)
            if place < len(ids) and ids[place] == step_id:
                return self._column(number, "steps", "seq")[place]
        raise LookupError(f"step {step_id} is not in the journal; {self._steps_told()}")

    def position_before(self, number: int, t_ns: int) -> Position:
        """A place in a segment behind which every event at or behind `t_ns` lies."""
        times = self._column(number, "steps", "t_ns")
        place = bisect_left(times, t_ns) - 1
        if place < 0:
            return first_position(self.journal.segments[number])
        offset = self._column(number, "steps", "offset")[place]
        return Position(offset, self._column(number, "steps", "seq")[place])

    @cached_property
    def steps(self) -> "Steps":
        from tokenreel.tools.replay.index_tables import join_steps

        return join_steps(self._tables)

    @property
    def requests(self) -> "Requests":
        return self._requests_and_sequences[0]

    @property
    def sequences(self) -> "Sequences":
        return self._requests_and_sequences[1]

    @cached_property
    def _requests_and_sequences(self) -> "tuple[Requests, Sequences]":
        from tokenreel.tools.replay.index_tables import join_requests

        return join_requests(self._tables)

    def _walk_from(self, start: Start) -> Walk:
        return Walk(self.journal.directory, self.journal.segments, self.code, start)

    def _start_before(self, seq: int) -> Start:
        """The last place at or before `seq` where a walk may begin."""
        number = 0
        for later, segment in enumerate(self.journal.segments):
            if segment.header.first_seq <= seq:
                number = later
        for stored in reversed(self.parts[number].head.snapshots):
            if stored.position.seq <= seq:
                try:
                    snapshot = self.parts[number].snapshot(stored)
                except IndexDamaged:  # an earlier one does as well, it only takes longer
                    continue
                return Start(number, stored.position, snapshot, stored.last_step_id)
        return Start(number)

    def _column(self, number: int, table: str, name: str) -> "array[int]":
        """One column of a segment's table, without the libraries that whole tables need."""
        key = (number, table)
        if key not in self._packed:
            self._packed[key] = self._mended(number, lambda part: part.packed_table(table))
        packed, num_rows = self._packed[key]
        return column_of(TABLES[table], name, packed, num_rows)

    @cached_property
    def _tables(self) -> "list[dict[str, Table]]":
        from tokenreel.tools.replay.index_tables import read_tables

        return [self._mended(number, read_tables) for number in range(len(self.parts))]

    def _mended(self, number: int, read: Callable[[Part], T]) -> T:
        """What `read` finds in a part, which is made anew if it turns out to be damaged."""
        try:
            return read(self.parts[number])
        except IndexDamaged:
            self.parts[number] = self._indexer.build(
                self.journal.directory / self.journal.segments[number].name
            )
            return read(self.parts[number])

    def _steps_told(self) -> str:
        """Which steps there are, for a person."""
        ranges: list[tuple[int, int]] = []
        for number in range(len(self.parts)):
            ids = self._column(number, "steps", "step_id")
            if not ids:
                continue
            if ranges and ids[0] == ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], ids[-1])
            else:
                ranges.append((ids[0], ids[-1]))
        told = ", ".join(f"{first:,} to {last:,}" for first, last in ranges)
        return f"its steps are {told}" if ranges else "it holds no steps"


class _Indexer:
    """Finds, extends or builds the part of each segment as the journal is opened."""

    def __init__(self, path: Path, code: CoreCode, tells: bool) -> None:
        self.code = code
        self.parts: dict[str, Part] = {}
        self._directory = path if path.is_dir() else path.parent
        self._tells = tells
        self._is_kept = code == installed_core()
        self._is_live = is_live(self._directory)
        self._place = IndexPlace(self._directory, self._notify)
        self._progress = Progress("indexing", enabled=tells)
        if path.is_dir():
            self._progress.total = sum(each.path.stat().st_size for each in segments_of(path))
        else:
            self._progress.total = path.stat().st_size if path.exists() else 0

    def check(self, segment: Path) -> SegmentSummary:
        """What a read of the segment finds, from its part if that still fits."""
        known = self._place.find(segment) if self._is_kept else None
        if known is None or known.head.source_hash != self.code.source_hash:
            part = self.build(segment)
        elif is_same_file(known.head.stamp, stamp_of(segment)):
            part = known
        else:
            part = self._look_again(segment, known)
        self.parts[segment.name] = part
        self._progress.advance(part.summary.committed_length)
        return part.summary

    def build(self, segment: Path) -> Part:
        """Reads and replays all of a segment."""
        stamp = stamp_of(segment)
        return self._pass(segment, stamp, read_file(segment), None)

    def finish(self) -> None:
        self._progress.finish()

    def _look_again(self, segment: Path, known: Part) -> Part:
        """The file is, or may be, another than the one that was indexed. If the records that were
        are still there, only those behind them are replayed. Of a run that is being written nothing
        old is read again: its first new record is linked to the last known one."""
        stamp = stamp_of(segment)
        data = read_file(segment)
        if not self._is_live and not _begins_with(data, known.summary):
            return self._pass(segment, stamp, data, None)
        if stamp.num_bytes == known.head.stamp.num_bytes:
            return known if self._is_live else self._store(segment, known.restamped(stamp))
        try:
            return self._pass(segment, stamp, data, known)
        except JournalDamaged:  # or it is a new file of the same name
            return self._pass(segment, stamp, data, None)

    def _pass(self, segment: Path, stamp: FileStamp, data: bytes, known: Part | None) -> Part:
        told = self._progress.update
        packed = SegmentPass(data, segment.name, self.code, known, progress=told).run(stamp)
        return self._store(segment, packed)

    def _store(self, segment: Path, packed: bytes) -> Part:
        return self._place.store(segment, packed) if self._is_kept else part_in_memory(packed)

    def _notify(self, line: str) -> None:
        if self._tells:
            print(f"engine-replay: {line}", file=sys.stderr)


def _begins_with(data: bytes, known: SegmentSummary) -> bool:
    """Whether the segment's first records are those that an earlier read found."""
    if len(data) < known.committed_length:
        return False
    try:
        found = check_segment(data[: known.committed_length], known.name)
    except JournalDamaged:
        return False
    return found == known._replace(torn=None)
