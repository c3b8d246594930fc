"""Looks over the scheduler's shoulder while it composes a step: whom it passes over, and why.

A journal holds the first of them per step. The code that decides is asked, not a copy of its rules.
"""

from enum import IntEnum
from typing import NamedTuple

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scheduler import NOBODY, Composition, Scheduler
from tokenreel.actors.core.sequence import Sequence, Status
from tokenreel.messages.ids import BlockId, SeqId, StepId
from tokenreel.messages.steps import Unscheduled


class Refusal(NamedTuple):
    """The scheduler came to a sequence and passed it over. For BLOCKS it needed `num_needed` blocks
    beside the `num_reserved` that stay free for who runs, and `num_free` were there."""

    seq_id: SeqId
    reason: Unscheduled
    is_running: bool
    num_needed: int
    num_reserved: int
    num_free: int


class Why(IntEnum):
    """Why a sequence is not in a step."""

    REFUSED = 0
    """The scheduler came to it."""
    BEHIND = 1
    """The scheduler stopped at somebody before it."""
    PREEMPTED = 2
    """It gave way in this very step."""
    SIBLING = 3
    """The first of its request's sequences has not computed the prompt yet."""
    IN_FLIGHT = 4
    """All that it may compute is in steps that are open."""


class PassedOver(NamedTuple):
    """`refusal` is its own, or that of whom it is `BEHIND`. `place` in line: 1 is the first who
    waits, 0 is none."""

    why: Why
    refusal: Refusal | None = None
    place: int = 0


class Watch:
    """Attach it to an engine; after each `StepBegan` ask it about any sequence."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        """Of the last step, in the order in which the scheduler came to them."""
        self._preempted: dict[SeqId, None] = {}
        self._closed_by: Refusal | None = None
        self._held_by: Refusal | None = None
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Does nothing if it is attached to it already."""
        if self._engine is not engine:
            self._engine = engine
            engine.scheduler = _WatchedScheduler(engine, self)

    def passed_over(self, seq_id: SeqId, step_id: StepId) -> PassedOver | None:
        """Why `seq_id` is not in the step that was just composed; None if it is, or has ended."""
        assert self._engine is not None
        sequence = self._engine.sequences.get(seq_id)
        if sequence is None or sequence.status is Status.FINISHED:
            return None
        if sequence.status is Status.BLOCKED:
            return PassedOver(Why.SIBLING)
        if sequence.status is Status.RUNNING and sequence.last_step_id == step_id:
            return None
        place = self._place(sequence)
        # Whoever runs, is refused, gives way, and is the first in line then, is refused again.
        for refusal in reversed(self.refusals):
            if refusal.seq_id == seq_id:
                return PassedOver(Why.REFUSED, refusal, place)
        if seq_id in self._preempted:
            return PassedOver(Why.PREEMPTED)
        if sequence.status is Status.RUNNING:
            if sequence.num_schedulable() == 0:
                return PassedOver(Why.IN_FLIGHT)
            return PassedOver(Why.BEHIND, self._held_by)
        return PassedOver(Why.BEHIND, self._closed_by or self._held_by, place)

    def _place(self, sequence: Sequence) -> int:
        assert self._engine is not None
        if sequence.status is not Status.WAITING:
            return 0
        waiting = self._engine.queues.waiting.values()
        return 1 + sum(1 for other in waiting if other.order < sequence.order)

    def begin(self) -> None:
        self.refusals.clear()
        self._preempted.clear()
        self._closed_by = self._held_by = None

    def note_preempted(self, seq_id: SeqId) -> None:
        self._preempted[seq_id] = None

    def note(self, refusal: Refusal, step: Composition) -> None:
        self.refusals.append(refusal)
        if not refusal.is_running:
            self._closed_by = refusal
        if step.held_back:
            self._held_by = refusal


class _WatchedScheduler(Scheduler):
    """Decides as `Scheduler` does, and says more."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        super().__init__(engine.config, engine.queues, engine.kv)
        self._watch = watch

    def compose(self, step_id: StepId) -> Composition:
        self._watch.begin()
        return super().compose(step_id)

    def _continue(self, step: Composition, sequence: Sequence) -> None:
        first, step.passed_over = step.passed_over, NOBODY
        super()._continue(step, sequence)
        self._note(step, sequence, is_running=True)
        step.passed_over = step.passed_over if first is NOBODY else first

    def _start(self, step: Composition, sequence: Sequence) -> bool:
        first, step.passed_over = step.passed_over, NOBODY
        has_started = super()._start(step, sequence)
        self._note(step, sequence, is_running=False)
        step.passed_over = step.passed_over if first is NOBODY else first
        return has_started

    def _preempt(self, step: Composition, victim: Sequence, beneficiary: Sequence) -> None:
        super()._preempt(step, victim, beneficiary)
        self._watch.note_preempted(victim.seq_id)

    def _note(self, step: Composition, sequence: Sequence, *, is_running: bool) -> None:
        found = step.passed_over
        if found is NOBODY:
            return
        hits: list[BlockId] = []
        if found.reason is Unscheduled.BLOCKS and not is_running:
            hits = self._kv.match(sequence)
        refusal = Refusal(
            found.seq_id,
            found.reason,
            is_running,
            num_needed=found.num_blocks_needed,
            num_reserved=0 if is_running else len(self._queues.running),
            num_free=self._kv.num_available_beside(hits),
        )
        self._watch.note(refusal, step)
