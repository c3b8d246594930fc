"""One step's state as a JSON object, complete: whatever the core's snapshot holds is in it."""

import json
from typing import Any

import msgspec

from tokenreel.actors.core.digest import COMPONENTS
from tokenreel.actors.core.sequence import Sequence, Status
from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.step.state import StepState


def as_json(state: StepState, journal: Journal, sequences: list[Sequence] | None = None) -> str:
    """With `sequences`, only those, and nothing of the others' state."""
    told: dict[str, Any] = {
        "run_id": journal.run_id,
        "state_is": "before" if state.is_before else "after",
        "segment": state.event.segment,
        "step": msgspec.structs.asdict(state.row),
        "scheduled": [msgspec.structs.asdict(each) for each in state.scheduled.scheduled],
        "added": [_added(each) for each in state.scheduled.added],
        "removed_rows": state.scheduled.removed_rows,
        "preempted": [msgspec.structs.asdict(each) for each in state.preempted],
        "first_passed_over": _first_passed_over(state),
        "passed_over": _passed_over(state, sequences),
    }
    if sequences is None:
        told["state"] = _state(state)
    else:
        told["sequences"] = [_sequence(each) for each in sequences]
    return json.dumps(msgspec.to_builtins(told))


def _first_passed_over(state: StepState) -> dict[str, Any] | None:
    """As recorded; None if everyone who could run was scheduled."""
    decided = state.decided
    if decided.unscheduled is Unscheduled.NOTHING:
        return None
    return {
        "seq_id": decided.seq_id,
        "reason": decided.unscheduled.name,
        "num_blocks_needed": decided.num_blocks_needed,
    }


def _passed_over(state: StepState, sequences: list[Sequence] | None) -> list[dict[str, Any]]:
    """Everyone who is there and not in the step, with the reason that replay finds."""
    wanted = None if sequences is None else {each.seq_id for each in sequences}
    return [
        {
            "seq_id": seq_id,
            "why": found.why.name,
            "place": found.place,
            "refusal": found.refusal
            and found.refusal._asdict() | {"reason": found.refusal.reason.name},
        }
        for seq_id, found in state.passed_over.items()
        if wanted is None or seq_id in wanted
    ]


def _state(state: StepState) -> dict[str, Any]:
    snapshot = state.snapshot
    told = {name: getattr(snapshot, name) for name in snapshot.__struct_fields__}
    told["requests"] = [
        {
            "key": show_key(each.key),
            "seq_ids": each.seq_ids,
            "num_undelivered": each.num_undelivered,
        }
        for each in snapshot.requests
    ]
    told["queues"] = {
        status.name.lower(): [each.seq_id for each in state.queue(status)] for status in Status
    }
    told["sequences"] = [_sequence(each) for each in snapshot.sequences]
    told["fenced_blocks"] = {str(step): blocks for step, blocks in snapshot.fenced_blocks}
    told["cache"] = [{"block": block, "hash": link.hex()} for block, link in snapshot.cache]
    told["open_steps"] = [
        {"step_id": step.step_id, "shares": [msgspec.structs.asdict(each) for each in step.shares]}
        for step in snapshot.open_steps
    ]
    told["tombstones"] = [f"{epoch}.{number}" for epoch, number in snapshot.tombstones]
    told["last_numbers"] = {str(epoch): number for epoch, number in snapshot.last_numbers}
    told["digest"] = {
        name: f"{value:016x}" for name, value in zip(COMPONENTS, snapshot.digest, strict=False)
    }
    return told


def _sequence(sequence: Sequence) -> dict[str, Any]:
    told = msgspec.structs.asdict(sequence)
    told["key"] = show_key(sequence.key)
    told["status"] = sequence.status.name
    told["finish_reason"] = sequence.finish_reason and sequence.finish_reason.name
    told["cache_root"] = sequence.cache_root.hex()
    told["hashes"] = [link.hex() for link in sequence.hashes]
    told["sampling"] = msgspec.structs.asdict(sequence.sampling)
    told["stopping"] = msgspec.structs.asdict(sequence.stopping)
    return told


def _added(added: Any) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.structs.asdict(added)
    told["sampling"] = msgspec.structs.asdict(added.sampling)
    return told
