"""Takes the rows of a segment's index from its records, just as they were recorded."""

from typing import Any

from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.outputs import SequenceFinished, TokensEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.steps import (
    ScheduledSequence,
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
)
from tokenreel.tools.replay.index.rows import (
    Admit,
    Completion,
    Departure,
    SequenceMarks,
    Step,
)


def is_decode(share: ScheduledSequence) -> bool:
    """One token that yields the next; everything else is prefill, after a preemption too."""
    return share.num_tokens == 1 and share.num_logits == 1


class Collector:
    """`take` every event of a segment in order, then read `tables`."""

    def __init__(self, block_size: int, tables: dict[str, list[Any]] | None = None) -> None:
        """With `tables`, it goes on where another collector of the same segment stopped."""
        tables = tables or {}
        self._block_size = block_size
        self._steps: list[Step] = tables.get("steps", [])
        self._late_completions: list[Completion] = tables.get("late_completions", [])
        self._carried: list[Admit] = tables.get("carried", [])
        self._admits: list[Admit] = tables.get("admits", [])
        self._departures = {
            RequestKey(row.frontend_epoch, row.number): row for row in tables.get("departures", [])
        }
        self._sequences: dict[int, SequenceMarks] = {
            row.seq_id: row for row in tables.get("sequences", [])
        }
        self._open_steps = {row.step_id: row for row in self._steps if not row.completed_seq}

    @property
    def tables(self) -> dict[str, list[Any]]:
        return {
            "steps": list(self._steps),
            "late_completions": list(self._late_completions),
            "carried": list(self._carried),
            "admits": list(self._admits),
            "departures": list(self._departures.values()),
            "sequences": list(self._sequences.values()),
        }

    def carry(self, admit: Admit) -> None:
        """A request that was there when the segment began."""
        self._carried.append(admit)

    def take(
        self, seq: int, offset: int, t_ns: int, event: CoreEvent, effects: list[Effect]
    ) -> None:
        match event:
            case StepBegan():
                self._take_step(Step(event.step_id, seq=seq, offset=offset, t_ns=t_ns), effects)
            case StepCompleted():
                self._take_completion(seq, t_ns, event, effects)
            case AdmitRequest():
                self._take_admit(seq, t_ns, event, effects)
            case AbortRequest():
                self._departure(event.key).aborted_ns = t_ns
        for effect in effects:
            match effect:
                case TokensEmitted():
                    self._take_tokens(t_ns, effect)
                case SequenceFinished():
                    marks = self._marks(effect.seq_id)
                    marks.finished_ns = marks.finished_ns or t_ns
                    marks.finish_reason = effect.reason
                    marks.num_outputs = effect.num_output_tokens
                case SequencePreempted():
                    self._marks(effect.seq_id).num_preemptions += 1
                case RequestFinished():
                    self._departure(effect.key).delivered_ns = t_ns

    def _take_step(self, row: Step, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StepScheduled():
                    self._take_composition(row, effect)
                case StepDecided():
                    row.num_tokens = effect.num_batched_tokens
                    row.num_running = effect.num_running
                    row.num_waiting = effect.num_waiting
                    row.num_free_blocks = effect.num_free_blocks
                    row.unscheduled = effect.unscheduled
                    row.passed_over = effect.seq_id
                    row.num_blocks_needed = effect.num_blocks_needed
                case SequencePreempted():
                    row.num_preempted += 1
        if row.num_seqs:  # else nothing was composed: the step does not exist
            self._steps.append(row)
            self._open_steps[row.step_id] = row

    def _take_composition(self, row: Step, step: StepScheduled) -> None:
        row.num_seqs = len(step.scheduled)
        row.num_added = len(step.added)
        row.num_sampled = sum(share.num_logits for share in step.scheduled)
        row.num_decode_tokens = sum(is_decode(share) for share in step.scheduled)
        row.num_new_blocks = sum(len(share.new_block_ids) for share in step.scheduled)
        row.num_context_tokens = sum(share.start + share.num_tokens for share in step.scheduled)
        for added in step.added:
            num_full = (len(added.token_ids) - 1) // self._block_size
            row.num_cached_tokens += len(added.block_ids) * self._block_size
            row.num_missed_blocks += num_full - len(added.block_ids)
            marks = self._marks(added.seq_id)
            if not marks.first_step_id:
                marks.first_step_id, marks.first_scheduled_ns = step.step_id, row.t_ns

    def _take_completion(
        self, seq: int, t_ns: int, event: StepCompleted, effects: list[Effect]
    ) -> None:
        row: Completion | None = self._open_steps.pop(event.step_id, None)
        if row is None:
            row = Completion(event.step_id)
            self._late_completions.append(row)
        row.completed_seq, row.completed_t_ns = seq, t_ns
        row.began_ns, row.ended_ns = event.began_ns, event.ended_ns
        for effect in effects:
            if isinstance(effect, TokensEmitted):
                row.num_emitted += sum(len(tokens.token_ids) for tokens in effect.sequences)
            elif isinstance(effect, SequenceFinished):
                row.num_finished += 1

    def _take_admit(self, seq: int, t_ns: int, event: AdmitRequest, effects: list[Effect]) -> None:
        row = Admit(
            event.key.frontend_epoch,
            event.key.number,
            seq=seq,
            t_ns=t_ns,
            n=event.n,
            num_prompt_tokens=len(event.prompt_token_ids),
            max_tokens=event.stopping.max_tokens,
            priority=event.priority,
        )
        for effect in effects:
            match effect:
                case RequestAdmitted():
                    row.first_seq_id = effect.seq_ids[0]
                case RequestRejected():
                    row.refused_status = effect.status
        if row.first_seq_id or row.refused_status:  # else a repeated key, which was ignored
            self._admits.append(row)

    def _take_tokens(self, t_ns: int, emitted: TokensEmitted) -> None:
        for tokens in emitted.sequences:
            marks = self._marks(tokens.seq_id)
            if tokens.token_ids:
                if tokens.first_output_index == 0:
                    marks.first_token_ns = t_ns
                marks.last_token_ns = t_ns
                marks.num_outputs = tokens.first_output_index + len(tokens.token_ids)
            marks.num_cached_tokens = marks.num_cached_tokens or tokens.num_cached_tokens

    def _marks(self, seq_id: int) -> SequenceMarks:
        marks = self._sequences.get(seq_id)
        if marks is None:
            marks = self._sequences[seq_id] = SequenceMarks(seq_id)
        return marks

    def _departure(self, key: RequestKey) -> Departure:
        row = self._departures.get(key)
        if row is None:
            row = self._departures[key] = Departure(*key)
        return row
