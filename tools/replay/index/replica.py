"""The core as it was while the journal was written: brought along record by record.

A recorded snapshot starts it anew. Where the code that is asked decides otherwise than the recorded
one, what follows would be fiction: the replica says where, and rests until the next snapshot.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import Effect, encode, tag_of
from tokenreel.messages.journal import (
    AFTER_GAP,
    HEADER_BYTES,
    META,
    RUN_ENDED,
    SNAPSHOT,
    JournalDamaged,
    Record,
    SegmentHeader,
)
from tokenreel.messages.journal_meta import CoreFailed, Meta, core_failed
from tokenreel.messages.steps import StepDecided
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.reading.events import RecordedEvent, decode_effect, decode_event
from tokenreel.tools.replay.reading.own_records import read_failure, read_meta
from tokenreel.tools.replay.reading.snapshot_parts import SnapshotParts
from tokenreel.tools.replay.reading.turns import Turn


class ReplayDiverged(Exception):
    """The code that is asked decides otherwise than the recorded run did; one line says where."""


class DivergedAt(msgspec.Struct, frozen=True):
    """The input at which the replica left the recorded run."""

    seq: int
    segment: str
    offset: int
    step_id: int
    reason: str

    def __str__(self) -> str:
        return (
            f"replay leaves the recording at seq {self.seq} ({self.segment}, offset {self.offset}, "
            f"after step {self.step_id}): {self.reason}"
        )


class Replica:
    """`engine` is None before the first event and while the replica rests."""

    def __init__(self, code: CoreCode) -> None:
        self.engine: Core | None = None
        self.meta: Meta | None = None
        self.configuration: Any = None
        self.divergence: DivergedAt | None = None
        """Set while it rests."""
        self.failure: CoreFailed | None = None
        """What the core raised at the last input, as recorded."""
        self.last_step_id = 0
        self._code = code
        self._header: SegmentHeader
        self._segment = ""
        self._meta_payload = b""
        self._parts = SnapshotParts()

    def enter(self, header: SegmentHeader, segment: str) -> None:
        """What follows belongs to this segment, from its start."""
        self._header, self._segment = header, segment
        self._parts.forget()
        if header.flags & AFTER_GAP:
            self.engine = None

    def resume(self, snapshot: bytes, last_step_id: int) -> None:
        """What follows is behind this snapshot, which was taken in the segment that was entered,
        whose META was met."""
        self.engine = self._build(lambda: self._restore_own(snapshot), HEADER_BYTES)
        self.divergence = self.failure = None
        self.last_step_id = last_step_id

    def require_engine(self) -> Core:
        """The core as it is now, also before its first event. Raises ReplayDiverged."""
        if self.divergence is not None:
            raise ReplayDiverged(str(self.divergence))
        if self.engine is None:
            self.engine = self._create()
        return self.engine

    def meet(self, record: Record) -> None:
        """A record of one of the journal's own types."""
        if record.type == META:
            self._meet_meta(record)
        elif record.type == SNAPSHOT:
            self._meet_snapshot(record)
        elif record.type != RUN_ENDED:
            raise JournalDamaged(
                self._segment,
                record.offset,
                f"record type {record.type} is unknown here and may not be ignored: "
                "a later version wrote it",
            )

    def apply(self, turn: Turn) -> RecordedEvent | None:
        """The event and what it causes now; None while the replica rests, or if it starts to."""
        if self._parts.is_begun:
            raise JournalDamaged(
                self._segment, turn.input.offset, "parts of a snapshot are missing"
            )
        if self.divergence is not None:
            return None
        record = turn.input
        if self.failure is not None:
            raise JournalDamaged(self._segment, record.offset, "an input after the core failed")
        engine = self.require_engine()
        event = decode_event(record, self._segment)
        effects: list[Effect] = []
        failure = None
        try:
            effects = engine.apply(event)
        except Exception as error:
            failure = core_failed(error, "")
        reason = self._difference(turn, effects, failure)
        if reason:
            self.divergence = DivergedAt(
                record.seq, self._segment, record.offset, self.last_step_id, reason
            )
            self.engine = None
            return None
        return RecordedEvent(record.seq, record.t_ns, self._segment, record.offset, event, effects)

    def _difference(self, turn: Turn, effects: list[Effect], failure: CoreFailed | None) -> str:
        """What tells the replica from the recorded core; empty if nothing does. Types of effects
        and the state's digest after each step say enough: `verify` compares every field."""
        recorded = None
        if turn.failure is not None:
            recorded = read_failure(turn.failure, self._segment)
        if failure is not None:
            if recorded is None:
                return f"the core raised {failure.type_name}: {failure.message}"
            self.failure = recorded
            return ""
        if recorded is not None:
            return f"the recorded core raised {recorded.type_name}: {recorded.message}"
        if len(effects) != len(turn.effects):
            return f"{len(effects)} effects where {len(turn.effects)} are recorded"
        for effect, record in zip(effects, turn.effects, strict=True):
            if tag_of(effect) != record.type:
                return f"{type(effect).__name__} where a type {record.type} is recorded"
            if isinstance(effect, StepDecided):
                if encode(effect) != record.payload:
                    then = decode_effect(record, self._segment)
                    if not isinstance(then, StepDecided) or then.digest != effect.digest:
                        return f"the state after step {effect.step_id} has another digest"
                self.last_step_id = effect.step_id
        return ""

    def _meet_meta(self, record: Record) -> None:
        if record.payload != self._meta_payload:
            found = read_meta(record, self._segment, self._code.configuration)
            self._meta_payload, (self.meta, self.configuration) = record.payload, found

    def _meet_snapshot(self, record: Record) -> None:
        snapshot = self._parts.take(record, self._segment)
        if snapshot is None:
            return
        restore = self._code.restore
        self.engine = self._build(lambda: restore(self.configuration, snapshot), record.offset)
        self.divergence = self.failure = None

    def _create(self) -> Core:
        if self._header.number > 0:
            raise JournalDamaged(
                self._segment, HEADER_BYTES, "neither the run's first segment nor a snapshot"
            )
        return self._build(lambda: self._code.create(self.configuration), HEADER_BYTES)

    def _restore_own(self, snapshot: bytes) -> Core:
        """From a snapshot of this same code, which an index has kept: an `Engine` does not check
        again what it said itself."""
        restore = self._code.restore
        if getattr(restore, "__func__", None) is Engine.restore.__func__:  # type: ignore[attr-defined]
            return restore(self.configuration, snapshot, is_trusted=True)  # type: ignore[call-arg]
        return restore(self.configuration, snapshot)

    def _build(self, build: Callable[[], Core], offset: int) -> Core:
        """Whatever the core says against it: with these bytes it cannot be started."""
        try:
            return build()
        except Exception as error:
            raise JournalDamaged(
                self._segment,
                offset,
                f"the core cannot start from this ({type(error).__name__}: {error})",
            ) from error
