"""The map says of every block what the pool, the cache and the block tables say of it."""

from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capturing import CONFIG

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.ids import BlockId
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.view import block_map as module
from tokenreel.tools.replay.view.block_map import STATES, block_map


def cells_of(told: dict[str, Any]) -> tuple[list[str], list[int]]:
    states = [STATES[state] for state in b64decode(told["states"])]
    return states, np.frombuffer(b64decode(told["owners"]), "<u2").tolist()


def state_of(engine: Engine, block: BlockId) -> str:
    pool = engine.kv.pool
    if any(block in fenced for fenced in pool.fenced.values()):
        return "fenced"
    if block in pool.free:
        return "free"
    if block in pool.evictable:
        return "cached"
    return "held" if pool.references[block] == 1 else "shared"


def test_every_block_is_told_as_it_is_and_whose_it_is(journal: Path) -> None:
    engine = Engine(CONFIG)
    met: Counter[str] = Counter()
    for recorded in recorded_events(open_journal(journal)):
        engine.apply(recorded.event)
        told = block_map(engine)
        states, owners = cells_of(told)
        assert states == [state_of(engine, BlockId(b)) for b in range(CONFIG.num_blocks)]
        assert told["counts"] == {state: states.count(state) for state in STATES}
        for block, owner in enumerate(owners):
            holders = [
                place
                for place, sequence in enumerate(engine.queues.running, 1)
                if block in sequence.block_table
            ]
            assert owner == (holders[0] if holders else 0)
        met.update(states)
    assert set(met) == set(STATES)


def test_a_large_pool_has_several_blocks_to_a_cell(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(CONFIG)
    for recorded in list(recorded_events(open_journal(journal)))[:200]:
        engine.apply(recorded.event)
    whole = block_map(engine)
    states, owners = cells_of(whole)
    monkeypatch.setattr(module, "MAX_CELLS", 5)
    merged = block_map(engine)
    assert (merged["blocks_per_cell"], merged["counts"]) == (4, whole["counts"])
    found, found_owners = cells_of(merged)
    assert len(found) == 4
    for cell, state in enumerate(found):
        part = states[4 * cell : 4 * cell + 4]
        assert part.count(state) == max(map(part.count, STATES))
        assert found_owners[cell] == owners[4 * cell + part.index(state)]
