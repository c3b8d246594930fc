"""The engine core's one door: `Engine.apply(event) -> list[Effect]`, a pure function of the past.

The same events in the same order give the same effects, in any process. Only `StepBegan` runs the
scheduler; everything else changes what the next step will find.
"""

from collections import deque

import msgspec

from tokenreel.actors.core import intake, snapshot
from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.digest import COUNTERS, SEQUENCES, Digest, weight
from tokenreel.actors.core.kv_manager import KvManager
from tokenreel.actors.core.policy import POLICIES
from tokenreel.actors.core.queues import Queues
from tokenreel.actors.core.scheduler import Composition, OpenStep, Scheduler
from tokenreel.actors.core.sequence import Request, Sequence, Status
from tokenreel.actors.core.stopping import finish_reason
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey, SeqId, StepId
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
    SequenceTokens,
    StopStringMatched,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.sampling import MASK_64, FinishReason
from tokenreel.messages.steps import StepBegan, StepCompleted, StepDecided


class EngineStatistics(msgspec.Struct, frozen=True):
    num_running: int
    num_waiting: int
    num_blocked: int
    num_requests: int
    num_open_steps: int
    num_free_blocks: int
    num_evictable_blocks: int
    num_fenced_blocks: int
    num_ignored_events: int


class Engine:
    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.digest = Digest()
        self.queues = Queues(config.max_num_seqs, self.digest)
        self.kv = KvManager(config, self.digest)
        self.requests: dict[RequestKey, Request] = {}
        self.sequences: dict[SeqId, Sequence] = {}
        self.open_steps: deque[OpenStep] = deque()
        self.tombstones: dict[RequestKey, None] = {}
        """Requests that were aborted before their admit arrived, oldest first."""
        self.last_numbers: dict[int, int] = {}
        """By frontend epoch, the highest request number that was admitted or refused here. Admits
        of one frontend arrive in the order of their numbers: one input processor, FIFO links."""
        self.next_seq_id = 1
        self.next_arrival = 1
        self.next_step_id = StepId(1)
        self.num_ignored = 0
        """Events that say nothing: late, repeated, or malformed by another process."""
        self.settled = True
        """The scheduler has nothing to do until another event comes."""
        self._changed: dict[SeqId, Sequence] = {}
        self._policy = POLICIES[config.scheduling_policy]()
        self.scheduler = Scheduler(config, self.queues, self.kv)
        """Another that decides alike may take its place, between two events."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        """What follows from `event`. Raises only if the core itself is at fault."""
        if isinstance(event, StepBegan):
            return self._step_began(event)
        self.settled = False
        match event:
            case StepCompleted():
                return self._step_completed(event)
            case AdmitRequest():
                return self._admit(event)
            case OutputDelivered():
                return self._output_delivered(event)
            case AbortRequest():
                return self._abort(event)
            case StopStringMatched():
                return self._stop_string_matched(event)

    def wants_step(self) -> bool:
        """Whether a `StepBegan` now may schedule something."""
        return (
            not self.settled
            and len(self.open_steps) < self.config.pipeline_depth
            and bool(self.queues.running or self.queues.waiting)
        )

    def statistics(self) -> EngineStatistics:
        pool = self.kv.pool
        return EngineStatistics(
            num_running=len(self.queues.running),
            num_waiting=len(self.queues.waiting),
            num_blocked=len(self.queues.blocked),
            num_requests=len(self.requests),
            num_open_steps=len(self.open_steps),
            num_free_blocks=len(pool.free),
            num_evictable_blocks=len(pool.evictable),
            num_fenced_blocks=pool.num_fenced,
            num_ignored_events=self.num_ignored,
        )

    # Requests come in.

    def _admit(self, event: AdmitRequest) -> list[Effect]:
        epoch, number = event.key
        if number <= self.last_numbers.get(epoch, -1):
            return self._ignore()  # a key is never used twice
        self.last_numbers[epoch] = number
        if self._exhume(event.key):
            return [RequestRejected(event.key, 499, "aborted", "the client gave the request up")]
        refusal = intake.refusal(event, self.config, len(self.requests))
        if refusal is not None:
            return [refusal]
        request = self._create(event)
        return [
            RequestAdmitted(event.key, request.seq_ids, len(event.prompt_token_ids), event.text)
        ]

    def _create(self, event: AdmitRequest) -> Request:
        level = self._policy.level(event.priority)
        sequences = intake.sequences_of(
            event, self.config, level, self.next_arrival, SeqId(self.next_seq_id)
        )
        self.next_seq_id += len(sequences)
        self.next_arrival += 1
        for sequence in sequences:
            self.sequences[sequence.seq_id] = sequence
            self._note_change(sequence)
            if sequence.is_first:
                self.queues.wait(sequence)
            else:
                self.queues.block(sequence)
        seq_ids = tuple(sequence.seq_id for sequence in sequences)
        request = Request(event.key, seq_ids, len(seq_ids))
        self.requests[event.key] = request
        return request

    # Steps begin and complete.

    def _step_began(self, event: StepBegan) -> list[Effect]:
        if event.step_id != self.next_step_id:
            return self._ignore()
        if len(self.open_steps) >= self.config.pipeline_depth:
            return self._ignore()
        step = self.scheduler.compose(event.step_id)
        effects: list[Effect] = list(step.preempted)
        for preempted in step.preempted:
            self._note_change(self.sequences[preempted.seq_id])
        # An empty step that took something back has changed what the next one finds.
        self.settled = not step.scheduled and not step.preempted
        if step.scheduled:
            self.next_step_id = StepId(event.step_id + 1)
            self.open_steps.append(OpenStep(step.step_id, step.shares))
            for sequence in step.sequences:
                self._changed[sequence.seq_id] = sequence
            effects.append(self.scheduler.message(step))
            effects.append(self._decided(step))
        return effects

    def _decided(self, step: Composition) -> StepDecided:
        return StepDecided(
            step_id=step.step_id,
            digest=self.state_digest(),
            num_batched_tokens=self.config.max_num_batched_tokens - step.budget,
            num_running=len(self.queues.running),
            num_waiting=len(self.queues.waiting),
            num_free_blocks=self.kv.pool.num_available,
            unscheduled=step.passed_over.reason,
            seq_id=step.passed_over.seq_id,
            num_blocks_needed=step.passed_over.num_blocks_needed,
        )

    def _step_completed(self, event: StepCompleted) -> list[Effect]:
        if not self.open_steps or event.step_id != self.open_steps[0].step_id:
            return self._ignore()
        step = self.open_steps.popleft()
        tokens = {output.seq_id: output.token_ids for output in event.outputs}
        failures = {failure.seq_id: failure.message for failure in event.failures}
        emitted: list[SequenceTokens] = []
        effects: list[Effect] = [TokensEmitted(emitted)]
        sequences, changed = self.sequences, self._changed
        for share in step.shares:
            seq_id, samples = share.seq_id, share.samples
            sequence = sequences.get(seq_id)
            if sequence is None or sequence.finish_reason is not None:
                continue  # it ended after this step was sent: the token is dropped
            sequence.num_open_steps -= 1
            if samples:
                sequence.num_open_samples -= 1
            failure = failures.get(seq_id, "")
            if samples and not failure:
                failure = self._fault(tokens.get(seq_id))
            if failure:  # what the step wrote for it is worth nothing
                emitted.append(self._fail(sequence, failure, effects))
                continue
            if share.epoch == sequence.epoch:  # else preempted since: only the token is left
                self._commit(sequence, share.end)
            if samples:
                emitted.append(self._put_out(sequence, tokens[seq_id][0], effects))
            changed[seq_id] = sequence
        self.kv.pool.lift_fence(event.step_id)
        return effects if emitted else effects[1:]

    def _commit(self, sequence: Sequence, num_computed: int) -> None:
        sequence.num_computed = num_computed
        self.kv.commit(sequence)
        if num_computed >= sequence.num_prompt_tokens and self.queues.blocked:
            self._unblock_siblings(sequence)

    def _fault(self, token_ids: list[int] | None) -> str:
        """What is wrong with a worker's answer for one sequence; empty if nothing is."""
        if token_ids is None or len(token_ids) != 1:
            return "the worker answered with no token"
        if not 0 <= token_ids[0] < self.config.vocab_size:
            return f"the worker answered with token {token_ids[0]}, outside the vocabulary"
        return ""

    def _put_out(self, sequence: Sequence, token: int, effects: list[Effect]) -> SequenceTokens:
        num_outputs = sequence.append_token(token)
        reason = finish_reason(sequence.stopping, num_outputs, token)
        if reason is not None:
            self._finish(sequence, reason, num_outputs, effects)
        return SequenceTokens(
            sequence.seq_id, num_outputs - 1, [token], reason, sequence.num_cached_tokens
        )

    def _fail(self, sequence: Sequence, message: str, effects: list[Effect]) -> SequenceTokens:
        """A failure scoped to one sequence ends that sequence."""
        num_outputs = sequence.num_outputs
        self._finish(sequence, FinishReason.ERROR, num_outputs, effects)
        return SequenceTokens(sequence.seq_id, num_outputs, [], FinishReason.ERROR, error=message)

    # Sequences and requests end.

    def _finish(
        self, sequence: Sequence, reason: FinishReason, num_outputs: int, effects: list[Effect]
    ) -> None:
        self.kv.release(sequence)
        self.queues.finish(sequence)
        sequence.num_computed = sequence.num_scheduled = 0
        sequence.num_open_samples = sequence.num_open_steps = 0
        sequence.finish_reason = reason
        sequence.num_final_outputs = num_outputs
        self._note_change(sequence)
        effects.append(SequenceFinished(sequence.seq_id, reason, num_outputs))
        if self.queues.blocked:
            self._unblock_siblings(sequence)

    def _unblock_siblings(self, sequence: Sequence) -> None:
        """The first of a request's sequences has computed the prompt, or never will."""
        if not sequence.is_first:
            return
        for seq_id in self.requests[sequence.key].seq_ids:
            sibling = self.queues.blocked.get(seq_id)
            if sibling is not None:
                self.queues.wait(sibling)

    def _abort(self, event: AbortRequest) -> list[Effect]:
        request = self.requests.get(event.key)
        if request is None:
            return self._bury(event.key)
        emitted: list[SequenceTokens] = []
        effects: list[Effect] = [TokensEmitted(emitted)]
        for seq_id in reversed(request.seq_ids):  # the first comes last: it would wake the others
            sequence = self.sequences.get(seq_id)
            if sequence is None or sequence.status is Status.FINISHED:
                continue
            num_outputs = sequence.num_outputs
            self._finish(sequence, FinishReason.ABORT, num_outputs, effects)
            emitted.append(SequenceTokens(seq_id, num_outputs, [], FinishReason.ABORT))
        return effects if emitted else self._ignore()

    def _bury(self, key: RequestKey) -> list[Effect]:
        """An abort that overtook its admit leaves a tombstone, which the admit will find."""
        if key.number <= self.last_numbers.get(key.frontend_epoch, -1):
            return self._ignore()  # its admit came and went
        self.tombstones[key] = None
        if len(self.tombstones) > self.config.max_in_flight:
            del self.tombstones[next(iter(self.tombstones))]
        return []

    def _exhume(self, key: RequestKey) -> bool:
        """Whether the request was aborted already. Tombstones of those before it are for requests
        that were rejected on their way here: nobody will come for them."""
        if not self.tombstones:
            return False
        was_aborted = key in self.tombstones
        for other in list(self.tombstones):
            if other.frontend_epoch == key.frontend_epoch and other.number <= key.number:
                del self.tombstones[other]
        return was_aborted

    def _stop_string_matched(self, event: StopStringMatched) -> list[Effect]:
        """The finish with the smallest output index wins, whichever became known first."""
        sequence = self.sequences.get(event.seq_id)
        if sequence is None:
            return self._ignore()
        finished = sequence.status is Status.FINISHED
        num_outputs = sequence.num_final_outputs if finished else sequence.num_outputs
        if not 1 <= event.num_output_tokens <= num_outputs:
            return self._ignore()
        if finished:
            sequence.finish_reason = FinishReason.STOP
            sequence.num_final_outputs = event.num_output_tokens
            self._note_change(sequence)
            return [SequenceFinished(event.seq_id, FinishReason.STOP, event.num_output_tokens)]
        tokens = SequenceTokens(event.seq_id, event.num_output_tokens, [], FinishReason.STOP)
        effects: list[Effect] = [TokensEmitted([tokens])]
        self._finish(sequence, FinishReason.STOP, event.num_output_tokens, effects)
        return effects

    def _output_delivered(self, event: OutputDelivered) -> list[Effect]:
        effects: list[Effect] = []
        for seq_id in event.seq_ids:
            sequence = self.sequences.get(seq_id)
            if sequence is None or sequence.status is not Status.FINISHED:
                self._ignore()
                continue
            del self.sequences[seq_id]
            self._changed.pop(seq_id, None)
            self.digest.add(SEQUENCES, -sequence.sequence_term)
            self.queues.forget(sequence)
            request = self.requests[sequence.key]
            request.num_undelivered -= 1
            if request.num_undelivered == 0:
                del self.requests[request.key]
                effects.append(RequestFinished(request.key))
        return effects

    # The state as a whole.

    def snapshot(self) -> bytes:
        """The whole state as canonical bytes: equal states give equal bytes."""
        return snapshot.encode(snapshot.take(self))

    @classmethod
    def restore(cls, config: CoreConfig, encoded: bytes, *, is_trusted: bool = False) -> "Engine":
        """The engine that `snapshot` was taken of. Raises SnapshotError if these bytes are no
        snapshot of an engine with this configuration. `is_trusted`: this very code made them and
        nobody has changed them since, so that the digest in them need not be computed again."""
        engine = cls(config)
        snapshot.restore(engine, encoded, is_trusted)
        return engine

    def state_digest(self) -> tuple[int, ...]:
        """One 64-bit hash per component, in the order of `digest.COMPONENTS`."""
        total = 0
        for sequence in self._changed.values():
            term = sequence.expected_sequence_term()
            total += term - sequence.sequence_term
            sequence.sequence_term = term
        self.digest.add(SEQUENCES, total)
        self._changed.clear()
        values = list(self.digest.values())
        values[COUNTERS] = self._counters_term()
        return tuple(values)

    def _counters_term(self) -> int:
        counters = (
            self.next_seq_id,
            self.next_arrival,
            self.next_step_id,
            self.num_ignored,
            len(self.requests),
            len(self.open_steps),
            len(self.tombstones),
            len(self.queues.freed_rows),
            self.kv.pool.next_stamp,
        )
        return sum(weight(place) * count for place, count in enumerate(counters)) & MASK_64

    def _note_change(self, sequence: Sequence) -> None:
        """The sequence's counters changed; the next digest takes them up, once for all changes."""
        self._changed[sequence.seq_id] = sequence

    def _ignore(self) -> list[Effect]:
        self.num_ignored += 1
        return []
