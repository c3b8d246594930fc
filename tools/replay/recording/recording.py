"""A captured run as a value: what was asked, what came out, when; and what each step took.

Nothing is re-executed and nothing judged: `lift` only puts together what lies scattered over the
journal, so that a run can be simulated, shrunk or counted without its records.
"""

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.snapshot import SnapshotError
from tokenreel.messages.journal import (
    AFTER_GAP,
    CORE_FAILED,
    EFFECT,
    INPUT,
    META,
    SNAPSHOT,
    JournalDamaged,
    Record,
    SegmentHeader,
)
from tokenreel.messages.journal_meta import CoreFailed
from tokenreel.tools.replay.reading.events import decode_effect, decode_event
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.reading.own_records import read_failure, read_meta
from tokenreel.tools.replay.reading.snapshot_parts import SnapshotParts
from tokenreel.tools.replay.recording.builder import RecordingBuilder
from tokenreel.tools.replay.recording.values import Recording


def lift(journal: Journal) -> Recording:
    """Raises JournalDamaged if the records are none that a core could have made.

    A run whose first segments are gone begins with what its first snapshot holds. After a gap, the
    snapshot behind it tells what became of the sequences that live on; one that ended within the
    gap stays incomplete. So does what was in flight at the end.
    """
    lifting = _Lifting()
    for header, name, records in read_records(journal):
        lifting.enter_segment(header, name)
        for record in records:
            lifting.take(record)
    return lifting.recording(journal)


class _Lifting:
    """Where in the journal it is, and what has been put together so far."""

    def __init__(self) -> None:
        self._builder = RecordingBuilder()
        self._config: CoreConfig | None = None
        self._failure: CoreFailed | None = None
        self._segment = ""
        self._needs_snapshot = False
        self._snapshot_parts = SnapshotParts()
        self._input_ns = 0
        self._num_gaps = 0

    def recording(self, journal: Journal) -> Recording:
        assert self._config is not None
        return self._builder.build(
            run_id=journal.run_id,
            config=self._config,
            start_ns=journal.segments[0].header.monotonic_ns,
            end_ns=journal.segments[-1].last_t_ns,
            num_gaps=self._num_gaps,
            failure=self._failure,
        )

    def enter_segment(self, header: SegmentHeader, name: str) -> None:
        is_first = self._config is None
        is_after_gap = bool(header.flags & AFTER_GAP)
        self._segment = name
        self._needs_snapshot = (is_first and header.number > 0) or is_after_gap
        self._num_gaps += is_after_gap

    def take(self, record: Record) -> None:
        if record.flags & INPUT:
            if self._needs_snapshot:
                raise self._damaged(record, "neither the run's first segment nor a snapshot")
            self._input_ns = record.t_ns
            self._builder.take_event(record.t_ns, decode_event(record, self._segment))
        elif record.flags & EFFECT:
            self._builder.take_effect(self._input_ns, decode_effect(record, self._segment))
        elif record.type == META:
            _, self._config = read_meta(record, self._segment, CoreConfig)
        elif record.type == SNAPSHOT and self._needs_snapshot:
            self._take_snapshot(record)
        elif record.type == CORE_FAILED:
            self._failure = read_failure(record, self._segment)

    def _take_snapshot(self, record: Record) -> None:
        snapshot = self._snapshot_parts.take(record, self._segment)
        if snapshot is None:
            return
        try:
            assert self._config is not None  # META comes first
            engine = Engine.restore(self._config, snapshot)
        except SnapshotError as error:
            raise self._damaged(record, f"the core cannot start from this: {error}") from None
        self._builder.take_snapshot(record.t_ns, engine)
        self._needs_snapshot = False

    def _damaged(self, record: Record, reason: str) -> JournalDamaged:
        return JournalDamaged(self._segment, record.offset, reason)
