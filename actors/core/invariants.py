"""What must hold between any two events: the specification of the core, checked in full.

Every rule costs a walk over the whole state, so tests, simulation and tools call `check` after each
event; the cheap ones among them are also asserted where they could break. Numbers are those of the
design's list of invariants.
"""

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import blocks_for
from tokenreel.actors.core.digest import (
    BLOCK_TABLES,
    CACHE,
    FREE_LIST,
    QUEUES,
    SEQUENCES,
    Digest,
    weight,
)
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.kv_manager import table_term
from tokenreel.actors.core.prefix_cache import cache_term
from tokenreel.actors.core.sequence import NO_ROW, Sequence, Status
from tokenreel.messages.block_hash import chain
from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import BlockId
from tokenreel.messages.steps import StepScheduled


def check(engine: Engine) -> None:
    """Raises InvariantViolated, naming what contradicts what."""
    _check_every_block_is_in_one_place(engine)
    _check_writable_blocks_have_one_writer(engine)
    _check_cached_blocks_hold_what_their_hash_says(engine)
    _check_every_sequence_is_in_one_queue(engine)
    _check_counters_agree_with_open_steps(engine)
    _check_requests_own_their_sequences(engine)
    _check_admitted_sequences_fit(engine)
    _check_digest(engine)


def check_step(engine: Engine, effects: list[Effect]) -> None:
    """Rule 5, on the effects of a `StepBegan` that was just applied."""
    for effect in effects:
        if not isinstance(effect, StepScheduled):
            continue
        seq_ids = [entry.seq_id for entry in effect.scheduled]
        rows = [entry.row for entry in effect.scheduled]
        _require(bool(seq_ids), "5: an empty step was dispatched")
        _require(len({*seq_ids}) == len(seq_ids), "5: a sequence is visited twice in a step")
        _require(len({*rows}) == len(rows), "5: a row is used twice in a step")
        num_tokens = sum(entry.num_tokens for entry in effect.scheduled)
        budget = engine.config.max_num_batched_tokens
        _require(num_tokens <= budget, f"5: {num_tokens} tokens exceed the budget of {budget}")
        for entry in effect.scheduled:
            _require(entry.num_tokens > 0, "5: an entry without tokens")
            sequence = engine.sequences[entry.seq_id]
            _require(sequence.status is Status.RUNNING, "5: scheduled but not running")
            end = entry.start + entry.num_tokens
            room = len(sequence.block_table) * engine.config.block_size
            _require(end <= room, "10: scheduled beyond its blocks")


def check_quiet(engine: Engine) -> None:
    """Rule 13: when every request is delivered, nothing is left of any of them."""
    pool = engine.kv.pool
    _require(not engine.requests, "13: requests are left")
    _require(not engine.sequences, "13: sequences are left")
    _require(not engine.open_steps, "13: steps are left open")
    _require(not (engine.queues.running or engine.queues.waiting), "13: queues are not empty")
    _require(not engine.queues.blocked, "13: blocked sequences are left")
    _require(len(engine.queues.free_rows) == engine.config.max_num_seqs, "13: rows are lost")
    _require(pool.num_available == pool.num_blocks, "13: the pool is not full")


def recomputed_digest(engine: Engine) -> tuple[int, ...]:
    """The digest from the state alone, without the running sums."""
    digest = Digest()
    pool = engine.kv.pool
    for sequence in engine.sequences.values():
        digest.add(QUEUES, sequence.expected_queue_term())
        digest.add(SEQUENCES, sequence.expected_sequence_term())
        for index, block in enumerate(sequence.block_table):
            digest.add(BLOCK_TABLES, table_term(sequence, index, block))
    for block in [*pool.free, *pool.evictable]:
        digest.add(FREE_LIST, weight(block) * pool.stamps[block])
    for blocks in pool.fenced.values():
        for block in blocks:
            digest.add(FREE_LIST, -weight(~block))
    for link, block in engine.kv.cache.block_of.items():
        digest.add(CACHE, cache_term(link, block))
    return digest.values()[:-1]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantViolated(message)


def _check_every_block_is_in_one_place(engine: Engine) -> None:
    pool = engine.kv.pool
    fenced = [block for blocks in pool.fenced.values() for block in blocks]
    held = [BlockId(b) for b in range(pool.num_blocks) if pool.references[b] > 0]
    everywhere = sorted([*pool.free, *pool.evictable, *fenced, *held])
    _require(
        everywhere == list(range(pool.num_blocks)),
        f"1: {len(pool.free)} free, {len(pool.evictable)} evictable, {len(fenced)} fenced and "
        f"{len(held)} held blocks are not the {pool.num_blocks} blocks of the pool, once each",
    )
    _require(len(fenced) == pool.num_fenced, "1: the count of fenced blocks is off")
    holders = [0] * pool.num_blocks
    for sequence in engine.sequences.values():
        for block in sequence.block_table:
            holders[block] += 1
    _require(holders == pool.references, "1: references are not the block tables' entries")
    for block in pool.evictable:
        _require(engine.kv.cache.holds(block), f"1: evictable block {block} is not cached")
    for block in [*pool.free, *fenced]:
        _require(not engine.kv.cache.holds(block), f"1: free block {block} is still cached")
    open_ids = {step.step_id for step in engine.open_steps}
    for step_id in pool.fenced:
        _require(step_id in open_ids, f"1: fence of step {step_id}, which is not open")


def _check_writable_blocks_have_one_writer(engine: Engine) -> None:
    size = engine.config.block_size
    for sequence in engine.sequences.values():
        for index in range(sequence.num_computed // size, len(sequence.block_table)):
            block = sequence.block_table[index]
            _require(
                engine.kv.pool.references[block] == 1,
                f"2: block {block} is writable for sequence {sequence.seq_id} and shared",
            )
            _require(not engine.kv.cache.holds(block), f"3: writable block {block} is cached")


def _check_cached_blocks_hold_what_their_hash_says(engine: Engine) -> None:
    size, cache = engine.config.block_size, engine.kv.cache
    _require(
        {block: link for link, block in cache.block_of.items()} == cache.hash_of,
        "3: the cache's two directions differ",
    )
    for sequence in engine.sequences.values():
        if not sequence.cache_root:
            continue
        links = chain(sequence.cache_root, sequence.token_ids, size)
        _require(links[: len(sequence.hashes)] == sequence.hashes, "3: a chain is not its tokens'")
        for index in range(sequence.num_computed // size if sequence.block_table else 0):
            link = cache.hash_of.get(sequence.block_table[index])
            _require(link is None or link == links[index], "3: a block's hash is not its tokens'")


def _check_every_sequence_is_in_one_queue(engine: Engine) -> None:
    queues, config = engine.queues, engine.config
    _require(len(queues.running) <= config.max_num_seqs, "4: more run than max_num_seqs")
    running = {sequence.seq_id for sequence in queues.running}
    _require(len(running) == len(queues.running), "4: a sequence runs twice")
    orders = [sequence.order for sequence in queues.running]
    _require(orders == sorted(orders), "4: the running list is out of order")
    rows = sorted([*queues.free_rows, *(sequence.row for sequence in queues.running)])
    _require(rows == list(range(config.max_num_seqs)), "4: rows are not free or used, once each")
    for seq_id, sequence in engine.sequences.items():
        places = {
            Status.BLOCKED: seq_id in queues.blocked,
            Status.WAITING: seq_id in queues.waiting,
            Status.RUNNING: seq_id in running,
        }
        found = [status for status, there in places.items() if there]
        expected = [] if sequence.status is Status.FINISHED else [sequence.status]
        _require(found == expected, f"4: sequence {seq_id} is {sequence.status!r}, in {found}")
        is_running = sequence.status is Status.RUNNING
        _require((sequence.row != NO_ROW) == is_running, f"4: row of sequence {seq_id}")
        _require(is_running or not sequence.block_table, f"4: {seq_id} holds blocks, unrunning")
    known = len(running) + len(queues.waiting) + len(queues.blocked)
    finished = sum(s.status is Status.FINISHED for s in engine.sequences.values())
    _require(known + finished == len(engine.sequences), "4: a queue holds a forgotten sequence")


def _check_counters_agree_with_open_steps(engine: Engine) -> None:
    num_steps: dict[int, int] = {}
    num_samples: dict[int, int] = {}
    for step in engine.open_steps:
        for share in step.shares:
            num_steps[share.seq_id] = num_steps.get(share.seq_id, 0) + 1
            num_samples[share.seq_id] = num_samples.get(share.seq_id, 0) + share.samples
    for sequence in engine.sequences.values():
        _check_counters(sequence)
        if sequence.status is Status.FINISHED:
            continue
        seq_id = sequence.seq_id
        _require(sequence.num_open_steps == num_steps.get(seq_id, 0), "6: open steps")
        _require(sequence.num_open_samples == num_samples.get(seq_id, 0), "6: open samples")
    _require(len(engine.open_steps) <= engine.config.pipeline_depth, "6: too many open steps")


def _check_counters(sequence: Sequence) -> None:
    computed, scheduled = sequence.num_computed, sequence.num_scheduled
    expected = sequence.num_known + sequence.num_open_samples
    _require(
        0 <= computed <= scheduled <= expected and computed <= sequence.num_known,
        f"6: sequence {sequence.seq_id} has {computed} computed, {scheduled} scheduled, "
        f"{sequence.num_known} known tokens and {sequence.num_open_samples} open samples",
    )
    max_tokens = sequence.stopping.max_tokens
    _require(expected - sequence.num_prompt_tokens <= max_tokens, "6: more than max_tokens")
    if sequence.status is Status.WAITING:
        _require(scheduled == 0, f"6: waiting sequence {sequence.seq_id} has scheduled tokens")


def _check_requests_own_their_sequences(engine: Engine) -> None:
    owned: list[int] = []
    for request in engine.requests.values():
        alive = [seq_id for seq_id in request.seq_ids if seq_id in engine.sequences]
        _require(len(alive) == request.num_undelivered > 0, "4: undelivered sequences miscounted")
        owned.extend(alive)
    _require(sorted(owned) == sorted(engine.sequences), "4: a sequence belongs to no request")


def _check_admitted_sequences_fit(engine: Engine) -> None:
    for sequence in engine.sequences.values():
        most = sequence.num_prompt_tokens + sequence.stopping.max_tokens
        needed = blocks_for(most, engine.config.block_size)
        _require(needed <= engine.config.num_blocks, f"7: {sequence.seq_id} can never fit")


def _check_digest(engine: Engine) -> None:
    kept, full = engine.state_digest()[:-1], recomputed_digest(engine)
    _require(kept == full, f"digest: kept {kept}, recomputed {full}")
