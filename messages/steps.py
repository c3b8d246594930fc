"""A step, one forward pass of one scheduled batch: decided by the core, carried out by workers."""

from enum import IntEnum

import msgspec

from tokenreel.messages.ids import BlockId, Row, SeqId, StepId
from tokenreel.messages.sampling import SamplingParams


class AddedSequence(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A sequence that enters the running batch in this step, or enters it again.

    `token_ids` is all that is known, prompt and committed output. `block_ids` is the block table
    that it starts with (prefix-cache hits); blocks for this step's tokens come in
    `ScheduledSequence.new_block_ids`. Whoever held `row` before is gone.
    """

    seq_id: SeqId
    row: Row
    token_ids: list[int]
    num_prompt_tokens: int
    block_ids: list[BlockId]
    sampling: SamplingParams


class ScheduledSequence(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One sequence's share of a step: compute positions [start, start + num_tokens).

    `num_logits` (0 or 1) says whether the last position yields a token: the step message decides,
    once. A position's token is a known one, or the one that the worker itself sampled for it in an
    earlier step. `new_block_ids` are appended to the row's block table before anything is written.
    """

    seq_id: SeqId
    row: Row
    start: int
    num_tokens: int
    num_logits: int
    new_block_ids: list[BlockId]


class StepBegan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Raised by the core's shell, journaled: the moment at which step `step_id` is composed."""

    step_id: StepId


class StepScheduled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """engine core -> worker: what to compute. Steps arrive and are executed in order."""

    step_id: StepId
    added: list[AddedSequence]
    removed_rows: list[Row]
    scheduled: list[ScheduledSequence]


class SampledTokens(msgspec.Struct, frozen=True, array_like=True, gc=False):
    seq_id: SeqId
    token_ids: list[int]


class SequenceFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A failure that concerns one sequence only, such as logits that are not finite."""

    seq_id: SeqId
    message: str


class StepCompleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """worker -> engine core, journaled: one entry per scheduled sequence with `num_logits` > 0,
    in `outputs` or in `failures`, which may also name sequences without. Times are the worker's
    monotonic clock."""

    step_id: StepId
    outputs: list[SampledTokens]
    began_ns: int
    ended_ns: int
    failures: list[SequenceFailure] = []


class Unscheduled(IntEnum):
    """Why the first request in line was not scheduled in a step."""

    NOTHING = 0
    """Everyone who could run was scheduled."""
    BLOCKS = 1
    """The pool has too few free blocks, and nobody lower in the order to preempt."""
    TOKEN_BUDGET = 2
    """max_num_batched_tokens is used up."""
    MAX_NUM_SEQS = 3
    """max_num_seqs sequences are running."""
    OPEN_STEPS = 4
    """It was preempted, and steps from before are still open."""


class StepDecided(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """For the journal alone: the state after a step was composed, and who was passed over.

    `digest` has one 64-bit hash per component of the state, in the order of
    `actors.core.digest.COMPONENTS`. `seq_id` 0 means that nobody was passed over.
    """

    step_id: StepId
    digest: tuple[int, ...]
    num_batched_tokens: int
    num_running: int
    num_waiting: int
    num_free_blocks: int
    unscheduled: Unscheduled
    seq_id: SeqId
    num_blocks_needed: int


class SequencePreempted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """For the journal and statistics: a running sequence gave its blocks up for `for_seq_id`."""

    seq_id: SeqId
    for_seq_id: SeqId
    num_computed_tokens: int
