"""The state of a core as plain values, read from its structures and not through its digest."""

from typing import Any

State = dict[str, Any]


def digested(engine: Any) -> State:
    """What the digest of a step stands for, component by component. `engine` may be any core's."""
    pool, queues = engine.kv.pool, engine.queues
    sequences = engine.sequences.values()
    return {
        "queues": {sequence.seq_id: int(sequence.status) for sequence in sequences},
        "sequences": {
            sequence.seq_id: (
                sequence.num_computed,
                sequence.num_scheduled,
                sequence.num_open_samples,
                sequence.num_open_steps,
                sequence.epoch,
                sequence.num_final_outputs,
                sequence.row,
                sequence.token_ids,
            )
            for sequence in sequences
        },
        "block_tables": {sequence.seq_id: sequence.block_table for sequence in sequences},
        "free_list": (
            {block: pool.stamps[block] for block in (*pool.free, *pool.evictable)},
            sorted(block for blocks in pool.fenced.values() for block in blocks),
        ),
        "cache": engine.kv.cache.hash_of,
        "counters": (
            engine.next_seq_id,
            engine.next_arrival,
            engine.next_step_id,
            engine.num_ignored,
            len(engine.requests),
            len(engine.open_steps),
            len(engine.tombstones),
            len(queues.freed_rows),
            pool.next_stamp,
        ),
    }


def recorded(engine: Any) -> State:
    """What a snapshot holds: the above, and what follows from it or decides nothing yet."""
    pool = engine.kv.pool
    return {
        **digested(engine),
        "sequences as a whole": {
            sequence.seq_id: (
                sequence.hashes,
                sequence.order,
                sequence.last_step_id,
                sequence.num_registered,
                sequence.num_cached_tokens,
                sequence.finish_reason,
                sequence.sampling,
            )
            for sequence in engine.sequences.values()
        },
        "pool": (list(pool.free), list(pool.evictable), sorted(pool.fenced.items()), pool.stamps),
        "requests": {
            key: (request.seq_ids, request.num_undelivered)
            for key, request in engine.requests.items()
        },
        "open steps": [
            (step.step_id, [(s.seq_id, s.end, s.samples, s.epoch) for s in step.shares])
            for step in engine.open_steps
        ],
        "freed rows": engine.queues.freed_rows,
        "tombstones": list(engine.tombstones),
        "last numbers": engine.last_numbers,
        "settled": engine.settled,
    }


def everything(engine: Any) -> State:
    """With what is derived, and made anew where a snapshot is read."""
    return {
        **recorded(engine),
        "cache by hash": engine.kv.cache.block_of,
        "free rows": sorted(engine.queues.free_rows),
    }


def difference(one: State, other: State) -> str:
    """The names of what differs, with commas; empty if nothing does."""
    return ", ".join(name for name in one if one[name] != other[name])
