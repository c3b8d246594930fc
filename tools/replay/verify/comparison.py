"""Applies recorded events to a core and compares what comes out with what was recorded.

The inner loop of `verify`: it raises `Diverged` at the first difference and knows no way on.
"""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgspec

from tokenreel.messages.codec import CoreEvent, Effect, encode
from tokenreel.messages.journal import (
    CORE_FAILED,
    EFFECT,
    HEADER_BYTES,
    IGNORABLE,
    INPUT,
    META,
    SNAPSHOT,
    JournalDamaged,
    Record,
    SegmentHeader,
)
from tokenreel.messages.journal_meta import CoreFailed, Meta, core_failed
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.steps import StepBegan, StepCompleted, StepDecided
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.reading.events import decode_effect, decode_event
from tokenreel.tools.replay.reading.own_records import read_failure, read_meta
from tokenreel.tools.replay.reading.snapshot_parts import SnapshotParts
from tokenreel.tools.replay.verify.difference import ABSENT, Difference, first_difference
from tokenreel.tools.replay.verify.divergence import (
    Diverged,
    Divergence,
    joined,
    shown,
    snapshot_difference,
)
from tokenreel.tools.replay.verify.spans import Counts

STEPS = (StepBegan, StepCompleted)


class CannotStart(JournalDamaged):
    """The core under test cannot start from what the journal offers."""


class Comparison:
    """The core under test, and where in the journal it is."""

    def __init__(self, code: CoreCode) -> None:
        self.meta: Meta | None = None
        self.configuration: msgspec.Struct | None = None
        self.reproduced: CoreFailed | None = None
        self.step = 0
        self.last_step_agreed = 0
        self._code = code
        self._core: Core | None = None
        self._header: SegmentHeader
        self._segment = ""
        self._meta_payload = b""
        self._snapshot_parts = SnapshotParts()
        self._input: Record | None = None
        self._message: CoreEvent | None = None
        self._effects: list[Effect] = []
        self._num_compared = 0
        self._failure: CoreFailed | None = None
        self._num_events = self._num_effects = self._num_steps = self._num_tokens = 0
        self._num_gaps = self._num_records_lost = 0

    @property
    def core(self) -> Core | None:
        """The core under test, behind the event that was applied last; None before a start."""
        return self._core

    @property
    def last_t_ns(self) -> int:
        """When the last event came; 0 if there was none."""
        return self._input.t_ns if self._input else 0

    @property
    def counts(self) -> Counts:
        return Counts(
            self._num_events,
            self._num_effects,
            self._num_steps,
            self._num_tokens,
            self._num_gaps,
            self._num_records_lost,
        )

    def enter_segment(self, header: SegmentHeader, name: str) -> None:
        self._header, self._segment = header, name

    def meet_gap(self, num_records_lost: int) -> None:
        self._num_gaps += 1
        self._num_records_lost += num_records_lost
        self._core = None

    def start_over(self) -> None:
        """Forgets the state: the next one comes from a snapshot."""
        self._core, self._failure, self.reproduced = None, None, None
        self._effects, self._num_compared = [], 0
        self._snapshot_parts.forget()

    def resume(self, meta: Record, snapshot: bytes, last_step_id: int) -> None:
        """What follows stands within the segment that was entered, behind this snapshot."""
        self._meet_meta(meta)
        self._core = self._build(meta, lambda: self._restore(snapshot))
        self.step = self.last_step_agreed = last_step_id

    def run(self, records: Iterable[Record]) -> None:
        apply_input, compare_effect = self._apply, self._compare
        for record in records:
            if record.flags & EFFECT:
                compare_effect(record)
            elif record.flags & INPUT:
                apply_input(record)
            elif not record.flags & IGNORABLE:
                self._meet(record)

    def require_complete(self) -> None:
        """Everything that the last input caused must have been recorded, in the same segment."""
        if self._snapshot_parts.is_begun:
            raise JournalDamaged(self._segment, HEADER_BYTES, "parts of a snapshot are missing")
        if self._failure is not None:
            failure = f"{self._failure.type_name}: {self._failure.message}"
            self._diverge(self._input, Difference("", "the core went on", failure), "raised")
        if self._num_compared < len(self._effects):
            effect = self._effects[self._num_compared]
            self._diverge(self._input, Difference("", ABSENT, effect), type(effect).__name__)

    def _apply(self, record: Record) -> None:
        if self._num_compared < len(self._effects) or self._failure is not None:
            self.require_complete()
        if self.reproduced is not None:
            raise JournalDamaged(self._segment, record.offset, "an input after the core failed")
        core = self._core or self._create_core(record)
        message = decode_event(record, self._segment)
        self._input, self._message = record, message
        if isinstance(message, STEPS):
            self.step = message.step_id
        self._num_events += 1
        self._num_compared = 0
        try:
            self._effects = core.apply(message)
        except Exception as error:
            self._effects = []
            self._failure = core_failed(error, "")

    def _compare(self, record: Record) -> None:
        index = self._num_compared
        if index >= len(self._effects):
            self._refuse_effect(record)
        effect = self._effects[index]
        if encode(effect) != record.payload:
            self._compare_fields(record, effect)
        self._num_compared = index + 1
        self._num_effects += 1
        if isinstance(effect, StepDecided):
            self._num_steps += 1
            self.last_step_agreed = effect.step_id
        elif isinstance(effect, TokensEmitted):
            self._num_tokens += sum([len(tokens.token_ids) for tokens in effect.sequences])

    def _refuse_effect(self, record: Record) -> None:
        recorded = decode_effect(record, self._segment)
        # It stands in the same write as its input, so in the same segment.
        if self._input is None or self._input.seq < self._header.first_seq:
            raise JournalDamaged(self._segment, record.offset, "an effect without an input")
        replayed: Any = ABSENT
        if self._failure is not None:
            replayed = f"raised {self._failure.type_name}: {self._failure.message}"
        self._diverge(record, Difference("", recorded, replayed), type(recorded).__name__)

    def _compare_fields(self, record: Record, effect: Effect) -> None:
        """The bytes differ. The values may yet be equal: fields that were appended since have
        their default in an older record."""
        recorded = decode_effect(record, self._segment)
        difference = first_difference(recorded, effect)
        if difference is None:
            return
        components: tuple[str, ...] = ()
        if isinstance(recorded, StepDecided) and isinstance(effect, StepDecided):
            components = self._differing_components(recorded.digest, effect.digest)
        name, both = type(recorded).__name__, (recorded, effect)
        self._diverge(record, difference, name, components, both)

    def _differing_components(
        self, recorded: tuple[int, ...], replayed: tuple[int, ...]
    ) -> tuple[str, ...]:
        names = self._code.components
        if not len(recorded) == len(replayed) == len(names):
            return ()
        pairs = zip(names, recorded, replayed, strict=True)
        return tuple(name for name, one, other in pairs if one != other)

    def _meet(self, record: Record) -> None:
        """A record of one of the journal's own types."""
        if record.type == META:
            self._meet_meta(record)
        elif record.type == SNAPSHOT:
            self._meet_snapshot(record)
        elif record.type == CORE_FAILED:
            self._meet_failure(record)

    def _meet_meta(self, record: Record) -> None:
        if record.payload == self._meta_payload:
            return
        meta, configuration = read_meta(record, self._segment, self._code.configuration)
        if self._core is not None and configuration != self.configuration:
            raise JournalDamaged(
                self._segment, record.offset, "another configuration than the segment before it"
            )
        self._meta_payload, self.meta, self.configuration = record.payload, meta, configuration

    def _meet_snapshot(self, record: Record) -> None:
        snapshot = self._snapshot_parts.take(record, self._segment)
        if snapshot is None:
            return
        if self._core is None or self.reproduced is not None:
            self._core = self._build(record, lambda: self._restore(snapshot))
            self.reproduced = None
            return
        replayed = self._core.snapshot()
        if replayed != snapshot:
            self._diverge(record, snapshot_difference(snapshot, replayed), "snapshot")

    def _restore(self, snapshot: bytes) -> Core:
        return self._code.restore(self.configuration, snapshot)

    def _create_core(self, record: Record) -> Core:
        """The core before its first event."""
        if self._header.number > 0:
            raise JournalDamaged(
                self._segment, record.offset, "neither the run's first segment nor a snapshot"
            )
        self._core = self._build(record, lambda: self._code.create(self.configuration))
        return self._core

    def _build(self, record: Record, build: Callable[[], Core]) -> Core:
        try:
            return build()
        except Exception as error:
            raise CannotStart(
                self._segment,
                record.offset,
                f"the core cannot start from this ({type(error).__name__}: {error})",
            ) from error

    def _meet_failure(self, record: Record) -> None:
        recorded = read_failure(record, self._segment)
        replayed, self._failure = self._failure, None
        told = f"{recorded.type_name}: {recorded.message}"
        if replayed is None:
            self._diverge(record, Difference("", told, "raised nothing"), "CoreFailed")
        if (replayed.type_name, replayed.message) != (recorded.type_name, recorded.message):
            again = f"{replayed.type_name}: {replayed.message}"
            self._diverge(record, Difference("", told, again), "CoreFailed")
        self.reproduced = recorded

    def _diverge(
        self,
        record: Record | None,
        difference: Difference,
        subject: str,
        components: tuple[str, ...] = (),
        messages: tuple[Any, ...] = (),
    ) -> NoReturn:
        raise Diverged(
            Divergence(
                seq=record.seq if record else 0,
                segment=self._segment,
                offset=record.offset if record else 0,
                step=self.step,
                last_step_agreed=self.last_step_agreed,
                input_seq=self._input.seq if self._input else 0,
                input=shown(self._message),
                path=joined(subject, difference.path),
                recorded=shown(difference.recorded),
                replayed=shown(difference.replayed),
                components=components,
            ),
            messages or (difference.recorded, difference.replayed),
            self._message,
            self._effects,
            is_at_start=subject == "snapshot",
        )
