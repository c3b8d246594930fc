"""The parts of the core's state that a digest covers, read from a snapshot as plain values.

A snapshot is read by the names in it, so that one of another version can be looked at too.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tokenreel.actors.core.sequence import Status

MAX_ITEMS = 4096
"""Of any list; the rest is counted."""

State = dict[str, Any]
_OF_A_SEQUENCE = (
    "seq_id",
    "key",
    "status",
    "row",
    "num_prompt_tokens",
    "num_known",
    "num_computed",
    "num_scheduled",
    "num_open_samples",
    "num_open_steps",
    "last_step_id",
    "epoch",
    "num_cached_tokens",
    "finish_reason",
    "num_final_outputs",
)


def states_of(snapshot: bytes, components: tuple[str, ...]) -> dict[str, State]:
    """By component its state; nothing for one that the snapshot does not tell."""
    try:
        state = msgspec.msgpack.decode(snapshot)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(state, dict):
        return {}
    found = {}
    for component in components:
        if component in _READERS:
            try:
                found[component] = _bounded(_READERS[component](state))
            except (KeyError, TypeError, IndexError, AttributeError):
                continue  # a snapshot of a version that calls it otherwise
    return found


def _queues(state: State) -> State:
    by_status: dict[str, list[int]] = {status.name.lower(): [] for status in Status}
    for sequence in sorted(state["sequences"], key=lambda sequence: sequence["order"]):
        by_status[_status(sequence)].append(sequence["seq_id"])
    return by_status


def _sequences(state: State) -> State:
    return {"sequences": [_sequence(sequence) for sequence in state["sequences"]]}


def _sequence(sequence: State) -> State:
    derived = {"status": _status(sequence), "num_known": len(sequence["token_ids"])}
    return {name: derived.get(name, sequence.get(name)) for name in _OF_A_SEQUENCE}


def _status(sequence: State) -> str:
    return Status(sequence["status"]).name.lower()


def _block_tables(state: State) -> State:
    return {
        f"sequence {sequence['seq_id']}": sequence["block_table"]
        for sequence in state["sequences"]
        if sequence["block_table"]
    }


def _free_list(state: State) -> State:
    return {
        "free": state["free_blocks"],
        "evictable": state["evictable_blocks"],
        **{f"fenced by step {step}": blocks for step, blocks in state["fenced_blocks"]},
        "stamps": state["stamps"],
    }


def _cache(state: State) -> State:
    return {"blocks": [[block, link.hex()] for block, link in state["cache"]]}


def _counters(state: State) -> State:
    return {
        **{
            name: state[name]
            for name in ("next_seq_id", "next_arrival", "next_step_id", "num_ignored")
        },
        "num_requests": len(state["requests"]),
        "num_open_steps": len(state["open_steps"]),
        "num_tombstones": len(state["tombstones"]),
        "num_freed_rows": len(state["freed_rows"]),
        "next_stamp": state["next_stamp"],
    }


_READERS: dict[str, Callable[[State], State]] = {
    "queues": _queues,
    "sequences": _sequences,
    "block_tables": _block_tables,
    "free_list": _free_list,
    "cache": _cache,
    "counters": _counters,
}


def _bounded(state: State) -> State:
    if len(state) > MAX_ITEMS:
        state = {**dict(list(state.items())[:MAX_ITEMS]), "num_omitted": len(state) - MAX_ITEMS}
    bounded = {}
    for name, value in state.items():
        bounded[name] = value
        if isinstance(value, list) and len(value) > MAX_ITEMS:
            bounded[name] = value[:MAX_ITEMS]
            bounded[f"{name}_num_omitted"] = len(value) - MAX_ITEMS
    return bounded
