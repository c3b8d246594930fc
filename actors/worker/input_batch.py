"""The running batch on the host: each row's tokens, block table and sampling parameters.

A step message changes rows and becomes flat arrays for the model. What a message says is checked
against what the rows hold: an entry that does not fit fails its own sequence, and writes nothing.
"""

from typing import Any

import numpy as np

from tokenreel.actors.worker.impossible_step import ImpossibleStep
from tokenreel.actors.worker.sampling_table import SamplingBatch, SamplingTable
from tokenreel.actors.worker.step_input import (
    COLUMNS,
    NO_SEQUENCE,
    Array,
    Extent,
    StepInput,
    entries_of,
    make_step_input,
    measure,
    new_rows,
    write_sampled,
)
from tokenreel.messages.steps import (
    AddedSequence,
    ScheduledSequence,
    SequenceFailure,
    StepScheduled,
)

MAX_INT64 = (1 << 63) - 1


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
        self._rows = new_rows(max_num_seqs, max_model_len, self._max_blocks)
        self._num_prompt = np.zeros(max_num_seqs, np.int64)
        self._num_blocks = np.zeros(max_num_seqs, np.int64)
        self._faults: dict[int, str] = {}
        self.is_async = is_async
        self._is_taken = np.zeros(max_num_seqs, np.bool_)
        bounds = {
            "seq_ids": (NO_SEQUENCE + 1, MAX_INT64),
            "rows": (0, max_num_seqs - 1),
            "starts": (0, max_model_len),
            "lengths": (1, max_num_batched_tokens),
            "num_logits": (0, 1),
        }
        self._bounds = np.array([bounds[column] for column in COLUMNS])

    def apply(self, step: StepScheduled) -> tuple[StepInput | None, list[SequenceFailure]]:
        """Brings the rows up to the step, and returns what to compute, if anything, and failures.

        Raises `ImpossibleStep` if the message as a whole makes no sense.
        """
        scheduled = step.scheduled
        entries, extent = self._check(step)
        for row in step.removed_rows:
            self._clear(row)
        for added in step.added:
            self._add(added)
        for entry in scheduled:
            if entry.new_block_ids:
                self._append_blocks(entry.row, entry.seq_id, entry.new_block_ids)
        if not scheduled:
            return None, []
        made = self._make_step_input(entries, extent)
        if isinstance(made, StepInput):
            return made, []
        failures = self._fail(scheduled, made)
        return self._without(entries, made), failures

    def select_sampling(self, step_input: StepInput) -> SamplingBatch:
        return self.sampling.select(
            step_input.sampled_rows, step_input.sampled_indices, self._history
        )

    def write_sampled(self, step_input: StepInput, token_ids: Array) -> None:
        """See `step_input.write_sampled`."""
        write_sampled(self._rows, step_input, token_ids)

    def _history(self, row: int, output_position: int) -> tuple[Array, Array]:
        prompt_len = int(self._num_prompt[row])
        tokens = self._rows.tokens[row]
        return tokens[:prompt_len], tokens[prompt_len : prompt_len + output_position]

    def _check(self, step: StepScheduled) -> tuple[Array, Extent]:
        """What makes sense for no state of the rows; afterwards every row exists."""
        try:
            entries = entries_of(step.scheduled)
        except OverflowError:
            raise ImpossibleStep("a number of more than 64 bits") from None
        extent = measure(entries, self._bounds, self._is_taken)
        if extent is None:
            raise ImpossibleStep(self._explain(entries))
        if extent.num_tokens > self._max_num_batched_tokens:
            raise ImpossibleStep(f"more than {self._max_num_batched_tokens} tokens")
        other_rows = [added.row for added in step.added] + step.removed_rows
        if other_rows and not 0 <= min(other_rows) <= max(other_rows) < self.max_num_seqs:
            raise ImpossibleStep(f"a row outside the {self.max_num_seqs} rows there are")
        return entries, extent

    def _explain(self, entries: Array) -> str:
        """Why they cannot be measured."""
        for name, column, (least, most) in zip(COLUMNS, entries.T, self._bounds, strict=True):
            if wrong := [value for value in column.tolist() if not least <= value <= most]:
                return f"{name} hold {wrong[0]}, which is not between {least} and {most}"
        return "a row is scheduled twice"

    def _without(self, entries: Array, fits: Array) -> StepInput | None:
        """What is left to compute of a step that does not fit as a whole."""
        fitting = entries[fits]
        if not len(fitting):
            return None
        extent = measure(fitting, self._bounds, self._is_taken)
        assert extent is not None, "a part of what makes sense does"
        made = self._make_step_input(fitting, extent)
        assert isinstance(made, StepInput)
        return made

    def _make_step_input(self, entries: Array, extent: Extent) -> StepInput | Array:
        return make_step_input(entries, extent, self._rows, self._block_size, self.is_async)

    def _clear(self, row: int) -> None:
        self._rows.seq_ids[row] = NO_SEQUENCE
        self._faults.pop(row, None)

    def _add(self, added: AddedSequence) -> None:
        row, tokens, blocks = added.row, added.token_ids, added.block_ids
        self._clear(row)
        self._rows.num_known[row] = 0
        self._num_blocks[row] = self._rows.room[row] = 0
        self._rows.last_sampled[row] = -1
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
        self._rows.seq_ids[row] = added.seq_id
        self._rows.tokens[row, : len(tokens)] = tokens
        self._rows.num_known[row] = len(tokens)
        self._num_prompt[row] = added.num_prompt_tokens
        if blocks:
            self._append_blocks(row, added.seq_id, blocks)

    def _append_blocks(self, row: int, seq_id: int, block_ids: list[Any]) -> None:
        if self._rows.seq_ids[row] != seq_id:
            return
        begin = int(self._num_blocks[row])
        end = begin + len(block_ids)
        if end > self._max_blocks or not 0 <= min(block_ids) <= max(block_ids) < (
            self._num_pool_blocks
        ):
            self._faults[row] = f"a block table of {end} blocks with ids up to {max(block_ids)}"
            self._rows.seq_ids[row] = NO_SEQUENCE
            return
        self._rows.tables[row, begin:end] = block_ids
        self._num_blocks[row] = end
        self._rows.room[row] = min(end * self._block_size, self._max_model_len)

    def _fail(self, scheduled: list[ScheduledSequence], fits: Array) -> list[SequenceFailure]:
        """The failures of entries that do not fit; their rows compute nothing from here on."""
        failures = []
        for i in np.flatnonzero(~fits).tolist():
            entry = scheduled[i]
            if self._rows.seq_ids[entry.row] == entry.seq_id:
                self._rows.seq_ids[entry.row] = NO_SEQUENCE
                end = entry.start + entry.num_tokens
                self._faults[entry.row] = (
                    f"{end} tokens, of which {self._rows.num_known[entry.row]} are known and "
                    f"{self._rows.room[entry.row]} have a place"
                )
            reason = self._faults.get(entry.row, "the row belongs to another sequence")
            if entry.num_logits:
                message = f"the worker cannot compute the sequence: {reason}"
                failures.append(SequenceFailure(entry.seq_id, message))
        return failures
