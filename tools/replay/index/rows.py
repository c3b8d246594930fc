"""What the index tells about steps, requests and sequences: one struct per kind of row."""

import sys
from array import array
from collections.abc import Sequence
from functools import cache
from struct import calcsize, unpack_from
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec

I64 = Annotated[int, "q"]
I32 = Annotated[int, "i"]
I8 = Annotated[int, "b"]

NOT_FINISHED = -1
"""Stands for the finish reason of what goes on."""


class Row(msgspec.Struct):
    """A row: every field is an integer of the size that its annotation says, and a column."""


class Completion(Row):
    """What came of a step. `began_ns` and `ended_ns` are the worker's clock."""

    step_id: I64
    completed_seq: I64 = 0
    completed_t_ns: I64 = 0
    began_ns: I64 = 0
    ended_ns: I64 = 0
    num_emitted: I32 = 0
    num_finished: I32 = 0


class Step(Completion):
    """A step as it was composed: `seq`, `offset` and `t_ns` are those of its StepBegan. Until it
    completes, what `Completion` says is 0."""

    seq: I64 = 0
    offset: I64 = 0
    t_ns: I64 = 0
    num_tokens: I32 = 0
    num_seqs: I32 = 0
    num_sampled: I32 = 0
    num_decode_tokens: I32 = 0
    """Of `num_tokens`, those that a sequence computed alone in the step to put the next one out."""
    num_added: I32 = 0
    num_new_blocks: I32 = 0
    num_context_tokens: I64 = 0
    """The sum over its sequences of the tokens that each attends to."""
    num_cached_tokens: I32 = 0
    """Tokens that sequences added in this step need not compute: prefix-cache hits."""
    num_missed_blocks: I32 = 0
    """Full blocks that they could have hit and did not."""
    num_preempted: I32 = 0
    num_running: I32 = 0
    num_waiting: I32 = 0
    num_free_blocks: I32 = 0
    unscheduled: I8 = 0
    """An `Unscheduled`: why `passed_over` was."""
    passed_over: I64 = 0
    num_blocks_needed: I32 = 0


class Admit(Row):
    """A request at the core's door. `seq` 0: it came before the first record that is left.
    `first_seq_id` 0: it was refused, with `refused_status`."""

    frontend_epoch: I64
    number: I64
    seq: I64 = 0
    t_ns: I64 = 0
    first_seq_id: I64 = 0
    n: I32 = 1
    num_prompt_tokens: I32 = 0
    max_tokens: I32 = 0
    priority: I64 = 0
    refused_status: I32 = 0


class Departure(Row):
    """When a request was aborted, or all of it delivered; 0 for what did not happen."""

    frontend_epoch: I64
    number: I64
    delivered_ns: I64 = 0
    aborted_ns: I64 = 0


class SequenceMarks(Row):
    """What happened to a sequence within a segment; 0 for what did not. `num_outputs` counts from
    its first token on."""

    seq_id: I64
    first_step_id: I64 = 0
    first_scheduled_ns: I64 = 0
    first_token_ns: I64 = 0
    last_token_ns: I64 = 0
    finished_ns: I64 = 0
    num_outputs: I32 = 0
    num_cached_tokens: I32 = 0
    num_preemptions: I32 = 0
    finish_reason: I8 = NOT_FINISHED


R = TypeVar("R", bound=Row)

TABLES: dict[str, type[Row]] = {
    "steps": Step,
    "late_completions": Completion,
    "carried": Admit,
    "admits": Admit,
    "departures": Departure,
    "sequences": SequenceMarks,
}


@cache
def columns_of(row_type: type[Row]) -> dict[str, str]:
    """The fields of a row and their typecodes (those of the module `array`)."""
    hints = get_type_hints(row_type, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in row_type.__struct_fields__}


def schema() -> str:
    """All tables and their columns: whoever was packed under another cannot be unpacked."""
    columns = {name: columns_of(row_type) for name, row_type in TABLES.items()}
    return f"{sys.byteorder}-endian {columns}"


def pack_rows(row_type: type[Row], rows: Sequence[Row]) -> bytes:
    """Column behind column. A number that does not fit its column becomes the nearest that does:
    a worker's clock may say anything."""
    return b"".join(
        _column(code, [getattr(row, name) for row in rows])
        for name, code in columns_of(row_type).items()
    )


def unpack_rows(row_type: type[Row], packed: bytes, num_rows: int) -> list[Any]:
    """The rows that `pack_rows` packed."""
    columns, offset = [], 0
    for code in columns_of(row_type).values():
        column = array(code)
        num_bytes = num_rows * column.itemsize
        column.frombytes(packed[offset : offset + num_bytes])
        columns.append(column)
        offset += num_bytes
    return [row_type(*values) for values in zip(*columns, strict=True)]


def column_of(row_type: type[Row], name: str, packed: bytes, num_rows: int) -> "array[int]":
    """One column of the rows that `pack_rows` packed."""
    offset = 0
    for other, code in columns_of(row_type).items():
        column: array[int] = array(code)
        num_bytes = num_rows * column.itemsize
        if other == name:
            column.frombytes(packed[offset : offset + num_bytes])
            return column
        offset += num_bytes
    raise KeyError(name)


def row_at(row_type: type[R], packed: bytes, num_rows: int, place: int) -> R:
    """One of the rows that `pack_rows` packed."""
    values: list[int] = []
    offset = 0
    for code in columns_of(row_type).values():
        values += unpack_from(code, packed, offset + place * calcsize(code))
        offset += num_rows * calcsize(code)
    return row_type(*values)


def _column(code: str, numbers: list[int]) -> bytes:
    try:
        return array(code, numbers).tobytes()
    except OverflowError:
        limit = 1 << (8 * array(code).itemsize - 1)
        return array(code, [max(-limit, min(limit - 1, n)) for n in numbers]).tobytes()
