"""A journal as redaction reads it: segment by segment, the snapshot apart from what follows it."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.snapshot import Snapshot
from tokenreel.messages.journal import (
    AFTER_GAP,
    CORE_FAILED,
    HEADER_BYTES,
    META,
    SNAPSHOT,
    JournalDamaged,
    Record,
    SegmentHeader,
    join_snapshot,
)
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.reading.own_records import read_meta

_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)


class Chapter(NamedTuple):
    """A segment. `records` are those behind META and snapshot; read them before the next chapter.
    If it `restarts`, the core in it is not the one of the chapter before: what that did in between
    is not written."""

    header: SegmentHeader
    name: str
    configuration: CoreConfig
    snapshot: bytes | None
    restarts: bool
    records: Iterator[Record]


def chapters_of(journal: Journal) -> Iterator[Chapter]:
    """Raises JournalDamaged where the journal's own records are not where they belong."""
    has_failed = False
    is_first = True
    for header, name, records in read_records(journal):
        first = next(records)
        parts: list[bytes] = []
        following: Record | None = None
        for following in records:
            if following.type != SNAPSHOT:
                break
            parts.append(following.payload)
            following = None
        rest = _Rest(name, following, records)
        yield Chapter(
            header=header,
            name=name,
            configuration=read_meta(first, name, CoreConfig)[1],
            snapshot=_joined(parts, name),
            restarts=bool(is_first or has_failed or header.flags & AFTER_GAP),
            records=iter(rest),
        )
        has_failed, is_first = rest.has_failed, False


def decode_snapshot(encoded: bytes) -> Snapshot:
    return _snapshot_decoder.decode(encoded)


class _Rest:
    """The records of a segment behind its start."""

    def __init__(self, name: str, first: Record | None, records: Iterator[Record]) -> None:
        self.has_failed = False
        self._name = name
        self._first = first
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        if self._first is None:
            return
        yield self._first
        for record in self._records:
            if record.type in (META, SNAPSHOT):
                reason = "META or a snapshot in the middle of a segment"
                raise JournalDamaged(self._name, record.offset, reason)
            self.has_failed = self.has_failed or record.type == CORE_FAILED
            yield record


def _joined(parts: list[bytes], name: str) -> bytes | None:
    if not parts:
        return None
    snapshot = join_snapshot(parts)
    if snapshot is None:
        raise JournalDamaged(name, HEADER_BYTES, "a snapshot's parts are mixed up")
    return snapshot
