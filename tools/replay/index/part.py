"""The index of one segment, as a value and as the bytes of a file beside it.

    magic, version, CRC of the schema, length and CRC of the head | head | tables | snapshots

The head, a msgpack map, says where everything else lies, with its CRC. Nothing is believed that
does not check out: whoever reads gets `IndexDamaged` and builds the part anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from tokenreel.messages.journal_reader import SegmentSummary
from tokenreel.tools.replay.index.replica import DivergedAt
from tokenreel.tools.replay.index.rows import TABLES, Row, pack_rows, schema, unpack_rows
from tokenreel.tools.replay.index.snapshots import (
    PoolChange,
    UnpackFailed,
    pack_change,
    restored,
    unpack_change,
)
from tokenreel.tools.replay.reading.committed import Position

MAGIC = b"\x89TKINDX\n"
FORMAT_VERSION = 2
"""Changes with the meaning of anything in the file. What columns there are, it tells itself."""
MAX_HEAD_BYTES = 16 << 20
_START = Struct("<8sIIII")


class IndexDamaged(Exception):
    """These bytes are not what was written as an index, or not by this version."""


class FileStamp(msgspec.Struct, frozen=True, array_like=True):
    """What tells that a file is the one that was read, and how it was then."""

    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    seen_ns: int
    """On the same clock, when it was read: a file that changed just before may change again
    without its times telling so."""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A piece of the index file."""

    offset: int
    num_bytes: int
    crc: int


NOWHERE = Extent(0, 0, 0)


class StoredTable(msgspec.Struct, frozen=True, array_like=True):
    name: str
    num_rows: int
    extent: Extent


class StoredSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The core before the record at `position`, behind the step `last_step_id`: `num_bytes` with
    this CRC, kept in two pieces (`snapshots`)."""

    position: Position
    last_step_id: int
    t_ns: int
    num_bytes: int
    crc: int
    is_whole: bool = False
    rest: Extent = NOWHERE
    change: Extent = NOWHERE


class KeptSnapshot(NamedTuple):
    """One that is being kept, with its pieces."""

    stored: StoredSnapshot
    rest: bytes
    change: PoolChange


class PartHead(msgspec.Struct, frozen=True, kw_only=True):
    """`summary` is what a read of the whole segment found. `source_hash` is of the core that made
    the snapshots."""

    source_hash: bytes
    stamp: FileStamp
    summary: SegmentSummary
    num_events: int
    first_step_id: int
    last_step_id: int
    """Of the steps that began in the segment; both 0 if none did."""
    divergence: DivergedAt | None
    failure: str
    """What the core raised at the segment's last input; empty if nothing."""
    tables: list[StoredTable] = []
    snapshots: list[StoredSnapshot] = []


_SCHEMA_CRC = crc32(schema().encode())
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PartHead)


class Part:
    """The index of one segment. Tables and snapshots are read when they are asked for; raises
    IndexDamaged if they do not check out."""

    def __init__(self, head: PartHead, read: Callable[[int, int], bytes], start: int) -> None:
        """`read(offset, num_bytes)` gives a piece of the file; extents count from `start` on."""
        self.head = head
        self._read = read
        self._start = start

    @property
    def summary(self) -> SegmentSummary:
        return self.head.summary

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self._start + sum(extent.num_bytes for extent in self._extents())

    @property
    def num_snapshot_bytes(self) -> int:
        stored = self.head.snapshots
        return sum(each.rest.num_bytes + each.change.num_bytes for each in stored)

    def num_rows(self, name: str) -> int:
        return next(table.num_rows for table in self.head.tables if table.name == name)

    def packed_table(self, name: str) -> tuple[bytes, int]:
        """The columns of a table as `pack_rows` made them, and the number of rows."""
        for table in self.head.tables:
            if table.name == name:
                return self._piece(table.extent), table.num_rows
        raise IndexDamaged(f"no table {name}")

    def rows(self) -> dict[str, list[Any]]:
        """All tables, as `pack_part` took them."""
        return {
            name: unpack_rows(row_type, *self.packed_table(name))
            for name, row_type in TABLES.items()
        }

    def snapshot(self, stored: StoredSnapshot) -> bytes:
        """The bytes that the core gave for one of the head's snapshots."""
        known = self.head.snapshots
        last = known.index(stored)
        first = max((place for place in range(last + 1) if known[place].is_whole), default=0)
        try:
            changes = [self._change(each) for each in known[first : last + 1]]
            return restored(self._piece(stored.rest), changes, stored.crc, stored.num_bytes)
        except UnpackFailed as error:
            raise IndexDamaged(str(error)) from None

    def kept(self) -> list[KeptSnapshot]:
        """All of them, to go on with."""
        return [
            KeptSnapshot(stored, self._piece(stored.rest), self._change(stored))
            for stored in self.head.snapshots
        ]

    def restamped(self, stamp: FileStamp) -> bytes:
        """The file anew, for the same segment in a file of which `stamp` is told."""
        body = [self._piece(extent) for extent in self._extents()]
        return _whole(msgspec.structs.replace(self.head, stamp=stamp), body)

    def _extents(self) -> Iterator[Extent]:
        """Of everything behind the head, in order."""
        for table in self.head.tables:
            yield table.extent
        for stored in self.head.snapshots:
            yield stored.rest
            yield stored.change

    def _change(self, stored: StoredSnapshot) -> PoolChange:
        try:
            return unpack_change(self._piece(stored.change))
        except UnpackFailed as error:
            raise IndexDamaged(str(error)) from None

    def _piece(self, extent: Extent) -> bytes:
        piece = self._read(self._start + extent.offset, extent.num_bytes)
        if len(piece) != extent.num_bytes or crc32(piece) != extent.crc:
            raise IndexDamaged("a piece of it is missing or changed")
        return piece


def pack_part(
    head: PartHead, tables: Mapping[str, Sequence[Row]], snapshots: Sequence[KeptSnapshot]
) -> bytes:
    """The file. What `head` says of tables and snapshots is filled in here."""
    pieces: list[bytes] = []
    offset = 0

    def put(piece: bytes) -> Extent:
        nonlocal offset
        pieces.append(piece)
        extent = Extent(offset, len(piece), crc32(piece))
        offset += len(piece)
        return extent

    stored_tables = [
        StoredTable(name, len(tables[name]), put(pack_rows(row_type, tables[name])))
        for name, row_type in TABLES.items()
    ]
    stored_snapshots = [
        msgspec.structs.replace(
            each.stored,
            is_whole=each.change.is_whole,
            rest=put(each.rest),
            change=put(pack_change(each.change)),
        )
        for each in snapshots
    ]
    whole_head = msgspec.structs.replace(head, tables=stored_tables, snapshots=stored_snapshots)
    return _whole(whole_head, pieces)


def open_part(read: Callable[[int, int], bytes]) -> Part:
    """The part in a file of which `read(offset, num_bytes)` gives pieces. Raises IndexDamaged."""
    start = read(0, _START.size)
    if len(start) != _START.size:
        raise IndexDamaged("the file is too short")
    magic, version, schema_crc, num_bytes, crc = _START.unpack(start)
    is_known = (magic, version, schema_crc) == (MAGIC, FORMAT_VERSION, _SCHEMA_CRC)
    if not is_known or num_bytes > MAX_HEAD_BYTES:
        raise IndexDamaged("no index of this version")
    encoded = read(_START.size, num_bytes)
    if len(encoded) != num_bytes or crc32(encoded) != crc:
        raise IndexDamaged("the head is missing or changed")
    try:
        head = _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IndexDamaged(f"the head is no head: {error}") from None
    return Part(head, read, _START.size + num_bytes)


def part_in_memory(packed: bytes) -> Part:
    """The part whose file these bytes could be."""
    return open_part(lambda offset, num_bytes: packed[offset : offset + num_bytes])


def _whole(head: PartHead, pieces: Sequence[bytes]) -> bytes:
    encoded = _encoder.encode(head)
    start = _START.pack(MAGIC, FORMAT_VERSION, _SCHEMA_CRC, len(encoded), crc32(encoded))
    return b"".join([start, encoded, *pieces])
