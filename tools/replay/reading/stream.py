"""A run's records from front to back in little memory, on request while they are being written.

Nothing is checked ahead: what is whole is handed out, and damage is met where it is.
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tokenreel.actors.runtime.journal_directory import is_live
from tokenreel.messages.journal import (
    HEADER_BYTES,
    LAST_OF_WRITE,
    RECORD_HEADER_BYTES,
    RUN_ENDED,
    JournalDamaged,
    Record,
    SegmentHeader,
    decode_header,
    header_crc,
    read_record,
)
from tokenreel.messages.journal_reader import (
    SegmentSummary,
    check_order,
    check_segment,
    require_known,
)
from tokenreel.tools.replay.reading.journal import (
    read_file,
    reading,
    segment_files,
    torn_note,
)

CHUNK_BYTES = 1 << 20
POLL_S = 0.2


class StreamedRecord(NamedTuple):
    segment: str
    record: Record


class RunStream:
    """Iterate over it, once. `notes`, lines that a person should see, are complete only then.

    `skips` is asked with the header of a segment and with that of the run's first one: whether
    nothing before that segment is wanted. With `follow`, the end of what is written is not the
    end: the stream waits for more until the run has ended.
    """

    def __init__(
        self,
        path: Path,
        skips: Callable[[SegmentHeader, SegmentHeader], bool] = lambda header, first: False,
        *,
        follow: bool = False,
        wait: Callable[[], None] = lambda: time.sleep(POLL_S),
    ) -> None:
        """Raises JournalMissing, and JournalDamaged if the run has no readable start."""
        self.notes: list[str] = []
        self._path = path
        self._follow = follow
        self._wait = wait
        with reading(path):
            files, self._directory = segment_files(path)
            self.first_header = _header_of(files[0])
            self._first = _first_wanted(files, lambda header: skips(header, self.first_header))

    def __iter__(self) -> Iterator[StreamedRecord]:
        previous: SegmentSummary | None = None
        file: Path | None = self._first
        with reading(self._path):
            while file is not None:
                with _Tail(file) as tail:
                    yield from self._read_out(tail)
                    file = self._next_file(tail.path)
                    if tail.is_empty and file is None and previous is not None:
                        self.notes.append(f"{tail.name} was only begun and is left out")
                        break
                    summary = tail.finish()
                if not summary.num_records:
                    raise JournalDamaged(summary.name, HEADER_BYTES, "holds no complete write")
                if previous is not None:
                    check_order([previous, summary])
                if summary.torn is not None:
                    self.notes.append(torn_note(summary.name, summary.torn))
                previous = summary
        if previous is not None and previous.last_type != RUN_ENDED and self._path.is_dir():
            self.notes.append(self._end_note())

    def _read_out(self, tail: "_Tail") -> Iterator[StreamedRecord]:
        """All that is in this segment, and all that will be."""
        while True:
            # Asked before the reading, so that nothing is written between it and the answer.
            is_sealed = self._next_file(tail.path) is not None
            is_growing = self._follow and not is_sealed and is_live(self._directory)
            while records := tail.read():
                yield from (StreamedRecord(tail.name, record) for record in records)
            if not is_growing or tail.last_type == RUN_ENDED:
                return
            self._wait()

    def _next_file(self, file: Path) -> Path | None:
        if not self._path.is_dir():
            return None
        files, _ = segment_files(self._path)
        behind = files.index(file) + 1 if file in files else 0  # it was deleted for room
        return files[behind] if behind < len(files) else None

    def _end_note(self) -> str:
        if is_live(self._directory):
            return "the run is still going on; this is what it had written"
        return "the run did not end tidily: no RUN_ENDED record"


class _Tail:
    """One segment, read as far as it is written. `read` again for what came since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.last_type = -1
        self._file = io.FileIO(path)
        self._header: SegmentHeader | None = None
        self._length = 0
        """How far the whole writes reach that were handed out."""
        self._crc = self._next_seq = self._num_records = self._last_t_ns = 0

    def __enter__(self) -> "_Tail":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> list[Record]:
        """The records of one or more whole writes; none if there is no further one yet.

        Each time the bytes behind the last whole write are read anew: a write that failed half way
        may have been taken back.
        """
        if self._header is None and not self._read_header():
            return []
        size = CHUNK_BYTES
        while True:
            data = os.pread(self._file.fileno(), size, self._length)
            records = self._take(data)
            if records or len(data) < size:
                return records
            size *= 2

    @property
    def is_empty(self) -> bool:
        return self._num_records == 0

    def finish(self) -> SegmentSummary:
        """What was read, nothing more being written. Bytes that are no whole write are a torn tail,
        or else raise JournalDamaged."""
        if self._header is None or os.fstat(self._file.fileno()).st_size > self._length:
            return check_segment(read_file(self.path), self.name)
        return SegmentSummary(
            self.name,
            self._header,
            self._length,
            self._crc,
            self._next_seq,
            self._num_records,
            self._last_t_ns,
            self.last_type,
            None,
        )

    def _read_header(self) -> bool:
        data = os.pread(self._file.fileno(), HEADER_BYTES, 0)
        if len(data) < HEADER_BYTES:
            return False
        self._header = header = decode_header(data, self.name)
        self._length, self._crc = HEADER_BYTES, header_crc(data)
        self._next_seq, self._last_t_ns = header.first_seq, header.monotonic_ns
        return True

    def _take(self, data: bytes) -> list[Record]:
        """The whole writes at the start of `data`, which follow what was handed out before."""
        assert self._header is not None
        view, salt, base = memoryview(data), self._header.salt, self._length
        offset, link, seq, num_committed = 0, self._crc, self._next_seq, 0
        records: list[Record] = []
        while (found := read_record(view, offset, salt)) is not None:
            record, crc, record_link = found
            if record_link != link or record.seq != seq:
                break
            record = record._replace(offset=base + offset)
            require_known(record, self.name)
            records.append(record)
            size = len(record.payload)
            offset += RECORD_HEADER_BYTES + size + (-size & 7)
            link, seq = crc, seq + 1
            if record.flags & LAST_OF_WRITE:
                num_committed = len(records)
                self._length, self._crc, self._next_seq = base + offset, crc, seq
                self._last_t_ns, self.last_type = record.t_ns, record.type
        self._num_records += num_committed
        return records[:num_committed]


def _header_of(path: Path) -> SegmentHeader:
    data = read_file(path, HEADER_BYTES)
    if len(data) < HEADER_BYTES:
        raise JournalDamaged(path.name, 0, f"cut within its header ({len(data)} bytes)")
    return decode_header(data, path.name)


def _first_wanted(files: list[Path], skips: Callable[[SegmentHeader], bool]) -> Path:
    """The last segment before which nothing is wanted."""
    for file in reversed(files[1:]):
        if file.stat().st_size >= HEADER_BYTES and skips(_header_of(file)):
            return file
    return files[0]
