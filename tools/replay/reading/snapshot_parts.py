"""Puts a recorded snapshot together: it may be too long for one record."""

from tokenreel.messages.journal import (
    JournalDamaged,
    Record,
    join_snapshot,
    num_snapshot_parts,
)


class SnapshotParts:
    """Take the SNAPSHOT records of a segment, one after the other."""

    def __init__(self) -> None:
        self._payloads: list[bytes] = []

    @property
    def is_begun(self) -> bool:
        """Whether there must be more parts."""
        return bool(self._payloads)

    def take(self, record: Record, segment: str) -> bytes | None:
        """The snapshot of which this is the last part; None if it is another. Raises
        JournalDamaged."""
        self._payloads.append(record.payload)
        if len(self._payloads) < num_snapshot_parts(record.payload):
            return None
        snapshot = join_snapshot(self._payloads)
        self.forget()
        if snapshot is None:
            raise JournalDamaged(segment, record.offset, "a snapshot's parts are mixed up")
        return snapshot

    def forget(self) -> None:
        """Whatever was begun is not to be continued."""
        self._payloads = []
