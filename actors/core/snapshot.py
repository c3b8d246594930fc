"""The whole state of an engine as canonical bytes, and an engine from them.

A journal segment starts with one, so that replay can begin there and older segments may go.
"""

from typing import TYPE_CHECKING

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.digest import BLOCK_TABLES, CACHE, SEQUENCES
from tokenreel.actors.core.prefix_cache import cache_term
from tokenreel.actors.core.scheduler import OpenStep
from tokenreel.actors.core.sequence import Request, Sequence
from tokenreel.messages.ids import BlockHash, BlockId, RequestKey, Row, StepId

if TYPE_CHECKING:
    from tokenreel.actors.core.engine import Engine


class SnapshotError(ValueError):
    """These bytes are no snapshot, or one of an engine with another configuration."""


class Snapshot(msgspec.Struct, frozen=True):
    """Every field of the state that is not derived from another. Lists are in a fixed order:
    by id, or in the order that the state itself gives them (free list, cache, tombstones)."""

    config: CoreConfig
    requests: list[Request]
    sequences: list[Sequence]
    freed_rows: list[Row]
    free_blocks: list[BlockId]
    evictable_blocks: list[BlockId]
    fenced_blocks: list[tuple[StepId, list[BlockId]]]
    stamps: list[int]
    next_stamp: int
    cache: list[tuple[BlockId, BlockHash]]
    open_steps: list[OpenStep]
    tombstones: list[RequestKey]
    last_numbers: list[tuple[int, int]]
    next_seq_id: int
    next_arrival: int
    next_step_id: StepId
    num_ignored: int
    settled: bool
    digest: tuple[int, ...]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def take(engine: "Engine") -> Snapshot:
    pool, cache = engine.kv.pool, engine.kv.cache
    return Snapshot(
        config=engine.config,
        requests=[engine.requests[key] for key in sorted(engine.requests)],
        sequences=[engine.sequences[seq_id] for seq_id in sorted(engine.sequences)],
        freed_rows=list(engine.queues.freed_rows),
        free_blocks=list(pool.free),
        evictable_blocks=list(pool.evictable),
        fenced_blocks=sorted(pool.fenced.items()),
        stamps=list(pool.stamps),
        next_stamp=pool.next_stamp,
        cache=sorted(cache.hash_of.items()),
        open_steps=list(engine.open_steps),
        tombstones=list(engine.tombstones),
        last_numbers=sorted(engine.last_numbers.items()),
        next_seq_id=engine.next_seq_id,
        next_arrival=engine.next_arrival,
        next_step_id=engine.next_step_id,
        num_ignored=engine.num_ignored,
        settled=engine.settled,
        digest=engine.state_digest(),
    )


def restore(engine: "Engine", encoded: bytes, is_trusted: bool = False) -> None:
    """Fills `engine`, which must be new. Raises SnapshotError. Bytes that are trusted to be what
    this very code made are taken at their word: the digest is theirs, and not computed again."""
    try:
        snapshot = _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"not a snapshot: {error}") from error
    if snapshot.config != engine.config:
        raise SnapshotError("the snapshot was taken under another configuration")
    try:
        _fill(engine, snapshot)
    except (IndexError, ValueError) as error:
        raise SnapshotError(f"the snapshot contradicts itself: {error}") from error
    if is_trusted:
        engine.digest.take_over(snapshot.digest)
    else:
        _check(engine, snapshot)


def _fill(engine: "Engine", snapshot: Snapshot) -> None:
    engine.kv.pool.restore(
        snapshot.free_blocks, snapshot.evictable_blocks, snapshot.fenced_blocks, snapshot.stamps
    )
    engine.kv.pool.next_stamp = snapshot.next_stamp
    engine.kv.cache.block_of = {link: block for block, link in snapshot.cache}
    engine.kv.cache.hash_of = dict(snapshot.cache)
    engine.digest.add_later(
        CACHE, lambda: sum(cache_term(link, block) for block, link in snapshot.cache)
    )
    for sequence in snapshot.sequences:
        engine.sequences[sequence.seq_id] = sequence
        engine.digest.add(SEQUENCES, sequence.sequence_term)
        engine.digest.add(BLOCK_TABLES, sequence.table_term)
        for block in sequence.block_table:
            engine.kv.pool.references[block] += 1
    engine.queues.restore(snapshot.sequences)
    engine.queues.freed_rows = list(snapshot.freed_rows)
    engine.requests = {request.key: request for request in snapshot.requests}
    engine.open_steps.extend(snapshot.open_steps)
    engine.tombstones = dict.fromkeys(snapshot.tombstones)
    engine.last_numbers = dict(snapshot.last_numbers)
    engine.next_seq_id = snapshot.next_seq_id
    engine.next_arrival = snapshot.next_arrival
    engine.next_step_id = snapshot.next_step_id
    engine.num_ignored = snapshot.num_ignored
    engine.settled = snapshot.settled


def _check(engine: "Engine", snapshot: Snapshot) -> None:
    found = engine.state_digest()
    if found != snapshot.digest:
        raise SnapshotError(f"the restored state has digest {found}, not {snapshot.digest}")
