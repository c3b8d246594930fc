"""Puts a run's events and effects together as they come, from a journal or from a simulation."""

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey, SeqId, StepId
from tokenreel.messages.journal_meta import CoreFailed
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
from tokenreel.messages.sampling import TextParams
from tokenreel.messages.steps import SequencePreempted, StepCompleted, StepScheduled
from tokenreel.tools.replay.recording.values import (
    Abort,
    RecordedRequest,
    RecordedSequence,
    RecordedStep,
    Recording,
    StepWork,
    StopMatch,
    work_of,
)


class RecordingBuilder:
    """`t_ns` is always the core's clock at the input that is taken, or that had the effect."""

    def __init__(self) -> None:
        self.requests: dict[RequestKey, RecordedRequest] = {}
        self.sequences: dict[SeqId, RecordedSequence] = {}
        self._steps: list[RecordedStep] = []
        self._open_steps: dict[StepId, tuple[int, StepWork]] = {}
        self._early_aborts: dict[RequestKey, int] = {}
        self._num_preemptions = 0

    def build(
        self,
        run_id: str,
        config: CoreConfig,
        start_ns: int,
        end_ns: int,
        num_gaps: int = 0,
        failure: CoreFailed | None = None,
    ) -> Recording:
        return Recording(
            run_id=run_id,
            config=config,
            start_ns=start_ns,
            end_ns=end_ns,
            requests=list(self.requests.values()),
            steps=self._steps,
            num_preemptions=self._num_preemptions,
            num_gaps=num_gaps,
            num_stray_aborts=len(self._early_aborts),
            failure=failure,
        )

    def take_event(self, t_ns: int, event: CoreEvent) -> None:
        match event:
            case AdmitRequest(key=key):
                if key not in self.requests:  # else the core ignores it
                    self._admit(t_ns, event)
            case AbortRequest(key=key):
                self._abort(t_ns, key)
            case StepCompleted():
                self._complete(t_ns, event)
            case StopStringMatched():
                self._match(t_ns, event)
            case OutputDelivered(seq_ids=seq_ids):
                for seq_id in seq_ids:
                    if seq_id in self.sequences:
                        self.sequences[seq_id].delivered_ns = t_ns

    def take_effect(self, t_ns: int, effect: Effect) -> None:
        match effect:
            case RequestAdmitted(key=key, seq_ids=seq_ids) if key in self.requests:
                for seq_id in seq_ids:
                    self.sequences[seq_id] = sequence = RecordedSequence(seq_id)
                    self.requests[key].sequences.append(sequence)
            case RequestRejected(key=key) if key in self.requests:
                self.requests[key].rejected = effect
            case RequestFinished(key=key) if key in self.requests:
                self.requests[key].finished_ns = t_ns
            case StepScheduled(step_id=step_id):
                self._open_steps[step_id] = (t_ns, work_of(effect))
            case SequencePreempted(seq_id=seq_id):
                self._num_preemptions += 1
                if seq_id in self.sequences:
                    self.sequences[seq_id].num_preemptions += 1
            case TokensEmitted():
                self._emit(t_ns, effect)
            case SequenceFinished():
                self._finish(t_ns, effect)

    def take_snapshot(self, t_ns: int, engine: Engine) -> None:
        """Takes over what only a snapshot knows: the record begins here, or begins again."""
        self._open_steps.clear()
        for request in engine.requests.values():
            alive = [engine.sequences[s] for s in request.seq_ids if s in engine.sequences]
            known = self.requests.get(request.key)
            if known is None:
                admit = _admit_of(alive, engine.config.block_size)
                known = RecordedRequest(admit, t_ns, is_inherited=True)
                self.requests[request.key] = known
            for state in alive:
                sequence = self.sequences.get(state.seq_id)
                if sequence is None:
                    self.sequences[state.seq_id] = sequence = RecordedSequence(state.seq_id)
                    known.sequences.append(sequence)
                _catch_up(t_ns, sequence, state)

    def _admit(self, t_ns: int, admit: AdmitRequest) -> None:
        self.requests[admit.key] = request = RecordedRequest(admit, t_ns)
        if admit.key in self._early_aborts:
            request.abort = Abort(self._early_aborts.pop(admit.key), (), True)

    def _abort(self, t_ns: int, key: RequestKey) -> None:
        request = self.requests.get(key)
        if request is None:
            self._early_aborts[key] = t_ns
        elif request.abort is None:
            num_outputs = tuple(len(sequence.outputs) for sequence in request.sequences)
            request.abort = Abort(t_ns, num_outputs, not request.is_complete)

    def _complete(self, t_ns: int, event: StepCompleted) -> None:
        scheduled = self._open_steps.pop(event.step_id, None)
        if scheduled is None:
            return  # from before the record's start, or one that the core ignores
        scheduled_ns, work = scheduled
        self._steps.append(
            RecordedStep(event.step_id, work, scheduled_ns, event.began_ns, event.ended_ns, t_ns)
        )

    def _match(self, t_ns: int, event: StopStringMatched) -> None:
        sequence = self.sequences.get(event.seq_id)
        if sequence is None or not 1 <= event.num_output_tokens <= len(sequence.outputs):
            return
        delay_ns = t_ns - sequence.output_ns[event.num_output_tokens - 1]
        sequence.stop_match = StopMatch(event.num_output_tokens, delay_ns)

    def _emit(self, t_ns: int, effect: TokensEmitted) -> None:
        for tokens in effect.sequences:
            sequence = self.sequences.get(tokens.seq_id)
            if sequence is None:
                continue
            sequence.outputs.extend(tokens.token_ids)
            sequence.output_ns.extend([t_ns] * len(tokens.token_ids))
            sequence.num_cached_tokens = tokens.num_cached_tokens or sequence.num_cached_tokens
            sequence.error = tokens.error or sequence.error

    def _finish(self, t_ns: int, effect: SequenceFinished) -> None:
        sequence = self.sequences.get(effect.seq_id)
        if sequence is None:
            return
        if sequence.finish_reason is None:
            sequence.finished_ns = t_ns
        sequence.finish_reason = effect.reason
        sequence.num_final_outputs = effect.num_output_tokens


def _catch_up(t_ns: int, sequence: RecordedSequence, state: Sequence) -> None:
    outputs = state.token_ids[state.num_prompt_tokens :]
    num_missed = len(outputs) - len(sequence.outputs)
    if num_missed:
        sequence.num_inherited = len(outputs)
        sequence.output_ns.extend([t_ns] * num_missed)
    sequence.outputs = outputs
    sequence.num_cached_tokens = state.num_cached_tokens
    if state.finish_reason is not None and sequence.finish_reason is None:
        sequence.finish_reason = state.finish_reason
        sequence.num_final_outputs = state.num_final_outputs
        sequence.finished_ns = t_ns


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
