"""The index's tables over all segments: steps, requests, sequences, each a struct of columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tokenreel.messages.ids import RequestKey
from tokenreel.tools.replay.index.part import Part
from tokenreel.tools.replay.index.rows import NOT_FINISHED, TABLES, columns_of

Column = NDArray[np.int64]
"""Of any signed size: the narrowest that holds what it is for."""


@dataclass(frozen=True, eq=False)
class Steps:
    """One row per composed step, in the order of the journal. See `rows.Step`."""

    step_id: Column
    completed_seq: Column
    completed_t_ns: Column
    began_ns: Column
    ended_ns: Column
    num_emitted: Column
    num_finished: Column
    seq: Column
    offset: Column
    t_ns: Column
    num_tokens: Column
    num_seqs: Column
    num_sampled: Column
    num_decode_tokens: Column
    num_added: Column
    num_new_blocks: Column
    num_context_tokens: Column
    num_cached_tokens: Column
    num_missed_blocks: Column
    num_preempted: Column
    num_running: Column
    num_waiting: Column
    num_free_blocks: Column
    unscheduled: Column
    passed_over: Column
    num_blocks_needed: Column

    def __len__(self) -> int:
        return len(self.step_id)

    def row_of(self, step_id: int) -> int | None:
        """The row of a step; None if the journal has no such step."""
        row = int(np.searchsorted(self.step_id, step_id))
        return row if row < len(self) and self.step_id[row] == step_id else None


@dataclass(frozen=True, eq=False)
class Sequences:
    """One row per sequence, by `seq_id`. `request` is a row of `Requests`, or -1; `index` counts
    the sequences of a request. Otherwise see `rows.SequenceMarks`."""

    seq_id: Column
    request: Column
    index: Column
    first_step_id: Column
    first_scheduled_ns: Column
    first_token_ns: Column
    last_token_ns: Column
    finished_ns: Column
    num_outputs: Column
    num_cached_tokens: Column
    num_preemptions: Column
    finish_reason: Column

    def __len__(self) -> int:
        return len(self.seq_id)


@dataclass(frozen=True, eq=False)
class Requests:
    """One row per request, in the order of arrival. See `rows.Admit` and `Departure`; the
    rest is of its sequences: the first token of any, the last token and end of all (0 while one
    goes on), outputs and preemptions of all together, cached tokens and finish reason of the first.
    """

    frontend_epoch: Column
    number: Column
    admit_seq: Column
    admit_t_ns: Column
    first_seq_id: Column
    n: Column
    num_prompt_tokens: Column
    max_tokens: Column
    priority: Column
    refused_status: Column
    aborted_ns: Column
    delivered_ns: Column
    first_scheduled_ns: Column
    first_token_ns: Column
    last_token_ns: Column
    finished_ns: Column
    num_outputs: Column
    num_cached_tokens: Column
    num_preemptions: Column
    finish_reason: Column

    def __len__(self) -> int:
        return len(self.number)

    def key(self, row: int) -> RequestKey:
        return RequestKey(int(self.frontend_epoch[row]), int(self.number[row]))

    def seq_ids(self, row: int) -> range:
        """Empty if the request was refused."""
        first = int(self.first_seq_id[row])
        return range(first, first + int(self.n[row])) if first else range(0)

    def row_of(self, key: RequestKey) -> int | None:
        return self._rows.get(key)

    @cached_property
    def _rows(self) -> dict[RequestKey, int]:
        return rows_by_key(self.frontend_epoch, self.number)


Table = dict[str, Column]


def read_tables(part: Part) -> dict[str, Table]:
    """All tables of a segment's part. Raises IndexDamaged."""
    tables = {}
    for name, row_type in TABLES.items():
        packed, num_rows = part.packed_table(name)
        columns, offset = {}, 0
        for column, code in columns_of(row_type).items():
            columns[column] = np.frombuffer(packed, np.dtype(code), num_rows, offset)
            offset += columns[column].nbytes
        tables[name] = columns
    return tables


def join_steps(parts: Sequence[dict[str, Table]]) -> Steps:
    """The steps of consecutive segments. A step may complete in a later one than it began in."""
    columns = _stacked([part["steps"] for part in parts])
    late = _stacked([part["late_completions"] for part in parts])
    if len(late["step_id"]):
        rows = np.searchsorted(columns["step_id"], late["step_id"])
        rows = np.minimum(rows, max(0, len(columns["step_id"]) - 1))
        for place, row in enumerate(rows):
            is_it = len(columns["step_id"]) and columns["step_id"][row] == late["step_id"][place]
            if is_it and not columns["completed_seq"][row]:
                for name in late:
                    columns[name][row] = late[name][place]
    return Steps(**columns)


def join_requests(parts: Sequence[dict[str, Table]]) -> tuple[Requests, Sequences]:
    """The requests and sequences of consecutive segments."""
    admits = _stacked(_admits_of(parts))
    departures = _stacked([part["departures"] for part in parts])
    sequences = _sequences(_stacked([part["sequences"] for part in parts]), admits)
    rows = rows_by_key(admits["frontend_epoch"], admits["number"])
    num_requests = len(admits["number"])
    left = {name: np.zeros(num_requests, np.int64) for name in ("aborted_ns", "delivered_ns")}
    keys = zip(departures["frontend_epoch"].tolist(), departures["number"].tolist(), strict=True)
    for place, key in enumerate(keys):
        row = rows.get(RequestKey(*key))
        if row is not None:
            for name, column in left.items():
                column[row] = column[row] or departures[name][place]
    admits["admit_seq"], admits["admit_t_ns"] = admits.pop("seq"), admits.pop("t_ns")
    return Requests(**admits, **left, **_of_requests(sequences, num_requests)), sequences


def rows_by_key(epochs: Column, numbers: Column) -> dict[RequestKey, int]:
    keys = zip(epochs.tolist(), numbers.tolist(), strict=True)
    return {RequestKey(*key): row for row, key in enumerate(keys)}


def _admits_of(parts: Sequence[dict[str, Table]]) -> Iterable[Table]:
    """Of each segment the requests that none before it tells of: those that came in it, and those
    that were there when it began, if what came before is missing."""
    known = np.zeros(0, np.int64)
    for part in parts:
        carried, admits = part["carried"], part["admits"]
        is_new = ~np.isin(carried["first_seq_id"], known)
        yield {name: column[is_new] for name, column in carried.items()}
        yield admits
        known = np.concatenate([known, carried["first_seq_id"], admits["first_seq_id"]])


def _sequences(marks: Table, admits: Table) -> Sequences:
    accepted = np.flatnonzero(admits["first_seq_id"])
    accepted = accepted[np.argsort(admits["first_seq_id"][accepted], kind="stable")]
    firsts, counts = admits["first_seq_id"][accepted], admits["n"][accepted].astype(np.int64)
    of_request = np.repeat(np.arange(len(accepted)), counts)
    index = np.arange(len(of_request)) - np.repeat(np.cumsum(counts) - counts, counts)
    seq_ids, first_places = np.unique(
        np.concatenate([firsts[of_request] + index, marks["seq_id"]]), return_index=True
    )
    is_known = first_places < len(of_request)
    of_known = np.where(is_known, first_places, 0)
    none = np.full(len(seq_ids), -1)
    has_any = len(of_request) > 0
    place = np.searchsorted(seq_ids, marks["seq_id"])
    return Sequences(
        seq_id=seq_ids,
        request=np.where(is_known, accepted[of_request[of_known]], -1) if has_any else none,
        index=np.where(is_known, index[of_known], -1) if has_any else none,
        num_preemptions=np.bincount(
            place, weights=marks["num_preemptions"], minlength=len(seq_ids)
        ).astype(np.int64),
        **{
            name: _merged(marks[name], place, len(seq_ids), first_wins, absent)
            for name, first_wins, absent in (
                ("first_step_id", True, 0),
                ("first_scheduled_ns", True, 0),
                ("first_token_ns", True, 0),
                ("last_token_ns", False, 0),
                ("finished_ns", True, 0),
                ("num_outputs", False, 0),
                ("num_cached_tokens", True, 0),
                ("finish_reason", False, NOT_FINISHED),
            )
        },
    )


def _merged(values: Column, place: Column, num_rows: int, first_wins: bool, absent: int) -> Column:
    """One value per place: the first, or the last, that is not `absent`."""
    merged = np.full(num_rows, absent, np.int64)
    told = values != absent
    values, place = values[told], place[told]
    if first_wins:
        values, place = values[::-1], place[::-1]
    merged[place] = values  # of equal places the last one stays
    return merged


def _of_requests(sequences: Sequences, num_requests: int) -> Table:
    """What a request's sequences came to, together."""
    member = sequences.request >= 0
    request = sequences.request[member]
    is_first = sequences.index[member] == 0

    def earliest(column: Column) -> Column:
        never = np.iinfo(np.int64).max
        found = np.full(num_requests, never)
        told = column[member] != 0
        np.minimum.at(found, request[told], column[member][told])
        return np.where(found == never, 0, found)

    def latest(column: Column) -> Column:
        found = np.zeros(num_requests, np.int64)
        np.maximum.at(found, request, column[member])
        return found

    def total(column: Column) -> Column:
        counted = np.bincount(request, weights=column[member], minlength=num_requests)
        return counted.astype(np.int64)

    def of_first(column: Column, absent: int) -> Column:
        found = np.full(num_requests, absent, np.int64)
        found[request[is_first]] = column[member][is_first]
        return found

    goes_on = np.bincount(request[sequences.finished_ns[member] == 0], minlength=num_requests) > 0
    return {
        "first_scheduled_ns": earliest(sequences.first_scheduled_ns),
        "first_token_ns": earliest(sequences.first_token_ns),
        "last_token_ns": latest(sequences.last_token_ns),
        "finished_ns": np.where(goes_on, 0, latest(sequences.finished_ns)),
        "num_outputs": total(sequences.num_outputs),
        "num_preemptions": total(sequences.num_preemptions),
        "num_cached_tokens": of_first(sequences.num_cached_tokens, 0),
        "finish_reason": of_first(sequences.finish_reason, NOT_FINISHED),
    }


def _stacked(tables: Iterable[Table]) -> Table:
    """Tables of one kind, one behind the other; never a view of what was read."""
    given = list(tables)
    return {name: np.concatenate([table[name] for table in given]) for name in given[0]}
