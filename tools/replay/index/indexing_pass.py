"""The indexing pass over one segment: checks it, replays it, keeps rows and snapshots."""

import time
from collections.abc import Callable, Iterator

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.journal import HEADER_BYTES, META, SNAPSHOT, JournalDamaged, Record
from tokenreel.messages.journal_reader import SegmentReader, summary_of
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.index.collector import Collector
from tokenreel.tools.replay.index.part import (
    FileStamp,
    KeptSnapshot,
    Part,
    PartHead,
    StoredSnapshot,
    pack_part,
)
from tokenreel.tools.replay.index.replica import DivergedAt, Replica
from tokenreel.tools.replay.index.rows import Admit
from tokenreel.tools.replay.index.snapshots import (
    PoolChange,
    SnapshotKeeper,
    arranged,
    pack_change,
)
from tokenreel.tools.replay.reading.committed import Position
from tokenreel.tools.replay.reading.events import decode_effect, decode_event
from tokenreel.tools.replay.reading.turns import Turn, turns_of

MAX_REPLAY_S = 0.15
"""Of this thread's processor time between two snapshots: a seek replays no more than that."""
PAUSE_PER_SNAPSHOT = 2
"""To replay for at least so many times as long as the last one took: of a pool with a hundred
thousand blocks it takes long."""
LOOK_EVERY_BYTES = 1 << 14
"""Of the segment between two looks at the clock, which takes long on some machines."""
MIN_SNAPSHOT_BYTES = 1 << 18
"""Room for snapshots that every segment has, however short it is."""
SNAPSHOT_SHARE = 4
"""Snapshots together take at most this part of the segment's length."""
PROGRESS_RECORDS = 256

Clock = Callable[[], float]
Progress = Callable[[int], None]
"""Is told the offset up to which the segment is done."""


class SegmentPass:
    """One pass over one segment, or over what was written to it since `known`."""

    def __init__(
        self,
        data: bytes,
        name: str,
        code: CoreCode,
        known: Part | None = None,
        clock: Clock = time.thread_time,
        progress: Progress = lambda offset: None,
    ) -> None:
        self._reader = SegmentReader(data, name, known.summary if known else None)
        self._name = name
        self._code = code
        self._clock = clock
        self._progress = progress
        self._replica = Replica(code)
        self._replica.enter(self._reader.header, name)
        self._collector: Collector | None = None
        self._kept: list[KeptSnapshot] = []
        self._keeper = SnapshotKeeper()
        self._divergence: DivergedAt | None = None
        self._num_events = 0
        self._first_type: int | None = None
        self._began = clock()
        self._pause_s = 0.0
        self._look_at = 0
        if known is not None:
            self._go_on(data, known)

    def run(self, stamp: FileStamp) -> bytes:
        """The bytes of the segment's part."""
        for item in turns_of(self._records(), self._name):
            if isinstance(item, Turn):
                self._take(item)
            else:
                self._meet(item)
        self._require_meta()
        summary = summary_of(self._reader)
        self._keep_snapshot(Position(summary.committed_length, summary.next_seq), summary.last_t_ns)
        max_bytes = max(MIN_SNAPSHOT_BYTES, summary.committed_length // SNAPSHOT_SHARE)
        snapshots = thinned_out(self._kept, max_bytes)
        failure = self._replica.failure
        tables = self._collector.tables if self._collector else Collector(1).tables
        step_ids = [row.step_id for row in tables["steps"]] or [0]
        head = PartHead(
            source_hash=self._code.source_hash,
            stamp=stamp,
            summary=summary,
            num_events=self._num_events,
            first_step_id=step_ids[0],
            last_step_id=step_ids[-1],
            divergence=self._divergence,
            failure="" if failure is None else f"{failure.type_name}: {failure.message}",
        )
        return pack_part(head, tables, snapshots)

    def _records(self) -> Iterator[Record]:
        """What the reader reads; notes the first record, and how far it has come."""
        for number, record in enumerate(self._reader):
            if self._first_type is None:
                self._first_type = record.type
                self._require_meta()
            if number % PROGRESS_RECORDS == 0:
                self._progress(record.offset)
            yield record

    def _require_meta(self) -> None:
        if self._first_type not in (META, None):
            raise JournalDamaged(self._name, HEADER_BYTES, "the first record is not META")

    def _meet(self, record: Record) -> None:
        self._replica.meet(record)
        if record.type == META:
            self._collector = Collector(self._block_size())
        elif record.type == SNAPSHOT and self._replica.engine is not None:
            assert self._collector is not None
            for admit in _in_flight(self._replica.engine):
                self._collector.carry(admit)

    def _take(self, turn: Turn) -> None:
        record = turn.input
        if record.offset >= self._look_at:
            self._look_at = record.offset + LOOK_EVERY_BYTES
            if self._clock() - self._began >= max(MAX_REPLAY_S, self._pause_s):
                self._keep_snapshot(Position(record.offset, record.seq), record.t_ns)
        was_lost = self._replica.divergence is not None
        self._replica.apply(turn)
        if not was_lost and self._replica.divergence is not None:
            self._divergence = self._divergence or self._replica.divergence
        self._num_events += 1
        event = decode_event(record, self._name)
        effects = [decode_effect(effect, self._name) for effect in turn.effects]
        if self._collector is None:
            raise JournalDamaged(self._name, record.offset, "an input before META")
        self._collector.take(record.seq, record.offset, record.t_ns, event, effects)

    def _keep_snapshot(self, position: Position, t_ns: int) -> None:
        replica, asked_at = self._replica, self._clock()
        if replica.engine is not None and replica.failure is None:
            kept = self._keeper.keep(replica.engine.snapshot())
            stored = StoredSnapshot(position, replica.last_step_id, t_ns, kept.num_bytes, kept.crc)
            self._kept.append(KeptSnapshot(stored, kept.rest, kept.change))
        self._began = self._clock()
        self._pause_s = PAUSE_PER_SNAPSHOT * (self._began - asked_at)

    def _block_size(self) -> int:
        """1 for a core that knows no blocks."""
        return int(getattr(self._replica.configuration, "block_size", 1))

    def _go_on(self, data: bytes, known: Part) -> None:
        """Takes up the state in which the earlier pass ended."""
        head = known.head
        meta = next(iter(SegmentReader(data[: head.summary.committed_length], self._name)))
        self._first_type = meta.type
        self._replica.meet(meta)
        self._collector = Collector(self._block_size(), known.rows())
        self._num_events = head.num_events
        self._divergence = head.divergence
        self._kept = known.kept()
        self._keeper = SnapshotKeeper(each.change for each in self._kept)
        if head.divergence is not None:
            self._replica.divergence = head.divergence
        elif head.snapshots:
            last = head.snapshots[-1]
            self._replica.resume(known.snapshot(last), last.last_step_id)


def thinned_out(snapshots: list[KeptSnapshot], max_bytes: int) -> list[KeptSnapshot]:
    """Every second one is left out until the rest takes at most `max_bytes`. The last one stays:
    the next pass over a segment that still grows begins there."""
    while True:
        changes = arranged([each.change for each in snapshots])
        packed = [
            each._replace(change=change) for each, change in zip(snapshots, changes, strict=True)
        ]
        if len(packed) < 2 or sum(_num_bytes(each) for each in packed) <= max_bytes:
            return packed
        snapshots = _every_second(snapshots)


def _every_second(snapshots: list[KeptSnapshot]) -> list[KeptSnapshot]:
    """Counted from the last one. What the others said has changed, their successors say too."""
    left: list[KeptSnapshot] = []
    skipped: PoolChange | None = None
    for place, each in enumerate(snapshots):
        change = each.change if skipped is None else skipped.then(each.change)
        if (len(snapshots) - 1 - place) % 2:
            skipped = change
        else:
            left.append(each._replace(change=change))
            skipped = None
    return left


def _num_bytes(kept: KeptSnapshot) -> int:
    return len(kept.rest) + len(pack_change(kept.change))


def _in_flight(core: Core) -> list[Admit]:
    """The requests that the core holds."""
    if not isinstance(core, Engine):
        return []
    rows = []
    for request in core.requests.values():
        known = [core.sequences[seq_id] for seq_id in request.seq_ids if seq_id in core.sequences]
        rows.append(
            Admit(
                *request.key,
                first_seq_id=request.seq_ids[0],
                n=len(request.seq_ids),
                num_prompt_tokens=known[0].num_prompt_tokens,
                max_tokens=known[0].stopping.max_tokens,
                priority=known[0].level,
            )
        )
    return rows
