"""Reads committed records of a segment from a known place on, a piece of the file at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tokenreel.messages.journal import (
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    JournalDamaged,
    Record,
    read_record,
)
from tokenreel.messages.journal_reader import SegmentSummary
from tokenreel.tools.replay.reading.journal import reading

PIECE_BYTES = 1 << 20


class Position(NamedTuple):
    """Between two records of a segment: `offset` and `seq` are those of the record behind it."""

    offset: int
    seq: int


def first_position(segment: SegmentSummary) -> Position:
    """Before the first record of a segment."""
    return Position(HEADER_BYTES, segment.header.first_seq)


def committed_records(
    directory: Path, segment: SegmentSummary, position: Position
) -> Iterator[Record]:
    """The records from `position` to the last commit mark. Each is checked again as it is read;
    raises JournalDamaged if the file is no longer what it was when `segment` was found out."""
    offset, seq = position
    link: int | None = None
    num_bytes = PIECE_BYTES
    path = directory / segment.name
    with reading(path), open(path, "rb", buffering=0) as file:
        while offset < segment.committed_length:
            file.seek(offset)
            piece = memoryview(file.read(min(num_bytes, segment.committed_length - offset)))
            start = 0
            while (found := read_record(piece, start, segment.header.salt)) is not None:
                record, crc, record_link = found
                if record.seq != seq or link not in (None, record_link):
                    raise _changed(segment, offset + start)
                size = len(record.payload)
                yield record._replace(offset=offset + start)
                start += RECORD_HEADER_BYTES + size + (-size & 7)
                link, seq = crc, seq + 1
            if start == 0 and len(piece) < num_bytes:
                raise _changed(segment, offset)
            num_bytes = PIECE_BYTES if start else 2 * num_bytes  # a record longer than a piece
            offset += start


def _changed(segment: SegmentSummary, offset: int) -> JournalDamaged:
    return JournalDamaged(segment.name, offset, "the record there is not the one that was indexed")
