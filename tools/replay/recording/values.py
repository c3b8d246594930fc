"""What a captured or simulated run is, as plain values: requests, what they put out, steps."""

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.messages.ids import SeqId, StepId
from tokenreel.messages.journal_meta import CoreFailed
from tokenreel.messages.requests import AdmitRequest, RequestRejected
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import StepScheduled


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
