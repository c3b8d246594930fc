"""A captured journal, re-executed event by event: what the engine's core knew, and when."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import CoreEvent, Effect, decode
from tokenreel.messages.ids import BlockId, RequestKey, SeqId
from tokenreel.messages.journal import EFFECT, INPUT, META
from tokenreel.messages.journal_meta import Meta, decode_meta
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AbortRequest, AdmitRequest, RequestAdmitted
from tokenreel.messages.steps import StepCompleted
from tokenreel.tools.replay.reading.journal import open_journal, read_records


class Output(NamedTuple):
    """What the journal holds of one sequence: tokens, and prompt tokens found in the cache."""

    token_ids: list[int]
    num_cached_tokens: int


class AbortedBlocks(NamedTuple):
    """How an abort gave its blocks back."""

    num_held: int
    """When the core received it."""
    num_steps: int
    """That completed until none of them was held or fenced for the aborted request any more."""


def recorded(run_dir: Path) -> Iterator[tuple[CoreEvent, list[Effect]]]:
    """Every input with the effects that were recorded behind it."""
    event: CoreEvent | None = None
    effects: list[Effect] = []
    for _, _, records in read_records(open_journal(run_dir)):
        for record in records:
            if record.flags & INPUT:
                if event is not None:
                    yield event, effects
                event, effects = cast(CoreEvent, decode(record.payload)), []
            elif record.flags & EFFECT:
                effects.append(cast(Effect, decode(record.payload)))
    if event is not None:
        yield event, effects


def meta_of(run_dir: Path) -> Meta:
    for _, _, records in read_records(open_journal(run_dir)):
        return decode_meta(next(record for record in records if record.type == META).payload)
    raise AssertionError("a journal without segments")


def new_engine(run_dir: Path) -> Engine:
    """The core as the run started it."""
    return Engine(msgspec.convert(meta_of(run_dir).configuration, CoreConfig))


def final_engine(run_dir: Path) -> Engine:
    """The core after everything that the journal holds."""
    engine = new_engine(run_dir)
    for event, _ in recorded(run_dir):
        engine.apply(event)
    return engine


def outputs_by_seed(run_dir: Path) -> dict[int, list[Output]]:
    """Per request, which its seed names, the outputs of its sequences, choice by choice."""
    seeds: dict[RequestKey, int] = {}
    seq_ids: dict[RequestKey, tuple[SeqId, ...]] = {}
    tokens: dict[SeqId, list[int]] = {}
    num_cached: dict[SeqId, int] = {}
    for event, effects in recorded(run_dir):
        if isinstance(event, AdmitRequest):
            seeds[event.key] = event.sampling.seed
        for effect in effects:
            if isinstance(effect, RequestAdmitted):
                seq_ids[effect.key] = effect.seq_ids
            elif isinstance(effect, TokensEmitted):
                for part in effect.sequences:
                    tokens.setdefault(part.seq_id, []).extend(part.token_ids)
                    if part.token_ids:
                        num_cached[part.seq_id] = part.num_cached_tokens
    return {
        seeds[key]: [Output(tokens.get(i, []), num_cached.get(i, 0)) for i in ids]
        for key, ids in seq_ids.items()
    }


def aborted_blocks(run_dir: Path) -> list[AbortedBlocks]:
    """One entry per abort that met a request which held blocks of its own."""
    engine = new_engine(run_dir)
    found: list[AbortedBlocks] = []
    pending: list[_PendingAbort] = []
    for event, _ in recorded(run_dir):
        if isinstance(event, AbortRequest) and event.key in engine.requests:
            seq_ids = engine.requests[event.key].seq_ids
            blocks = _own_blocks(engine, seq_ids)
            if blocks:
                pending.append(_PendingAbort(seq_ids, len(blocks), 0, blocks))
        engine.apply(event)
        fenced = {block for blocks in engine.kv.pool.fenced.values() for block in blocks}
        for abort in pending:
            abort.num_steps += isinstance(event, StepCompleted)
            abort.left &= fenced | _own_blocks(engine, abort.seq_ids)
        found += [
            AbortedBlocks(abort.num_held, abort.num_steps) for abort in pending if not abort.left
        ]
        pending = [abort for abort in pending if abort.left]
    assert not pending, "blocks of an aborted request are held or fenced at the end of the run"
    return found


@dataclass(slots=True)
class _PendingAbort:
    seq_ids: tuple[SeqId, ...]
    num_held: int
    num_steps: int
    left: set[BlockId]


def _own_blocks(engine: Engine, seq_ids: tuple[SeqId, ...]) -> set[BlockId]:
    """The blocks that these sequences hold and nobody else does."""
    held = [
        block
        for seq_id in seq_ids
        if seq_id in engine.sequences
        for block in engine.sequences[seq_id].block_table
    ]
    return {block for block in held if engine.kv.pool.references[block] == held.count(block)}
