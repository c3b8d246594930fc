"""The index of a journal: any state of the core within a moment, and tables of what happened.

Beside each segment lies a file with its part (`part`). Steps and requests are told as they
were recorded; snapshots are of the core that is asked, and are made anew when its source changes.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index.indexer import Indexer
from tokenreel.tools.replay.index.part import IndexDamaged, Part
from tokenreel.tools.replay.index.rows import TABLES, Completion, Step, column_of, row_at
from tokenreel.tools.replay.index.walk import Start, Walk
from tokenreel.tools.replay.reading.journal import Journal, open_journal, reading

if TYPE_CHECKING:
    from array import array

    from tokenreel.tools.replay.index.tables import Requests, Sequences, Steps, Table

T = TypeVar("T")


def open_index(
    path: Path, progress: bool = True, code: CoreCode | None = None, anew: bool = False
) -> "Index":
    """The index of the journal at `path`, a run's directory or a segment: what lies there if it
    still fits, extended or built anew if not. Raises as `open_journal` does.

    `progress`: say on stderr how far a longer pass has come, and where an index is kept if not
    beside the journal. `code`: the core that is asked; an index made with another than the
    installed one is not stored. `anew`: what lies there is made again.
    """
    began = time.monotonic()
    with reading(path):
        indexer = Indexer(path, code or installed_core(), progress, anew)
    journal = open_journal(path, indexer.check)
    indexer.finish()
    return Index(journal, indexer, time.monotonic() - began)


class Index:
    """What the passes over a journal found. Tables are read when they are first asked for."""

    def __init__(self, journal: Journal, indexer: Indexer, duration_s: float) -> None:
        self.journal = journal
        self.parts = [indexer.parts[segment.name] for segment in journal.segments]
        self.made = indexer.made
        """Of each segment's part, by the segment's name, whether it was reused, extended, built."""
        self.kept = indexer.kept
        self.code = indexer.code
        self.duration_s = duration_s
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
        return self.step(step_id).seq

    def step(self, step_id: int) -> Step:
        """One row of `steps`. Raises LookupError, which names the steps there are."""
        for number, part in enumerate(self.parts):
            if not part.head.first_step_id <= step_id <= part.head.last_step_id:
                continue
            ids = self._column(number, "steps", "step_id")
            place = bisect_left(ids, step_id)
            if place < len(ids) and ids[place] == step_id:
                row: Step = row_at(Step, *self._packed_table(number, "steps"), place)
                return row if row.completed_seq else self._completed_later(row, number + 1)
        raise LookupError(f"step {step_id:,} is not in the journal; {self._steps_told()}")

    @cached_property
    def steps(self) -> "Steps":
        from tokenreel.tools.replay.index.tables import join_steps

        return join_steps(self._tables)

    @property
    def requests(self) -> "Requests":
        return self._requests_and_sequences[0]

    @property
    def sequences(self) -> "Sequences":
        return self._requests_and_sequences[1]

    @cached_property
    def _requests_and_sequences(self) -> "tuple[Requests, Sequences]":
        from tokenreel.tools.replay.index.tables import join_requests

        return join_requests(self._tables)

    def _walk_from(self, start: Start) -> Walk:
        return Walk(self.journal.directory, self.journal.segments, self.code, start)

    def _start_before(self, seq: int) -> Start:
        """The last place at or before `seq` where a walk may begin."""
        number = 0
        for later, segment in enumerate(self.journal.segments):
            if segment.header.first_seq <= seq:
                number = later
        part = self.parts[number]
        for stored in reversed(part.head.snapshots):
            if stored.position.seq <= seq:
                try:
                    snapshot = part.snapshot(stored)
                except IndexDamaged:  # an earlier one does as well, it only takes longer
                    continue
                return Start(number, stored.position, snapshot, stored.last_step_id)
        return Start(number)

    def _column(self, number: int, table: str, name: str) -> "array[int]":
        """One column of a segment's table, without the libraries that whole tables need."""
        return column_of(TABLES[table], name, *self._packed_table(number, table))

    def _packed_table(self, number: int, table: str) -> tuple[bytes, int]:
        key = (number, table)
        if key not in self._packed:
            self._packed[key] = self._mended(number, lambda part: part.packed_table(table))
        return self._packed[key]

    def _completed_later(self, row: Step, number: int) -> Step:
        """With what a segment behind its own says of it."""
        for later in range(number, len(self.parts)):
            ids = self._column(later, "late_completions", "step_id")
            if row.step_id in ids:
                packed = self._packed_table(later, "late_completions")
                late = row_at(Completion, *packed, ids.index(row.step_id))
                for name in late.__struct_fields__:
                    setattr(row, name, getattr(late, name))
                return row
        return row

    @cached_property
    def _tables(self) -> "list[dict[str, Table]]":
        from tokenreel.tools.replay.index.tables import read_tables

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
        for part in self.parts:
            first, last = part.head.first_step_id, part.head.last_step_id
            if ranges and first == ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], last)
            elif first:
                ranges.append((first, last))
        told = ", ".join(f"{first:,} to {last:,}" for first, last in ranges)
        return f"its steps are {told}" if ranges else "it holds no steps"
