"""A captured run as a value: what was asked, what came out, when; and what each step took.

Nothing is re-executed and nothing judged: `lift` only puts together what lies scattered over the
journal, so that a run can be simulated, shrunk or counted without its records.
"""

from collections.abc import Iterator

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Sequence
from tokenreel.actors.core.snapshot import SnapshotError
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey, SeqId, StepId
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
    join_snapshot,
    num_snapshot_parts,
)
from tokenreel.messages.journal_meta import (
    CoreFailed,
    MalformedRecord,
    decode_core_failed,
    decode_meta,
)
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
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
from tokenreel.messages.sampling import FinishReason, TextParams
from tokenreel.messages.steps import (
    SequencePreempted,
    StepCompleted,
    StepScheduled,
)
from tokenreel.tools.replay.events import decode_record
from tokenreel.tools.replay.journal import Journal, read_records


class StopMatch(msgspec.Struct, frozen=True):
    """A stop string was complete after `num_output_tokens`; the core learned of it `delay_ns` after
    it had put that token out."""

    num_output_tokens: int
    delay_ns: int


class Abort(msgspec.Struct, frozen=True):
    """`num_outputs` has the output of each sequence at that time; none if it overtook its admit.
    Only if `ended_something` did anything follow from it."""

    at_ns: int
    num_outputs: tuple[int, ...]
    ended_something: bool


class RecordedSequence(msgspec.Struct):
    """`outputs` are all tokens that the core committed, also those behind a stop string, where
    `num_final_outputs` then is smaller. `finish_reason` None: it was in flight when the record
    ended, and what it would have put out further is not known."""

    seq_id: SeqId
    outputs: list[int] = []
    output_ns: list[int] = []
    """When each of `outputs` was committed; for those that the record does not show, its start."""
    num_inherited: int = 0
    """Leading outputs that are known from a snapshot alone."""
    finish_reason: FinishReason | None = None
    num_final_outputs: int = 0
    finished_ns: int = 0
    """When it first finished: a stop string that is found later changes the reason, not this."""
    delivered_ns: int | None = None
    stop_match: StopMatch | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    error: str = ""


class RecordedRequest(msgspec.Struct):
    """`is_inherited`: it was admitted where the record does not show it (before its start, or in a
    gap). Its `admit` is then made from a snapshot: `arrival_ns` is that snapshot's, `n` counts the
    sequences that were left, stop strings are lost, and so is the priority under a policy that does
    not look at it."""

    admit: AdmitRequest
    arrival_ns: int
    sequences: list[RecordedSequence] = []
    is_inherited: bool = False
    rejected: RequestRejected | None = None
    abort: Abort | None = None
    finished_ns: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the record shows how it ended."""
        return self.rejected is not None or all(
            sequence.finish_reason is not None for sequence in self.sequences
        )


class StepWork(msgspec.Struct, frozen=True):
    """What a step computes. `num_context` sums, over its sequences, the positions up to the end of
    their share; `num_pairs` the pairs of a token and one that it attends to."""

    num_tokens: int
    num_seqs: int
    num_context: int
    num_pairs: int


class RecordedStep(msgspec.Struct, frozen=True):
    """`scheduled_ns` and `completed_ns` are the core's clock, `began_ns` and `ended_ns` the
    worker's."""

    step_id: StepId
    work: StepWork
    scheduled_ns: int
    began_ns: int
    ended_ns: int
    completed_ns: int


class Recording(msgspec.Struct):
    """`requests` stand in the order of their arrival, `steps` in that of their completion; steps
    that were open at the end are not among them."""

    run_id: str
    config: CoreConfig
    start_ns: int
    end_ns: int
    requests: list[RecordedRequest]
    steps: list[RecordedStep]
    num_preemptions: int
    num_gaps: int
    num_stray_aborts: int
    """Aborts of requests that the record never shows."""
    failure: CoreFailed | None
    """What the core raised at the end of the record."""


def work_of(step: StepScheduled) -> StepWork:
    shares = step.scheduled
    return StepWork(
        num_tokens=sum(share.num_tokens for share in shares),
        num_seqs=len(shares),
        num_context=sum(share.start + share.num_tokens for share in shares),
        num_pairs=sum(
            share.num_tokens * share.start + share.num_tokens * (share.num_tokens + 1) // 2
            for share in shares
        ),
    )


def lift(journal: Journal) -> Recording:
    """Raises JournalDamaged if the records are none that a core could have made.

    A run whose first segments are gone begins with what its first snapshot holds. After a gap,
    the snapshot behind it tells what became of the sequences that live on; one that ended within
    the gap stays incomplete.
    """
    lifting = _Lifting()
    for header, name, records in read_records(journal):
        lifting.enter_segment(header, name)
        for record in records:
            lifting.take(record)
    return lifting.recording(journal)


class _Lifting:
    """What has been put together so far."""

    def __init__(self) -> None:
        self._config: CoreConfig | None = None
        self._failure: CoreFailed | None = None
        self._segment = ""
        self._needs_snapshot = False
        self._snapshot_parts: list[bytes] = []
        self._now_ns = 0
        self._requests: dict[RequestKey, RecordedRequest] = {}
        self._sequences: dict[SeqId, RecordedSequence] = {}
        self._steps: list[RecordedStep] = []
        self._open_steps: dict[StepId, tuple[int, StepWork]] = {}
        self._early_aborts: dict[RequestKey, int] = {}
        self._num_preemptions = 0
        self._num_gaps = 0

    def recording(self, journal: Journal) -> Recording:
        assert self._config is not None
        return Recording(
            run_id=journal.run_id,
            config=self._config,
            start_ns=journal.segments[0].header.monotonic_ns,
            end_ns=journal.segments[-1].last_t_ns,
            requests=list(self._requests.values()),
            steps=self._steps,
            num_preemptions=self._num_preemptions,
            num_gaps=self._num_gaps,
            num_stray_aborts=len(self._early_aborts),
            failure=self._failure,
        )

    def enter_segment(self, header: SegmentHeader, name: str) -> None:
        is_first = self._config is None
        is_after_gap = bool(header.flags & AFTER_GAP)
        self._segment = name
        self._needs_snapshot = (is_first and header.number > 0) or is_after_gap
        self._num_gaps += is_after_gap

    def take(self, record: Record) -> None:
        self._now_ns = record.t_ns
        if record.flags & INPUT:
            self._take_event(decode_record(record, self._segment))  # type: ignore[arg-type]
        elif record.flags & EFFECT:
            self._take_effect(decode_record(record, self._segment))  # type: ignore[arg-type]
        elif record.type == META:
            self._take_meta(record)
        elif record.type == SNAPSHOT and self._needs_snapshot:
            self._take_snapshot(record)
        elif record.type == CORE_FAILED:
            self._take_failure(record)

    # Inputs and effects.

    def _take_event(self, event: CoreEvent) -> None:
        match event:
            case AdmitRequest(key=key):
                if key not in self._requests:  # else the core ignores it
                    self._admit(event)
            case AbortRequest(key=key):
                self._abort(key)
            case StepCompleted():
                self._complete(event)
            case StopStringMatched():
                self._match(event)
            case OutputDelivered(seq_ids=seq_ids):
                for seq_id in seq_ids:
                    if seq_id in self._sequences:
                        self._sequences[seq_id].delivered_ns = self._now_ns

    def _take_effect(self, effect: Effect) -> None:
        match effect:
            case RequestAdmitted(key=key, seq_ids=seq_ids):
                for seq_id in seq_ids:
                    self._sequences[seq_id] = sequence = RecordedSequence(seq_id)
                    self._requests[key].sequences.append(sequence)
            case RequestRejected(key=key):
                self._requests[key].rejected = effect
            case RequestFinished(key=key) if key in self._requests:
                self._requests[key].finished_ns = self._now_ns
            case StepScheduled(step_id=step_id):
                self._open_steps[step_id] = (self._now_ns, work_of(effect))
            case SequencePreempted(seq_id=seq_id):
                self._num_preemptions += 1
                if seq_id in self._sequences:
                    self._sequences[seq_id].num_preemptions += 1
            case TokensEmitted():
                self._emit(effect)
            case SequenceFinished():
                self._finish(effect)

    def _admit(self, admit: AdmitRequest) -> None:
        self._requests[admit.key] = request = RecordedRequest(admit, self._now_ns)
        if admit.key in self._early_aborts:
            request.abort = Abort(self._early_aborts.pop(admit.key), (), True)

    def _abort(self, key: RequestKey) -> None:
        request = self._requests.get(key)
        if request is None:
            self._early_aborts[key] = self._now_ns
        elif request.abort is None:
            num_outputs = tuple(len(sequence.outputs) for sequence in request.sequences)
            request.abort = Abort(self._now_ns, num_outputs, not request.is_complete)

    def _complete(self, event: StepCompleted) -> None:
        scheduled = self._open_steps.pop(event.step_id, None)
        if scheduled is None:
            return  # from before the record's start, or one that the core ignores
        scheduled_ns, work = scheduled
        self._steps.append(
            RecordedStep(
                event.step_id, work, scheduled_ns, event.began_ns, event.ended_ns, self._now_ns
            )
        )

    def _match(self, event: StopStringMatched) -> None:
        sequence = self._sequences.get(event.seq_id)
        if sequence is None or not 1 <= event.num_output_tokens <= len(sequence.outputs):
            return
        delay_ns = self._now_ns - sequence.output_ns[event.num_output_tokens - 1]
        sequence.stop_match = StopMatch(event.num_output_tokens, delay_ns)

    def _emit(self, effect: TokensEmitted) -> None:
        for tokens in effect.sequences:
            sequence = self._sequences.get(tokens.seq_id)
            if sequence is None:
                continue
            sequence.outputs.extend(tokens.token_ids)
            sequence.output_ns.extend([self._now_ns] * len(tokens.token_ids))
            sequence.num_cached_tokens = tokens.num_cached_tokens or sequence.num_cached_tokens
            sequence.error = tokens.error or sequence.error

    def _finish(self, effect: SequenceFinished) -> None:
        sequence = self._sequences.get(effect.seq_id)
        if sequence is None:
            return
        if sequence.finish_reason is None:
            sequence.finished_ns = self._now_ns
        sequence.finish_reason = effect.reason
        sequence.num_final_outputs = effect.num_output_tokens

    # The journal's own records.

    def _take_meta(self, record: Record) -> None:
        try:
            configuration = decode_meta(record.payload).configuration
            self._config = msgspec.convert(configuration, CoreConfig)
        except (MalformedRecord, msgspec.ValidationError) as error:
            raise self._damaged(record, f"META does not fit this code: {error}") from None

    def _take_failure(self, record: Record) -> None:
        try:
            self._failure = decode_core_failed(record.payload)
        except MalformedRecord as error:
            raise self._damaged(record, str(error)) from None

    def _take_snapshot(self, record: Record) -> None:
        self._snapshot_parts.append(record.payload)
        if len(self._snapshot_parts) < num_snapshot_parts(record.payload):
            return
        snapshot = join_snapshot(self._snapshot_parts)
        self._snapshot_parts = []
        if snapshot is None or self._config is None:
            raise self._damaged(record, "a snapshot's parts are mixed up")
        try:
            engine = Engine.restore(self._config, snapshot)
        except (SnapshotError, ValueError) as error:
            raise self._damaged(record, f"the core cannot start from this: {error}") from None
        self._open_steps.clear()
        for key in engine.requests:
            self._inherit(engine, key)

    def _inherit(self, engine: Engine, key: RequestKey) -> None:
        """Takes over what only the snapshot knows of a request."""
        known = self._requests.get(key)
        alive = [engine.sequences[seq_id] for seq_id in _alive(engine, key)]
        if known is None:
            admit = _admit_of(alive, engine.config.block_size)
            known = RecordedRequest(admit, self._now_ns, is_inherited=True)
            self._requests[key] = known
        for state in alive:
            sequence = self._sequences.get(state.seq_id)
            if sequence is None:
                self._sequences[state.seq_id] = sequence = RecordedSequence(state.seq_id)
                known.sequences.append(sequence)
            self._catch_up(sequence, state)

    def _catch_up(self, sequence: RecordedSequence, state: Sequence) -> None:
        outputs = state.token_ids[state.num_prompt_tokens :]
        num_missed = len(outputs) - len(sequence.outputs)
        sequence.num_inherited = len(outputs) if num_missed else sequence.num_inherited
        sequence.output_ns.extend([self._now_ns] * num_missed)
        sequence.outputs = outputs
        sequence.num_cached_tokens = state.num_cached_tokens
        if state.finish_reason is not None and sequence.finish_reason is None:
            sequence.finish_reason = state.finish_reason
            sequence.num_final_outputs = state.num_final_outputs
            sequence.finished_ns = self._now_ns

    def _damaged(self, record: Record, reason: str) -> JournalDamaged:
        return JournalDamaged(self._segment, record.offset, reason)


def _alive(engine: Engine, key: RequestKey) -> Iterator[SeqId]:
    return (seq_id for seq_id in engine.requests[key].seq_ids if seq_id in engine.sequences)


def _admit_of(sequences: list[Sequence], block_size: int) -> AdmitRequest:
    """The request that these sequences could have come from."""
    first = sequences[0]
    prompt = first.token_ids[: first.num_prompt_tokens]
    return AdmitRequest(
        key=first.key,
        prompt_token_ids=prompt,
        sampling=first.sampling,
        stopping=first.stopping,
        text=TextParams(),
        n=len(sequences),
        priority=first.level,
        cache_root=first.cache_root,
        block_hashes=first.hashes[: len(prompt) // block_size],
    )
