"""The running batch on the host: each row's tokens, block table and sampling parameters.

A step message changes rows and becomes flat arrays for the model. What a message says is checked
against what the rows hold: an entry that does not fit fails its own sequence, and writes nothing.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokenreel.actors.worker.sampling_table import SamplingBatch, SamplingTable
from tokenreel.messages.steps import (
    AddedSequence,
    ScheduledSequence,
    SequenceFailure,
    StepScheduled,
)

Array = NDArray[Any]
Column = TypeVar("Column")

NO_SEQUENCE = 0
MAX_INT64 = (1 << 63) - 1


class ImpossibleStep(ValueError):
    """A step message that no engine core can have meant; nothing of it was carried out."""


class StepInput(NamedTuple):
    """A step as the model wants it. Tokens of a sequence lie together, sequences in order."""

    token_ids: Array
    """[num_tokens] int32."""
    positions: Array
    """[num_tokens] int32."""
    slot_mapping: Array
    """[num_tokens] int64: block * block_size + offset."""
    query_start_loc: Array
    """[num_seqs + 1] int32."""
    context_lens: Array
    """[num_seqs] int32: tokens in the cache after this step."""
    block_tables: Array
    """[num_seqs, max_blocks] int32."""
    max_query_len: int
    max_context_len: int
    feedback_rows: Array | None
    """[num_tokens] int32: the row whose last sampled token stands here, or -1. None if tokens are
    known here as soon as they are sampled."""
    logit_indices: Array
    """[num_logits] int64: tokens after which one is sampled."""
    sampled_seq_ids: Array
    """[num_logits]"""
    sampled_rows: Array
    """[num_logits]"""
    sampled_indices: Array
    """[num_logits]: where in their sequences the sampled tokens will stand."""
    failures: list[SequenceFailure]


class Columns(NamedTuple, Generic[Column]):
    """A step's scheduled sequences by column, each [num_seqs].

    A batch is small, and a few numbers are looked over faster in a list than in an array, where
    every operation costs 0.5 to 2 us: what yields one number is asked of lists."""

    seq_ids: Column
    rows: Column
    starts: Column
    lengths: Column
    num_logits: Column


Entries = Columns[Array]
"""int64."""


class InputBatch:
    """Rows in [0, max_num_seqs). The token buffer's pages are the system's until they are used."""

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        block_size: int,
        num_blocks: int,
        vocab_size: int,
        is_async: bool = False,
    ) -> None:
        """`is_async`: steps are composed before the tokens of the last one are known here."""
        self.sampling = SamplingTable(max_num_seqs)
        self.max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_model_len = max_model_len
        self._block_size = block_size
        self._num_pool_blocks = num_blocks
        self._vocab_size = vocab_size
        self._max_blocks = -(-max_model_len // block_size)
        self._seq_ids = np.full(max_num_seqs, NO_SEQUENCE, np.int64)
        # One place more than a sequence can use: a token sampled at its very end needs no check.
        self._tokens = np.zeros((max_num_seqs, max_model_len + 1), np.int32)
        self._num_known = np.zeros(max_num_seqs, np.int64)
        self._num_prompt = np.zeros(max_num_seqs, np.int64)
        self._last_sampled = np.full(max_num_seqs, -1, np.int64)
        self._tables = np.zeros((max_num_seqs, self._max_blocks), np.int32)
        self._num_blocks = np.zeros(max_num_seqs, np.int64)
        # Tokens that have a place: in the blocks, and in the model's context.
        self._room = np.zeros(max_num_seqs, np.int64)
        self._faults: dict[int, str] = {}
        self.is_async = is_async
        self._counting = np.arange(max_num_seqs + 1)
        self._counting32 = self._counting.astype(np.int32)
        self._bounds = Columns(
            seq_ids=(NO_SEQUENCE + 1, MAX_INT64),
            rows=(0, max_num_seqs - 1),
            starts=(0, max_model_len),
            lengths=(1, max_num_batched_tokens),
            num_logits=(0, 1),
        )

    def apply(self, step: StepScheduled) -> StepInput | list[SequenceFailure]:
        """Brings the rows up to the step, and returns what to compute, or failures if nothing is.

        Raises `ImpossibleStep` if the message as a whole makes no sense.
        """
        scheduled = step.scheduled
        columns = _columns(scheduled)
        self._check_bounds(step, columns)
        entries = Entries(*np.array(columns, np.int64))
        for row in step.removed_rows:
            self._clear(row)
        for added in step.added:
            self._add(added)
        for entry in scheduled:
            if entry.new_block_ids:
                self._append_blocks(entry.row, entry.seq_id, entry.new_block_ids)
        fits = self._fits(entries)
        if all(fits.tolist()):
            return self._flatten(entries, []) if scheduled else []
        failures = self._fail(scheduled, fits)
        entries = Entries(*(column[fits] for column in entries))
        return self._flatten(entries, failures) if fits.any() else failures

    def select_sampling(self, step_input: StepInput) -> SamplingBatch:
        return self.sampling.select(
            step_input.sampled_rows, step_input.sampled_indices, self._history
        )

    def write_sampled(self, step_input: StepInput, token_ids: Array) -> None:
        """Puts sampled tokens where the next step finds them, unless their row has a new owner."""
        rows, indices = step_input.sampled_rows, step_input.sampled_indices
        if self.is_async:
            same = self._seq_ids[rows] == step_input.sampled_seq_ids
            rows, indices, token_ids = rows[same], indices[same], token_ids[same]
        # A failed sequence has no token; what stands there instead is read by nobody.
        self._tokens[rows, indices] = np.maximum(token_ids, 0)

    def _history(self, row: int, output_position: int) -> tuple[Array, Array]:
        prompt_len = int(self._num_prompt[row])
        tokens = self._tokens[row]
        return tokens[:prompt_len], tokens[prompt_len : prompt_len + output_position]

    def _check_bounds(self, step: StepScheduled, columns: Columns[list[int]]) -> None:
        """What makes sense for no state of the rows; afterwards every row exists."""
        for name, column, (least, most) in zip(Columns._fields, columns, self._bounds, strict=True):
            if column and not least <= min(column) <= max(column) <= most:
                wrong = next(value for value in column if not least <= value <= most)
                raise ImpossibleStep(
                    f"{name} hold {wrong}, which is not between {least} and {most}"
                )
        other_rows = [added.row for added in step.added] + step.removed_rows
        if other_rows and not 0 <= min(other_rows) <= max(other_rows) < self.max_num_seqs:
            raise ImpossibleStep(f"a row outside the {self.max_num_seqs} rows there are")
        if len(set(columns.rows)) != len(step.scheduled):
            raise ImpossibleStep("a row is scheduled twice")
        if sum(columns.lengths) > self._max_num_batched_tokens:
            raise ImpossibleStep(f"more than {self._max_num_batched_tokens} tokens")

    def _clear(self, row: int) -> None:
        self._seq_ids[row] = NO_SEQUENCE
        self._faults.pop(row, None)

    def _add(self, added: AddedSequence) -> None:
        row, tokens, blocks = added.row, added.token_ids, added.block_ids
        self._clear(row)
        self._num_known[row] = 0
        self._num_blocks[row] = self._room[row] = 0
        self._last_sampled[row] = -1
        fault = None
        if not 1 <= added.num_prompt_tokens <= len(tokens) <= self._max_model_len:
            fault = f"{len(tokens)} tokens, where {self._max_model_len} fit"
        elif not 0 <= min(tokens) <= max(tokens) < self._vocab_size:
            fault = f"a token id outside the vocabulary of {self._vocab_size}"
        elif not NO_SEQUENCE < added.seq_id <= MAX_INT64:
            fault = "a sequence id out of range"
        if fault is not None:
            self._faults[row] = fault
            return
        try:
            self.sampling.set(row, added.sampling, added.num_prompt_tokens)
        except OverflowError as error:
            self._faults[row] = f"a sampling parameter out of range: {error}"
            return
        self._seq_ids[row] = added.seq_id
        self._tokens[row, : len(tokens)] = tokens
        self._num_known[row] = len(tokens)
        self._num_prompt[row] = added.num_prompt_tokens
        if blocks:
            self._append_blocks(row, added.seq_id, blocks)

    def _append_blocks(self, row: int, seq_id: int, block_ids: list[Any]) -> None:
        if self._seq_ids[row] != seq_id:
            return
        begin = int(self._num_blocks[row])
        end = begin + len(block_ids)
        if end > self._max_blocks or not 0 <= min(block_ids) <= max(block_ids) < (
            self._num_pool_blocks
        ):
            self._faults[row] = f"a block table of {end} blocks with ids up to {max(block_ids)}"
            self._seq_ids[row] = NO_SEQUENCE
            return
        self._tables[row, begin:end] = block_ids
        self._num_blocks[row] = end
        self._room[row] = min(end * self._block_size, self._max_model_len)

    def _fits(self, entries: Entries) -> Array:
        """Which entries name their row's sequence, tokens that are known and have a place."""
        rows = entries.rows
        ends = entries.starts + entries.lengths
        fits: Array = self._seq_ids[rows] == entries.seq_ids
        fits &= ends <= np.minimum(self._num_known[rows], self._room[rows])
        return fits

    def _fail(self, scheduled: list[ScheduledSequence], valid: Array) -> list[SequenceFailure]:
        """The failures of entries that do not fit; their rows compute nothing from here on."""
        failures = []
        for i in np.flatnonzero(~valid).tolist():
            entry = scheduled[i]
            if self._seq_ids[entry.row] == entry.seq_id:
                self._seq_ids[entry.row] = NO_SEQUENCE
                end = entry.start + entry.num_tokens
                self._faults[entry.row] = (
                    f"{end} tokens, of which {self._num_known[entry.row]} are known and "
                    f"{self._room[entry.row]} have a place"
                )
            reason = self._faults.get(entry.row, "the row belongs to another sequence")
            if entry.num_logits:
                message = f"the worker cannot compute the sequence: {reason}"
                failures.append(SequenceFailure(entry.seq_id, message))
        return failures

    def _flatten(self, entries: Entries, failures: list[SequenceFailure]) -> StepInput:
        seq_ids, rows, starts, lengths, num_logits = entries
        ends = starts + lengths
        num_seqs = len(rows)
        max_query_len = max(lengths.tolist())
        if max_query_len == 1:
            token_rows, positions = rows, starts
            query_start_loc = self._counting32[: num_seqs + 1]
            logit_indices = self._counting[:num_seqs]
        else:
            token_rows = rows.repeat(lengths)
            token_ends = lengths.cumsum()
            query_start_loc = np.zeros(num_seqs + 1, np.int32)
            query_start_loc[1:] = token_ends
            # Token i of the step is token i - first token + start of its sequence.
            positions = np.arange(len(token_rows)) + (ends - token_ends).repeat(lengths)
            logit_indices = token_ends - 1
        sampled_rows, sampled_indices = rows, ends
        if 0 in num_logits.tolist():
            has_logits = num_logits > 0
            logit_indices = logit_indices[has_logits]
            sampled_rows, sampled_indices = rows[has_logits], ends[has_logits]
            seq_ids = seq_ids[has_logits]
        max_context_len = max(ends.tolist())
        step_input = StepInput(
            token_ids=self._tokens[token_rows, positions],
            positions=positions.astype(np.int32),
            slot_mapping=self._slots(token_rows, positions),
            query_start_loc=query_start_loc,
            context_lens=ends.astype(np.int32),
            block_tables=self._tables[rows, : -(-max_context_len // self._block_size)],
            max_query_len=max_query_len,
            max_context_len=max_context_len,
            feedback_rows=self._feedback_rows(token_rows, positions) if self.is_async else None,
            logit_indices=logit_indices,
            sampled_seq_ids=seq_ids,
            sampled_rows=sampled_rows,
            sampled_indices=sampled_indices,
            failures=failures,
        )
        if self.is_async:
            self._last_sampled[sampled_rows] = sampled_indices
        # The core may ask for the position after a sampled token before it has the token.
        self._num_known[sampled_rows] = sampled_indices + 1
        return step_input

    def _slots(self, token_rows: Array, positions: Array) -> Array:
        block_indices = positions // self._block_size
        blocks = self._tables[token_rows, block_indices].astype(np.int64)
        slots: Array = (blocks - block_indices) * self._block_size + positions
        return slots

    def _feedback_rows(self, token_rows: Array, positions: Array) -> Array:
        is_fed = self._last_sampled[token_rows] == positions
        return np.where(is_fed, token_rows, -1).astype(np.int32)


def _columns(scheduled: list[ScheduledSequence]) -> Columns[list[int]]:
    return Columns(
        [entry.seq_id for entry in scheduled],
        [entry.row for entry in scheduled],
        [entry.start for entry in scheduled],
        [entry.num_tokens for entry in scheduled],
        [entry.num_logits for entry in scheduled],
    )
