"""A step's flat arrays, for the model: made of a message's entries and the running batch's rows.

Compiled: in numpy they would take forty operations, and each costs 1 us, or several between two
steps, when a model's weights have gone through the caches. (What is compiled here calls nothing of
another file: kept results are told apart by the kernels' own folder, and by this file.)
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import Specialized, compiled
from tokenreel.messages.steps import ScheduledSequence

Array = NDArray[Any]

NO_SEQUENCE = 0
COLUMNS = "seq_ids", "rows", "starts", "lengths", "num_logits"
"""Of entries, [num_seqs, 5] int64: a step's scheduled sequences."""
SEQ_ID, ROW, START, LENGTH, NUM_LOGITS = range(len(COLUMNS))


class StepInput(NamedTuple):
    """A step as the model wants it. Tokens of a sequence lie together, sequences in order."""

    token_ids: Array
    """[num_tokens] int32."""
    positions: Array
    """[num_tokens] int32."""
    slot_mapping: Array
    """[num_tokens] int64: block * block_size + offset."""
    feedback_rows: Array
    """[num_tokens] int32: the row whose last sampled token stands here, or -1."""
    query_start_loc: Array
    """[num_seqs + 1] int32."""
    context_lens: Array
    """[num_seqs] int32: tokens in the cache after this step."""
    block_tables: Array
    """[num_seqs, max_blocks] int32."""
    logit_indices: Array
    """[num_logits] int64: tokens after which one is sampled."""
    sampled_seq_ids: Array
    """[num_logits] int64."""
    sampled_rows: Array
    """[num_logits] int64."""
    sampled_indices: Array
    """[num_logits] int64: where in their sequences the sampled tokens will stand."""
    max_query_len: int
    max_context_len: int


class Rows(NamedTuple):
    """The running batch, by row: what steps are made of."""

    seq_ids: Array
    """[max_num_seqs] int64, or NO_SEQUENCE."""
    tokens: Array
    """[max_num_seqs, max_model_len + 1] int32."""
    num_known: Array
    """[max_num_seqs] int64: tokens that are known, or will be when the step is carried out."""
    room: Array
    """[max_num_seqs] int64: tokens that have a place: in the blocks, and in the model's context."""
    tables: Array
    """[max_num_seqs, max_blocks] int32."""
    last_sampled: Array
    """[max_num_seqs] int64: where the row's last sampled token stands, or -1: it is known."""


def new_rows(max_num_seqs: int, max_model_len: int, max_blocks: int) -> Rows:
    return Rows(
        seq_ids=np.full(max_num_seqs, NO_SEQUENCE, np.int64),
        # One place more than a sequence can use: a token sampled at its end needs no check.
        tokens=np.zeros((max_num_seqs, max_model_len + 1), np.int32),
        num_known=np.zeros(max_num_seqs, np.int64),
        room=np.zeros(max_num_seqs, np.int64),
        tables=np.zeros((max_num_seqs, max_blocks), np.int32),
        last_sampled=np.full(max_num_seqs, -1, np.int64),
    )


class Extent(NamedTuple):
    """Sizes of a step."""

    num_tokens: int
    num_logits: int
    max_query_len: int
    max_context_len: int


def entries_of(scheduled: list[ScheduledSequence]) -> Array:
    """Raises OverflowError if a number does not fit 64 bits."""
    numbers = [
        number
        for entry in scheduled
        for number in (entry.seq_id, entry.row, entry.start, entry.num_tokens, entry.num_logits)
    ]
    return np.array(numbers, np.int64).reshape(-1, len(COLUMNS))


def measure(entries: Array, bounds: Array, is_taken: Array) -> Extent | None:
    """None if a number is outside its column's `bounds` [5, 2], or a row is there twice.

    is_taken: [max_num_seqs] bool of scratch, all False.
    """
    extent = Extent(*_measure_entries(entries, bounds, is_taken))
    return None if extent.num_tokens < 0 else extent


def make_step_input(
    entries: Array, extent: Extent, rows: Rows, block_size: int, is_async: bool
) -> StepInput | Array:
    """Or, if not all entries fit, which do, [num_seqs] bool, and nothing has happened. One that
    fits names its row's sequence, and tokens that are known and have a place.

    is_async: sampled tokens are not known here when the next step is made.
    """
    step = _new_step_input(len(entries), extent, block_size)
    fits = np.empty(len(entries), np.bool_)
    return step if _fill_step(entries, rows, block_size, is_async, fits, step) else fits


def write_sampled(rows: Rows, step: StepInput, token_ids: Array) -> None:
    """Puts a step's tokens, [num_logits] int64, where the next step finds them, unless their row
    has a new owner. In place of NOT_FINITE stands any token of the vocabulary: a step of that
    sequence may be on its way, whose result nobody takes."""
    assert token_ids.dtype == np.int64
    _write_tokens(rows, step, token_ids)


def _new_step_input(num_seqs: int, extent: Extent, block_size: int) -> StepInput:
    num_tokens, num_logits = extent.num_tokens, extent.num_logits
    max_blocks = -(-extent.max_context_len // block_size)
    return StepInput(
        token_ids=np.empty(num_tokens, np.int32),
        positions=np.empty(num_tokens, np.int32),
        slot_mapping=np.empty(num_tokens, np.int64),
        feedback_rows=np.empty(num_tokens, np.int32),
        query_start_loc=np.empty(num_seqs + 1, np.int32),
        context_lens=np.empty(num_seqs, np.int32),
        block_tables=np.empty((num_seqs, max_blocks), np.int32),
        logit_indices=np.empty(num_logits, np.int64),
        sampled_seq_ids=np.empty(num_logits, np.int64),
        sampled_rows=np.empty(num_logits, np.int64),
        sampled_indices=np.empty(num_logits, np.int64),
        max_query_len=extent.max_query_len,
        max_context_len=extent.max_context_len,
    )


@compiled
def _measure(entries: Array, bounds: Array, is_taken: Array) -> tuple[int, int, int, int]:
    num_tokens = num_logits = max_query_len = max_context_len = num_taken = 0
    makes_sense = True
    for i in range(len(entries)):
        for column in range(len(COLUMNS)):
            if not bounds[column, 0] <= entries[i, column] <= bounds[column, 1]:
                makes_sense = False
        if not makes_sense or is_taken[entries[i, ROW]]:
            makes_sense = False
            break
        is_taken[entries[i, ROW]] = True
        num_taken += 1
        num_tokens += entries[i, LENGTH]
        num_logits += entries[i, NUM_LOGITS]
        max_query_len = max(max_query_len, entries[i, LENGTH])
        max_context_len = max(max_context_len, entries[i, START] + entries[i, LENGTH])
    for i in range(num_taken):
        is_taken[entries[i, ROW]] = False
    if not makes_sense:
        num_tokens = -1
    return num_tokens, num_logits, max_query_len, max_context_len


@compiled
def _fill(
    entries: Array, rows: Rows, block_size: int, is_async: bool, fits: Array, step: StepInput
) -> bool:
    """Whether all entries fit. If not, nothing else is done; if so, the rows are brought up to the
    step, too."""
    all_fit = True
    for i in range(len(entries)):
        row, end = entries[i, ROW], entries[i, START] + entries[i, LENGTH]
        is_own = rows.seq_ids[row] == entries[i, SEQ_ID]
        fits[i] = is_own and end <= min(rows.num_known[row], rows.room[row])
        all_fit = all_fit and fits[i]
    if not all_fit:
        return False
    token = logit = 0
    step.query_start_loc[0] = 0
    for i in range(len(entries)):
        row, start = entries[i, ROW], entries[i, START]
        end = start + entries[i, LENGTH]
        for position in range(start, end):
            block = rows.tables[row, position // block_size]
            step.token_ids[token] = rows.tokens[row, position]
            step.positions[token] = position
            step.slot_mapping[token] = block * block_size + position % block_size
            step.feedback_rows[token] = row if rows.last_sampled[row] == position else -1
            token += 1
        step.query_start_loc[i + 1] = token
        step.context_lens[i] = end
        for block in range(step.block_tables.shape[1]):
            step.block_tables[i, block] = rows.tables[row, block]
        if entries[i, NUM_LOGITS] > 0:
            step.logit_indices[logit] = token - 1
            step.sampled_seq_ids[logit] = entries[i, SEQ_ID]
            step.sampled_rows[logit], step.sampled_indices[logit] = row, end
            logit += 1
            # The core may ask for the position after a sampled token before it has the token.
            rows.num_known[row] = end + 1
            if is_async:
                rows.last_sampled[row] = end
    return True


@compiled
def _write(rows: Rows, step: StepInput, token_ids: Array) -> None:
    for i in range(len(token_ids)):
        row = step.sampled_rows[i]
        if rows.seq_ids[row] == step.sampled_seq_ids[i]:
            rows.tokens[row, step.sampled_indices[i]] = max(token_ids[i], 0)


_measure_entries, _fill_step = Specialized(_measure), Specialized(_fill)
_write_tokens = Specialized(_write)


def compile_ahead() -> None:
    """Compiles the three without a step, for the types of arguments that steps have, no others."""
    entries, no_bounds, no_flags = entries_of([]), np.empty((0, 2), np.int64), np.empty(0, np.bool_)
    step = _new_step_input(0, Extent(0, 0, 0, 0), 1)
    rows = new_rows(0, 0, 0)
    _measure_entries.compile(entries, no_bounds, no_flags)
    _fill_step.compile(entries, rows, 1, False, no_flags, step)
    _write_tokens.compile(rows, step, step.sampled_indices)
