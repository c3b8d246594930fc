"""The engine's state just after a step was composed, as the page shows it. Bounded in every list.

Says what the core knows and decides nothing: who was passed over first is the step's own record.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import SeqId
from tokenreel.messages.steps import (
    ScheduledSequence,
    SequencePreempted,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.replay.index.collector import is_decode
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.reasons import cause, lack_of_blocks
from tokenreel.tools.replay.view.block_map import block_map

MAX_LISTED = 512
"""Of each queue; how many there are in all is told beside it."""


def step_state(engine: Engine, effects: list[Effect]) -> dict[str, Any]:
    """`effects` are those of the `StepBegan` that has just been applied to `engine`."""
    scheduled = next(effect for effect in effects if isinstance(effect, StepScheduled))
    decided = next(effect for effect in effects if isinstance(effect, StepDecided))
    preempted = [effect for effect in effects if isinstance(effect, SequencePreempted)]
    shares = {share.seq_id: share for share in scheduled.scheduled}
    entered = {added.seq_id for added in scheduled.added}
    queues = engine.queues
    running = [
        _sequence(sequence) | _share(sequence, shares.get(sequence.seq_id), entered)
        for sequence in islice(queues.running, MAX_LISTED)
    ]
    waiting = sorted(queues.waiting.values(), key=lambda sequence: sequence.order)
    finished = [s for s in engine.sequences.values() if s.finish_reason is not None]
    return {
        "step": scheduled.step_id,
        "budget": _budget(engine, scheduled),
        "running": {"count": len(queues.running), "first": running},
        "waiting": _listed(waiting),
        "blocked": _listed(queues.blocked.values()),
        "finished": _listed(finished),
        "preempted": [_preemption(engine, effect) for effect in preempted[:MAX_LISTED]],
        "passed_over": _passed_over(engine, decided, preempted),
        "open_steps": _open_steps(engine),
        "pool": block_map(engine),
        "digest": [f"{value:016x}" for value in decided.digest],
    }


def _sequence(sequence: Sequence) -> dict[str, Any]:
    return {
        "seq": sequence.seq_id,
        "request": show_key(sequence.key),
        "level": sequence.level,
        "arrival": sequence.order[1],
        "choice": sequence.order[2],
        "prompt": sequence.num_prompt_tokens,
        "known": sequence.num_known,
        "computed": sequence.num_computed,
        "scheduled": sequence.num_scheduled,
        "limit": sequence.num_prompt_tokens + sequence.stopping.max_tokens,
        "cached": sequence.num_cached_tokens,
        "preemptions": sequence.epoch,
        "reason": None if sequence.finish_reason is None else sequence.finish_reason.name.lower(),
    }


def _share(
    sequence: Sequence, share: ScheduledSequence | None, entered: set[SeqId]
) -> dict[str, Any]:
    """What a running sequence holds, and what this step computes for it."""
    return {
        "row": sequence.row,
        "blocks": len(sequence.block_table),
        "open_steps": sequence.num_open_steps,
        "chunk": share.num_tokens if share else 0,
        "new_blocks": len(share.new_block_ids) if share else 0,
        "is_prefill": bool(share and not is_decode(share)),
        "enters": sequence.seq_id in entered,
    }


def _listed(sequences: Iterable[Sequence]) -> dict[str, Any]:
    everyone = list(sequences)
    return {"count": len(everyone), "first": [_sequence(s) for s in everyone[:MAX_LISTED]]}


def _budget(engine: Engine, scheduled: StepScheduled) -> dict[str, int]:
    decode = sum(is_decode(share) for share in scheduled.scheduled)
    total = sum(share.num_tokens for share in scheduled.scheduled)
    limit = engine.config.max_num_batched_tokens
    return {"prefill": total - decode, "decode": decode, "limit": limit}


def _preemption(engine: Engine, effect: SequencePreempted) -> dict[str, Any]:
    victim, winner = engine.sequences[effect.seq_id], engine.sequences.get(effect.for_seq_id)
    return {
        "seq": effect.seq_id,
        "request": show_key(victim.key),
        "choice": victim.order[2],
        "for_seq": effect.for_seq_id,
        "for_request": show_key(winner.key) if winner else None,
        "computed": effect.num_computed_tokens,
    }


def _passed_over(
    engine: Engine, decided: StepDecided, preempted: list[SequencePreempted]
) -> dict[str, Any] | None:
    if decided.unscheduled is Unscheduled.NOTHING:
        return None
    sequence = engine.sequences[decided.seq_id]
    gave_way_to_nobody = any(e.seq_id == e.for_seq_id == decided.seq_id for e in preempted)
    was_running = sequence.row >= 0 or gave_way_to_nobody
    return {
        "reason": decided.unscheduled.name.lower(),
        "words": _words(engine, decided, None if was_running else sequence),
        "seq": decided.seq_id,
        "request": show_key(sequence.key),
        "blocks_needed": decided.num_blocks_needed,
        "was_running": was_running,
    }


def _words(engine: Engine, decided: StepDecided, waiting: Sequence | None) -> str:
    if decided.unscheduled is not Unscheduled.BLOCKS:
        return cause(decided.unscheduled)
    needed = decided.num_blocks_needed
    if waiting is None:
        return lack_of_blocks((needed, needed))
    # Behind whoever is refused nobody starts: the pool is still as the scheduler found it then.
    free = engine.kv.num_available_beside(engine.kv.match(waiting))
    reserved = len(engine.queues.running)
    return lack_of_blocks((needed, needed), (reserved, reserved), (free, free))


def _open_steps(engine: Engine) -> list[dict[str, int]]:
    return [{"step": step.step_id, "sequences": len(step.shares)} for step in engine.open_steps]
