"""A captured journal, re-executed event by event: what the engine's core knew, and when."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import CoreEvent, Effect, decode
from tokenreel.messages.ids import BlockId, RequestKey, SeqId
from tokenreel.messages.journal import EFFECT, INPUT, META
from tokenreel.messages.journal_meta import decode_meta
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AbortRequest, AdmitRequest, RequestAdmitted
from tokenreel.messages.steps import StepCompleted
from tokenreel.tools.replay_journal import open_journal, read_records


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


def new_engine(run_dir: Path) -> Engine:
    """The core as the run started it."""
    for _, _, records in read_records(open_journal(run_dir)):
        meta = decode_meta(next(record for record in records if record.type == META).payload)
        return Engine(msgspec.convert(meta.configuration, CoreConfig))
    raise AssertionError("a journal without segments")


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
    """One entry per abort that met a running request."""
    engine = new_engine(run_dir)
    found: list[AbortedBlocks] = []
    open_aborts: list[tuple[int, int, set[BlockId]]] = []  # held, steps so far, still fenced
    for event, _ in recorded(run_dir):
        held = _held_by(engine, event)
        engine.apply(event)
        fenced = {block for blocks in engine.kv.pool.fenced.values() for block in blocks}
        is_completion = isinstance(event, StepCompleted)
        open_aborts = [(n, steps + is_completion, left & fenced) for n, steps, left in open_aborts]
        if held:
            open_aborts.append((len(held), 0, held & fenced))
        found += [AbortedBlocks(n, steps) for n, steps, left in open_aborts if not left]
        open_aborts = [entry for entry in open_aborts if entry[2]]
    assert not open_aborts, "blocks of an aborted request are fenced at the end of the run"
    return found


def _held_by(engine: Engine, event: CoreEvent) -> set[BlockId]:
    """The blocks that only the request which `event` aborts holds."""
    if not isinstance(event, AbortRequest) or event.key not in engine.requests:
        return set()
    tables = [
        engine.sequences[seq_id].block_table
        for seq_id in engine.requests[event.key].seq_ids
        if seq_id in engine.sequences
    ]
    mine = [block for table in tables for block in table]
    return {block for block in mine if engine.kv.pool.references[block] == mine.count(block)}
