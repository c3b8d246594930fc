"""Opens a captured journal for reading: all of it is checked before anything is believed."""

import argparse
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tokenreel.actors.runtime.journal_directory import is_live, runs_in, segments_of
from tokenreel.messages.journal import (
    HEADER_BYTES,
    MAX_SEGMENT_BYTES,
    RUN_ENDED,
    JournalDamaged,
    Record,
    SegmentHeader,
)
from tokenreel.messages.journal_reader import (
    SegmentReader,
    SegmentSummary,
    TornTail,
    check_order,
    check_segment,
)


class JournalMissing(Exception):
    """There is no journal at this path, or it cannot be read."""


class Journal(NamedTuple):
    """A checked journal. `notes` are lines that a person should see."""

    path: Path
    segments: list[SegmentSummary]
    directory: Path
    has_ended: bool
    is_live: bool
    notes: list[str]

    @property
    def run_id(self) -> str:
        return self.segments[0].header.run_id

    @property
    def span_ns(self) -> int:
        """From the start of the first segment to the last record."""
        return max(0, self.segments[-1].last_t_ns - self.segments[0].header.monotonic_ns)


def add_journal_argument(parser: argparse.ArgumentParser) -> None:
    """As every verb takes it: `options.journal`."""
    parser.add_argument(
        "journal",
        type=Path,
        metavar="JOURNAL",
        help="a run's directory, <journal-dir>/<run-id>, or one segment file of it",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says of a file into a line about the journal: JournalMissing."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise JournalMissing(f"cannot read {place}: {error.strerror}") from error


def check_file(path: Path) -> SegmentSummary:
    """Reads all of a segment file. Raises JournalDamaged, JournalMissing or OSError."""
    return check_segment(read_file(path), path.name)


def open_journal(path: Path, check: Callable[[Path], SegmentSummary] = check_file) -> Journal:
    """The run in the directory `path`, or the one segment that it names. `check` reads a segment
    file, or knows already what a read of it found.

    Raises JournalMissing, and JournalDamaged as `messages.journal_reader` tells.
    """
    with reading(path):
        files, directory = segment_files(path)
        live = is_live(directory)
        segments, notes = _check_files(files, check)
    return _describe(path, directory, segments, live, notes)


def segment_files(path: Path) -> tuple[list[Path], Path]:
    """The segments of the run that `path` is, in order, or the one segment that it names; and the
    directory that they lie in. Raises JournalMissing or OSError."""
    if not path.is_dir():
        return [path], path.parent
    files = [segment.path for segment in segments_of(path)]
    if not files:
        raise JournalMissing(_no_segments(path))
    return files, path


def read_records(journal: Journal) -> Iterator[tuple[SegmentHeader, str, Iterator[Record]]]:
    """Per segment its header, its name and its committed records."""
    for segment in journal.segments:
        path = journal.directory / segment.name
        with reading(path):
            data = read_file(path, segment.committed_length)
        reader = SegmentReader(data, segment.name)
        yield reader.header, segment.name, iter(reader)


def torn_note(name: str, torn: TornTail) -> str:
    """What a person should know of it."""
    return (
        f"{name} ends in a torn tail: {torn.num_bytes} bytes from offset {torn.offset} on "
        "are no whole write and are left out"
    )


def _check_files(
    files: list[Path], check: Callable[[Path], SegmentSummary]
) -> tuple[list[SegmentSummary], list[str]]:
    segments: list[SegmentSummary] = []
    notes: list[str] = []
    for path in files:
        is_last = path == files[-1]
        num_bytes = path.stat().st_size
        if is_last and segments and num_bytes < HEADER_BYTES:
            notes.append(torn_note(path.name, TornTail(0, num_bytes)))
            break
        segment = check(path)
        if segment.torn is not None:
            notes.append(torn_note(segment.name, segment.torn))
        if segment.num_records == 0:
            if is_last and segments:
                break
            raise JournalDamaged(segment.name, HEADER_BYTES, "holds no complete write")
        segments.append(segment)
    check_order(segments)
    return segments, notes


def _describe(
    path: Path, directory: Path, segments: list[SegmentSummary], live: bool, notes: list[str]
) -> Journal:
    first, last = segments[0], segments[-1]
    if first.header.number > 0:
        notes.append(f"starts at segment {first.header.number}, from its snapshot")
    has_ended = last.last_type == RUN_ENDED
    if live:
        notes.append("the run is still going on; this is what it had written")
    elif not has_ended and path == directory:
        notes.append("the run did not end tidily: no RUN_ENDED record")
    return Journal(path, segments, directory, has_ended, live, notes)


def _no_segments(path: Path) -> str:
    runs = runs_in(path)
    if runs:
        return f"{path} holds {len(runs)} runs; name one, such as the latest: {runs[-1]}"
    return f"{path} holds no journal segments (engine-*.tkr)"


def read_file(path: Path, max_bytes: int = MAX_SEGMENT_BYTES) -> bytes:
    """At most `max_bytes` of a regular file; a longer one than a segment may be is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise JournalMissing(f"{path} is no regular file")
        if status.st_size > MAX_SEGMENT_BYTES:
            raise JournalDamaged(path.name, 0, f"longer than {MAX_SEGMENT_BYTES} bytes")
        return file.read(min(status.st_size, max_bytes))
