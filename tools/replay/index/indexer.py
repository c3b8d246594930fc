"""Finds, extends or builds the parts of an index, one per segment, as a journal is opened."""

import sys
from pathlib import Path
from typing import Literal

from tokenreel.actors.runtime.journal_directory import is_live, segments_of
from tokenreel.messages.journal import HEADER_BYTES, JournalDamaged, decode_header
from tokenreel.messages.journal_reader import SegmentSummary, check_segment
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index.indexing_pass import SegmentPass
from tokenreel.tools.replay.index.part import FileStamp, IndexDamaged, Part, part_in_memory
from tokenreel.tools.replay.index.place import IndexPlace, is_same_file, stamp_of
from tokenreel.tools.replay.progress import Progress
from tokenreel.tools.replay.reading.journal import read_file

Made = Literal["reused", "checked", "extended", "built"]
"""Checked: the segment was read again, and is what it was."""


class Indexer:
    def __init__(self, path: Path, code: CoreCode, tells: bool, anew: bool) -> None:
        self.code = code
        self.parts: dict[str, Part] = {}
        self.made: dict[str, Made] = {}
        self._directory = path if path.is_dir() else path.parent
        self._tells = tells
        self._is_kept = code == installed_core()
        self._is_sought = self._is_kept and not anew
        self._is_live = is_live(self._directory)
        self._place = IndexPlace(self._directory, self._notify)
        self._progress = Progress("indexing", enabled=tells)
        if path.is_dir():
            self._progress.total = sum(each.path.stat().st_size for each in segments_of(path))
        elif path.exists():
            self._progress.total = path.stat().st_size

    @property
    def kept(self) -> str:
        """Where the parts are, for a person."""
        if not self._is_kept:
            return "nowhere: it was made with a core that is not the installed one"
        return self._place.kept

    def check(self, segment: Path) -> SegmentSummary:
        """What a read of the segment finds, from its part if that still fits."""
        known = self._place.find(segment) if self._is_sought else None
        if known is None or not self._is_of(known, segment):
            part = self.build(segment)
        elif is_same_file(known.head.stamp, stamp_of(segment)):
            part = self._note("reused", segment, known)
        else:
            part = self._look_again(segment, known)
        self.parts[segment.name] = part
        self._progress.advance(part.summary.committed_length)
        return part.summary

    def build(self, segment: Path) -> Part:
        """Reads and replays all of a segment."""
        stamp = stamp_of(segment)
        return self._pass("built", segment, stamp, read_file(segment), None)

    def finish(self) -> None:
        self._progress.finish()

    def _is_of(self, known: Part, segment: Path) -> bool:
        """Whether a part tells of this very segment, and of the core that is asked."""
        header = read_file(segment, HEADER_BYTES)
        if known.head.source_hash != self.code.source_hash or len(header) < HEADER_BYTES:
            return False
        if known.summary.name != segment.name:
            return False
        try:
            return decode_header(header, segment.name) == known.summary.header
        except JournalDamaged:
            return False

    def _look_again(self, segment: Path, known: Part) -> Part:
        """The file is, or may be, another than the one that was indexed. If the records that were
        are still there, only those behind them are replayed. Of a run that is being written nothing
        old is read again: its first new record is linked to the last known one."""
        stamp = stamp_of(segment)
        data = read_file(segment)
        try:
            if self._is_live or _begins_with(data, known.summary):
                return self._bring_up_to_date(segment, stamp, data, known)
        except (IndexDamaged, JournalDamaged):
            pass  # damage will be found again below, unless it is the part that is wrong
        return self._pass("built", segment, stamp, data, None)

    def _bring_up_to_date(self, segment: Path, stamp: FileStamp, data: bytes, known: Part) -> Part:
        if len(data) != known.head.stamp.num_bytes:
            return self._pass("extended", segment, stamp, data, known)
        part = known if self._is_live else self._store(segment, known.restamped(stamp))
        return self._note("checked", segment, part)

    def _pass(
        self, made: Made, segment: Path, stamp: FileStamp, data: bytes, known: Part | None
    ) -> Part:
        told = self._progress.update
        packed = SegmentPass(data, segment.name, self.code, known, progress=told).run(stamp)
        return self._note(made, segment, self._store(segment, packed))

    def _store(self, segment: Path, packed: bytes) -> Part:
        return self._place.store(segment, packed) if self._is_kept else part_in_memory(packed)

    def _note(self, made: Made, segment: Path, part: Part) -> Part:
        self.made[segment.name] = made
        return part

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
