"""The bytes of a journal: segment headers and records, built and taken apart.

No files and no clock: whoever writes or reads a segment hands the bytes over. The format is told
to the byte in docs/journal.md.
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple
from zlib import crc32

MAGIC = b"\x89TKREEL\n"
FORMAT_VERSION = 1
HEADER_BYTES = 104
RECORD_HEADER_BYTES = 32
MAX_RUN_ID_BYTES = 32
MAX_PAYLOAD_BYTES = 64 << 20
MAX_SEGMENT_BYTES = 1 << 30
SNAPSHOT_PART_BYTES = 4 << 20

# Record flags.
INPUT = 1
"""What `Engine.apply` took."""
EFFECT = 2
"""What it returned for the input before it, in order."""
IGNORABLE = 4
"""A reader that does not know the record's type skips it; without this flag it refuses."""
LAST_OF_WRITE = 8
"""The commit mark: everything up to here went out in one write."""
REDACTED = 16

# Record types below 96 are message tags (`messages.codec`).
META = 96
SNAPSHOT = 97
CORE_FAILED = 98
LOGPROBS = 99
RUN_ENDED = 100

# Segment flags.
AFTER_GAP = 1
"""Records before this segment were lost to a write error; it starts from its own snapshot."""

PADDING = tuple(bytes(-size % 8) for size in range(8))

_HEADER = Struct("<8sHHI32sIIQQQQIII")
_RECORD_HEADER = Struct("<IIIHBBQQ")
# What the CRC covers of a record header: all of it but the CRC.
_CHECKED_HEADER = Struct("<IIHBBQQ")
_LENGTH_AND_CRC = Struct("<II")
_U32 = Struct("<I")
_SNAPSHOT_PART = Struct("<II")
_new_tuple = tuple.__new__


class JournalDamaged(Exception):
    """These bytes are not what a recorder wrote: `segment`, `offset` and `reason` say where, what.

    `segment` is the name that the reader was given for the bytes, such as a file name.
    """

    def __init__(self, segment: str, offset: int, reason: str) -> None:
        super().__init__(f"{segment}, offset {offset}: {reason}")
        self.segment = segment
        self.offset = offset
        self.reason = reason


class SegmentHeader(NamedTuple):
    """The first bytes of a segment.

    `previous_length` and `previous_crc` seal the segment before it: its committed length, and the
    CRC of its last record, which through the records' links covers all of them. `wall_ns` and
    `monotonic_ns` are one instant on two clocks; records carry the monotonic one.
    """

    run_id: str
    epoch: int
    number: int
    first_seq: int
    wall_ns: int
    monotonic_ns: int
    salt: int
    flags: int = 0
    previous_length: int = 0
    previous_crc: int = 0


class Record(NamedTuple):
    """One record, with the offset in its segment at which it starts."""

    offset: int
    type: int
    schema: int
    flags: int
    seq: int
    t_ns: int
    payload: bytes


class PendingRecord(NamedTuple):
    """A record that waits for its write. A bare tuple of the same does as well, and costs less."""

    type: int
    flags: int
    payload: bytes
    t_ns: int


def encode_header(header: SegmentHeader) -> bytes:
    run_id = header.run_id.encode("ascii")
    if not 0 < len(run_id) <= MAX_RUN_ID_BYTES:
        raise ValueError(f"a run id has 1 to {MAX_RUN_ID_BYTES} bytes, not {len(run_id)}")
    body = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        HEADER_BYTES,
        header.flags,
        run_id,
        header.epoch,
        header.number,
        header.first_seq,
        header.wall_ns,
        header.monotonic_ns,
        header.previous_length,
        header.previous_crc,
        header.salt,
        0,
    )
    return body + _U32.pack(crc32(body))


def header_crc(encoded: bytes) -> int:
    """The link that a segment's first record holds to the header before it."""
    crc: int = _U32.unpack_from(encoded, HEADER_BYTES - 4)[0]
    return crc


def decode_header(data: bytes, segment: str) -> SegmentHeader:
    """Raises `JournalDamaged`; the caller has checked that HEADER_BYTES bytes are there."""
    if data[:8] != MAGIC:
        raise JournalDamaged(segment, 0, "this is no journal segment (the magic is missing)")
    fields = _HEADER.unpack_from(data)
    version, length = fields[1], fields[2]
    if header_crc(data) != crc32(data[: HEADER_BYTES - 4]):
        raise JournalDamaged(segment, 0, "the segment header is damaged (its CRC does not match)")
    if version != FORMAT_VERSION or length != HEADER_BYTES:
        raise JournalDamaged(
            segment, 8, f"format version {version} is not {FORMAT_VERSION}, the one known here"
        )
    try:
        run_id = fields[4].rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise JournalDamaged(segment, 16, "the run id is not ASCII") from None
    return SegmentHeader(
        run_id=run_id,
        epoch=fields[5],
        number=fields[6],
        first_seq=fields[7],
        wall_ns=fields[8],
        monotonic_ns=fields[9],
        salt=fields[12],
        flags=fields[3],
        previous_length=fields[10],
        previous_crc=fields[11],
    )


class SegmentEncoder:
    """Builds one segment's bytes, write by write, and keeps the link from record to record."""

    def __init__(self, header: SegmentHeader) -> None:
        self.header_bytes = encode_header(header)
        self.last_crc = header_crc(self.header_bytes)
        self._salt = header.salt

    def encode(self, records: Sequence[tuple[int, int, bytes, int]], first_seq: int) -> bytes:
        """The bytes of one write; its last record carries the commit mark."""
        salt, link, seq = self._salt, self.last_crc, first_seq
        pack_checked, pack_start, crc_of = _CHECKED_HEADER.pack, _LENGTH_AND_CRC.pack, crc32
        parts: list[bytes] = []
        last_seq = first_seq + len(records) - 1
        for record_type, flags, payload, t_ns in records:
            size = len(payload)
            if seq == last_seq:
                flags |= LAST_OF_WRITE
            header = pack_checked(size, link, record_type, 0, flags, seq, t_ns)
            padding = PADDING[size & 7]
            link = crc_of(padding, crc_of(payload, crc_of(header, salt)))
            parts += (pack_start(size, link), header[4:], payload, padding)
            seq += 1
        self.last_crc = link
        return b"".join(parts)


def read_record(data: memoryview, offset: int, salt: int) -> tuple[Record, int, int] | None:
    """The record at `offset`, its CRC and its link; None if the bytes there are not a whole record
    of the segment with this salt. Memory is taken only for a length that the bytes bear out."""
    if offset + RECORD_HEADER_BYTES > len(data):
        return None
    size, crc, link, record_type, schema, flags, seq, t_ns = _RECORD_HEADER.unpack_from(
        data, offset
    )
    start = offset + RECORD_HEADER_BYTES
    end = start + size + (-size & 7)
    if size > MAX_PAYLOAD_BYTES or end > len(data):
        return None
    if crc32(data[offset + 8 : end], crc32(data[offset : offset + 4], salt)) != crc:
        return None
    payload = bytes(data[start : start + size])
    # What Record(...) does, without its detour: a fifth of what reading a record costs.
    record = _new_tuple(Record, (offset, record_type, schema, flags, seq, t_ns, payload))
    return record, crc, link


def find_record_after(data: memoryview, offset: int, salt: int, expected_seq: int) -> int | None:
    """Where a valid record starts at or behind `offset`, which lies behind a bad one; None if
    nowhere. Only a `seq` that the bytes between leave room for is worth a checksum."""
    for candidate in range(offset + (-offset & 7), len(data) - RECORD_HEADER_BYTES + 1, 8):
        seq = int.from_bytes(data[candidate + 16 : candidate + 24], "little")
        if expected_seq <= seq <= expected_seq + (candidate - offset) // RECORD_HEADER_BYTES + 1:
            if read_record(data, candidate, salt) is not None:
                return candidate
    return None


def split_snapshot(snapshot: bytes) -> list[bytes]:
    """The payloads of the SNAPSHOT records that hold it: part number, number of parts, bytes."""
    starts = range(0, max(len(snapshot), 1), SNAPSHOT_PART_BYTES)
    return [
        _SNAPSHOT_PART.pack(index, len(starts)) + snapshot[start : start + SNAPSHOT_PART_BYTES]
        for index, start in enumerate(starts)
    ]


def num_snapshot_parts(payload: bytes) -> int:
    """How many SNAPSHOT payloads make the snapshot that this is a part of; 0 if it is none."""
    if len(payload) < _SNAPSHOT_PART.size:
        return 0
    return int(_SNAPSHOT_PART.unpack_from(payload)[1])


def join_snapshot(payloads: Sequence[bytes]) -> bytes | None:
    """The snapshot of these SNAPSHOT payloads; None if they are not all of its parts, in order."""
    for index, payload in enumerate(payloads):
        if len(payload) < _SNAPSHOT_PART.size:
            return None
        if _SNAPSHOT_PART.unpack_from(payload) != (index, len(payloads)):
            return None
    return b"".join(payload[_SNAPSHOT_PART.size :] for payload in payloads) if payloads else None
