"""Reads one segment's bytes and tells damage from a torn tail. Never writes, never repairs.

A bad record with a valid one behind it is damage: the segment is refused, with the offset. A bad
record with none behind it is a torn tail, what a crash leaves of the last write: everything up to
the last commit mark counts. A valid record of a kind that is unknown here, and not marked as
ignorable, is refused like a damaged one.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tokenreel.messages.journal import (
    AFTER_GAP,
    CORE_FAILED,
    EFFECT,
    HEADER_BYTES,
    IGNORABLE,
    INPUT,
    LAST_OF_WRITE,
    MAX_SEGMENT_BYTES,
    META,
    RECORD_HEADER_BYTES,
    REDACTED,
    RUN_ENDED,
    SNAPSHOT,
    JournalDamaged,
    Record,
    SegmentHeader,
    decode_header,
    find_record_after,
    header_crc,
    read_record,
)

OWN_TYPES = frozenset((META, SNAPSHOT, CORE_FAILED, RUN_ENDED))
"""Of records that are neither input nor effect, and that nobody may skip."""

_INPUT_AND_EFFECT = INPUT | EFFECT
_KNOWN_FLAGS = INPUT | EFFECT | IGNORABLE | LAST_OF_WRITE | REDACTED
_IS_PLAIN = tuple(
    not flags & ~_KNOWN_FLAGS and flags & _INPUT_AND_EFFECT in (INPUT, EFFECT)
    for flags in range(256)
)
"""By a record's flags: an input or an effect, and nothing that is unknown here."""


class TornTail(NamedTuple):
    """Bytes behind the last commit mark, which are no whole write."""

    offset: int
    num_bytes: int


class SegmentReader:
    """The committed records of one segment, in order: iterate over it, once.

    What stands below `__init__` is known after the iteration. Iterating raises `JournalDamaged`.
    """

    def __init__(self, data: bytes, segment: str, known: "SegmentSummary | None" = None) -> None:
        """With `known`, what an earlier read of this segment found, only what was written since
        is read."""
        if len(data) < HEADER_BYTES:
            raise JournalDamaged(segment, 0, f"cut within its header ({len(data)} bytes)")
        if len(data) > MAX_SEGMENT_BYTES:
            raise JournalDamaged(segment, 0, f"longer than {MAX_SEGMENT_BYTES} bytes")
        self.segment = segment
        self.header = decode_header(data, segment)
        self._data = memoryview(data)
        self.committed_length = known.committed_length if known else HEADER_BYTES
        self.last_crc = known.last_crc if known else header_crc(data[:HEADER_BYTES])
        self.next_seq = known.next_seq if known else self.header.first_seq
        self.num_records = known.num_records if known else 0
        self.last_t_ns = known.last_t_ns if known else self.header.monotonic_ns
        self.last_type = known.last_type if known else -1
        self.torn: TornTail | None = None

    def __iter__(self) -> Iterator[Record]:
        data, salt = self._data, self.header.salt
        offset, link, seq = self.committed_length, self.last_crc, self.next_seq
        batch: list[Record] = []
        while (found := read_record(data, offset, salt)) is not None:
            record, crc, record_link = found
            if record_link != link or record.seq != seq:
                raise self._broken_link(record, seq)
            if record.schema or not _IS_PLAIN[record.flags]:
                require_known(record, self.segment)
            size = len(record.payload)
            offset += RECORD_HEADER_BYTES + size + (-size & 7)
            link = crc
            seq += 1
            batch.append(record)
            if record.flags & LAST_OF_WRITE:
                self.committed_length, self.last_crc, self.next_seq = offset, crc, seq
                self.num_records += len(batch)
                self.last_t_ns, self.last_type = record.t_ns, record.type
                yield from batch
                batch = []
        if offset < len(data):
            self._require_nothing_behind(offset, seq)
        if self.num_records == 0:
            self.torn = TornTail(0, len(data))
        elif self.committed_length < len(data):
            self.torn = TornTail(self.committed_length, len(data) - self.committed_length)

    def _require_nothing_behind(self, offset: int, expected_seq: int) -> None:
        later = find_record_after(self._data, offset + 8, self.header.salt, expected_seq)
        if later is not None:
            raise JournalDamaged(
                self.segment,
                offset,
                f"the record with seq {expected_seq} is damaged, "
                f"and a valid one follows at offset {later}",
            )

    def _broken_link(self, record: Record, expected_seq: int) -> JournalDamaged:
        reason = (
            f"seq {record.seq} where {expected_seq} belongs: records are missing or added"
            if record.seq != expected_seq
            else f"the record with seq {record.seq} does not follow the one before it"
        )
        return JournalDamaged(self.segment, record.offset, reason)


def require_known(record: Record, segment: str) -> None:
    """What this version does not know may be skipped only if its writer said so. Raises
    `JournalDamaged`."""
    if record.flags & ~_KNOWN_FLAGS or record.flags & _INPUT_AND_EFFECT == _INPUT_AND_EFFECT:
        strange = f"has flags {record.flags:#04x}, which are unknown here"
    elif record.flags & IGNORABLE:
        return
    elif record.schema:
        strange = f"has schema {record.schema}, which is unknown here"
    elif not record.flags & _INPUT_AND_EFFECT and record.type not in OWN_TYPES:
        strange = f"has type {record.type}, which is unknown here and may not be ignored"
    else:
        return
    raise JournalDamaged(
        segment,
        record.offset,
        f"the record with seq {record.seq} {strange}: a later version wrote it",
    )


class SegmentSummary(NamedTuple):
    """What a whole read of a segment found; what the next segment's header must agree with."""

    name: str
    header: SegmentHeader
    committed_length: int
    last_crc: int
    next_seq: int
    num_records: int
    last_t_ns: int
    last_type: int
    torn: TornTail | None


def check_segment(data: bytes, name: str) -> SegmentSummary:
    """Read all of a segment. Raises `JournalDamaged`, also if it holds no META first."""
    reader = SegmentReader(data, name)
    first_type = None
    for record in reader:
        if first_type is None:
            first_type = record.type
    if first_type not in (META, None):
        raise JournalDamaged(name, HEADER_BYTES, "the first record is not META")
    return summary_of(reader)


def summary_of(reader: SegmentReader) -> SegmentSummary:
    """What `reader`, which has come to the end, has found."""
    return SegmentSummary(
        reader.segment,
        reader.header,
        reader.committed_length,
        reader.last_crc,
        reader.next_seq,
        reader.num_records,
        reader.last_t_ns,
        reader.last_type,
        reader.torn,
    )


def check_order(segments: list[SegmentSummary]) -> None:
    """Raises `JournalDamaged` unless these are the consecutive segments of one run, each sealed by
    the next. The first may have any number: older ones may have been dropped. Only the last one,
    and one before a marked gap, may end in a torn tail."""
    for previous, segment in zip(segments, segments[1:], strict=False):
        _check_follows(previous, segment)


def _check_follows(previous: SegmentSummary, segment: SegmentSummary) -> None:
    before, header = previous.header, segment.header
    if header.run_id != before.run_id:
        raise JournalDamaged(
            segment.name, 16, f"belongs to run {header.run_id}, not to run {before.run_id}"
        )
    if header.number != before.number + 1 or header.epoch < before.epoch:
        raise JournalDamaged(
            segment.name,
            48,
            f"segment {before.number + 1} of the run is missing "
            f"between {previous.name} and {segment.name}",
        )
    if header.flags & AFTER_GAP:
        if header.first_seq < previous.next_seq:
            raise JournalDamaged(segment.name, 56, "starts before the segment before it ended")
        return
    sealed = (header.previous_length, header.previous_crc, header.first_seq)
    found = (previous.committed_length, previous.last_crc, previous.next_seq)
    if previous.torn is not None or sealed != found:
        raise JournalDamaged(
            previous.name,
            previous.committed_length,
            f"ends at offset {previous.committed_length} with seq {previous.next_seq - 1}, but "
            f"{segment.name} was written when it ended at offset {header.previous_length} "
            f"with seq {header.first_seq - 1}",
        )
