"""Composes a step: who computes how many tokens, who starts, who gives way.

There is no prefill and no decode phase: every sequence catches up with its known tokens under one
token budget. Sequences are visited by (level, running before waiting, arrival), so that whoever
gives way has not been visited yet in this step:

  running   gets its tokens; if it lacks a block, the last in the order of the running sequences
            that have one to give gives way, at the latest itself
  waiting   starts if all its known tokens fit beside one block's growth for each running sequence;
            only running sequences of a strictly lower class of service give way to it
"""

import msgspec

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.kv_manager import KvManager
from tokenreel.actors.core.queues import Queues
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.ids import BlockId, SeqId, StepId
from tokenreel.messages.steps import (
    AddedSequence,
    ScheduledSequence,
    SequencePreempted,
    StepScheduled,
    Unscheduled,
)


class StepShare(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an open step computes for one sequence, and since which preemption of it."""

    seq_id: SeqId
    end: int
    samples: bool
    epoch: int


class OpenStep(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step that was sent to the worker and has not completed."""

    step_id: StepId
    shares: list[StepShare]


class PassedOver(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first sequence in the order that could have run and was not scheduled, and why."""

    reason: Unscheduled = Unscheduled.NOTHING
    seq_id: SeqId = SeqId(0)
    num_blocks_needed: int = 0


NOBODY = PassedOver()


class Composition:
    """A step as it takes shape."""

    def __init__(self, step_id: StepId, budget: int) -> None:
        self.step_id = step_id
        self.budget = budget
        self.added: list[AddedSequence] = []
        self.scheduled: list[ScheduledSequence] = []
        self.shares: list[StepShare] = []
        self.sequences: list[Sequence] = []
        """Whose shares they are."""
        self.preempted: list[SequencePreempted] = []
        self.passed_over = NOBODY
        self.intake_open = True
        """Whether those who wait are asked at all: the head of their line could not start."""
        self.held_back = False
        """Nobody further is visited: someone needs blocks that only running dry will free."""

    def pass_over(self, sequence: Sequence, reason: Unscheduled, num_blocks: int = 0) -> None:
        if self.passed_over is NOBODY:
            self.passed_over = PassedOver(reason, sequence.seq_id, num_blocks)


class Scheduler:
    """Works on the queues and the KV manager that the engine shares with it; has no other state."""

    def __init__(self, config: CoreConfig, queues: Queues, kv: KvManager) -> None:
        self._config = config
        self._queues = queues
        self._kv = kv

    def compose(self, step_id: StepId) -> Composition:
        """Decides one step and books it on the sequences. It may be empty."""
        step = Composition(step_id, self._config.max_num_batched_tokens)
        queues = self._queues
        for sequence in list(queues.running):
            if queues.may_precede(sequence.level):
                self._start_waiting(step, sequence.level)
            if step.held_back:
                return step
            if sequence.row >= 0:  # else it gave way to somebody in this very step
                self._continue(step, sequence)
        self._start_waiting(step, None)
        return step

    def message(self, step: Composition) -> StepScheduled:
        """What the worker is told. It now knows of every row that was given up."""
        removed, self._queues.freed_rows = sorted(set(self._queues.freed_rows)), []
        return StepScheduled(step.step_id, step.added, removed, step.scheduled)

    def _start_waiting(self, step: Composition, level: int | None) -> None:
        """Lets those start whose level is strictly lower than `level`, the first in line first."""
        while step.intake_open and not step.held_back:
            head = self._queues.head()
            if head is None or (level is not None and head.level >= level):
                return
            step.intake_open = self._start(step, head)

    def _continue(self, step: Composition, sequence: Sequence) -> None:
        num_tokens = sequence.num_schedulable()
        if num_tokens == 0:
            return  # all that it may compute is in flight
        if step.budget == 0:
            step.pass_over(sequence, Unscheduled.TOKEN_BUDGET)
            step.held_back = True  # nothing is left for anybody
            return
        if num_tokens > step.budget:
            num_tokens = step.budget
        end = sequence.num_scheduled + num_tokens
        new_blocks: list[BlockId] = []
        if not self._kv.holds(sequence, end):
            if not self._make_room(step, sequence, end):
                return
            new_blocks = self._kv.grow(sequence, end)
        self._schedule(step, sequence, num_tokens, new_blocks)

    def _make_room(self, step: Composition, sequence: Sequence, num_tokens: int) -> bool:
        """Frees blocks until `sequence` can hold `num_tokens`; False if it cannot run now."""
        pool = self._kv.pool
        needed = self._kv.blocks_needed(sequence, num_tokens)
        while needed > pool.num_available:
            if needed <= pool.num_available + pool.num_fenced:
                # Enough comes back by itself as soon as the open steps complete.
                step.pass_over(sequence, Unscheduled.BLOCKS, needed)
                return False
            last = self._last_to_give_way(sequence)
            if self._kv.count_release(last, {})[0] == 0:
                step.pass_over(sequence, Unscheduled.BLOCKS, needed)
                # What `last` holds comes free once its open steps have run dry.
                step.held_back = last is not sequence
                return False
            if last is sequence:
                step.pass_over(sequence, Unscheduled.BLOCKS, needed)
                self._preempt(step, sequence, sequence)
                return False
            self._preempt(step, last, sequence)
        return True

    def _last_to_give_way(self, sequence: Sequence) -> Sequence:
        """The last running sequence, down to `sequence`, that holds a block for itself alone.

        Behind it may run some whose every block is shared with those before them: a prefix that a
        higher class of service has hit in the cache. Nothing comes free without their sharers.
        """
        for last in reversed(self._queues.running):
            if last is sequence or self._kv.count_release(last, {}) != (0, 0):
                return last
        raise InvariantViolated(f"sequence {sequence.seq_id} needs room and does not run")

    def _start(self, step: Composition, sequence: Sequence) -> bool:
        """Lets the head of the line run; False closes the intake for this step."""
        if sequence.num_open_steps:
            step.pass_over(sequence, Unscheduled.OPEN_STEPS)
            return False
        if step.budget == 0:
            step.pass_over(sequence, Unscheduled.TOKEN_BUDGET)
            return False
        hits = self._kv.match(sequence)
        victims = self._victims_for(step, sequence, hits)
        if victims is None:
            return False
        for victim in victims:
            self._preempt(step, victim, sequence)
        self._admit(step, sequence, hits)
        return True

    def _victims_for(
        self, step: Composition, sequence: Sequence, hits: list[BlockId]
    ) -> list[Sequence] | None:
        """Who must give way so that `sequence` starts; None if it cannot start now.

        Nobody gives way unless the whole plan works out, and only strictly lower classes do.
        """
        running = self._queues.running
        needed = self._kv.blocks_needed(sequence, sequence.num_known) - len(hits)
        free = self._kv.num_available_beside(hits)
        num_fenced = self._kv.pool.num_fenced
        rows = len(self._queues.free_rows)
        dropped: dict[BlockId, int] = {block: -1 for block in hits}
        victims: list[Sequence] = []
        while not rows or needed + len(running) - len(victims) > free:
            if len(victims) == len(running) or running[~len(victims)].level <= sequence.level:
                reason = Unscheduled.BLOCKS if rows else Unscheduled.MAX_NUM_SEQS
                step.pass_over(sequence, reason, needed)
                # Had the fenced blocks been free, the plan would work: let open steps run dry.
                reserve = len(running) - len(victims)
                step.held_back = bool(victims and rows and needed + reserve <= free + num_fenced)
                return None
            victim = running[~len(victims)]
            freed, fenced = self._kv.count_release(victim, dropped)
            free, num_fenced, rows = free + freed, num_fenced + fenced, rows + 1
            victims.append(victim)
        return victims

    def _admit(self, step: Composition, sequence: Sequence, hits: list[BlockId]) -> None:
        first_time = sequence.epoch == 0
        self._kv.hold_prefix(sequence, hits)
        self._queues.run(sequence)
        if first_time:
            sequence.num_cached_tokens = sequence.num_computed
        step.added.append(
            AddedSequence(
                sequence.seq_id,
                sequence.row,
                list(sequence.token_ids),
                sequence.num_prompt_tokens,
                list(hits),
                sequence.sampling,
            )
        )
        # Every block of what is known is taken at once: a sequence that has started to compute
        # its prompt never waits half way for blocks that somebody in the same position holds.
        new_blocks = self._kv.grow(sequence, sequence.num_known)
        self._schedule(step, sequence, min(sequence.num_schedulable(), step.budget), new_blocks)

    def _schedule(
        self,
        step: Composition,
        sequence: Sequence,
        num_tokens: int,
        new_blocks: list[BlockId],
    ) -> None:
        if sequence.last_step_id == step.step_id:
            raise InvariantViolated(f"sequence {sequence.seq_id} is scheduled twice in one step")
        start = sequence.num_scheduled
        end = start + num_tokens
        seq_id = sequence.seq_id
        samples = end == len(sequence.token_ids) + sequence.num_open_samples
        num_logits = 1 if samples else 0
        step.scheduled.append(
            ScheduledSequence(seq_id, sequence.row, start, num_tokens, num_logits, new_blocks)
        )
        step.shares.append(StepShare(seq_id, end, samples, sequence.epoch))
        step.sequences.append(sequence)
        step.budget -= num_tokens
        sequence.num_scheduled = end
        sequence.num_open_steps += 1
        sequence.num_open_samples += num_logits
        sequence.last_step_id = step.step_id

    def _preempt(self, step: Composition, victim: Sequence, beneficiary: Sequence) -> None:
        """Takes everything back from `victim`; it computes its tokens anew when it resumes."""
        if victim.last_step_id == step.step_id:
            raise InvariantViolated(f"sequence {victim.seq_id} is preempted in its own step")
        step.preempted.append(
            SequencePreempted(victim.seq_id, beneficiary.seq_id, victim.num_computed)
        )
        self._kv.release(victim)
        victim.num_computed = victim.num_scheduled = 0
        victim.epoch += 1
        self._queues.wait(victim)
