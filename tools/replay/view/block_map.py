"""The block pool as cells of a map: what state each block is in, and who holds it."""

from base64 import b64encode
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenreel.actors.core.engine import Engine

MAX_CELLS = 16_384
"""A larger pool is shown with several blocks in a cell: the commonest state among them."""

STATES = ("free", "cached", "held", "shared", "fenced")
FREE, CACHED, HELD, SHARED, FENCED = range(len(STATES))
"""CACHED: nobody holds it, the prefix cache names it, it can be evicted. SHARED: more than one
sequence holds it. FENCED: given up, but an open step may still write it."""


def block_map(engine: Engine) -> dict[str, Any]:
    """`states` has one byte per cell, `owners` two (little-endian): 1 + the place of the first
    holder among the running sequences, 0 for nobody. Both in base64."""
    num_blocks = engine.config.num_blocks
    states, owners = _states(engine), _owners(engine)
    counts = np.bincount(states, minlength=len(STATES)).tolist()
    per_cell = -(-num_blocks // MAX_CELLS)
    if per_cell > 1:
        states, owners = _merged(states, owners, per_cell)
    return {
        "num_blocks": num_blocks,
        "blocks_per_cell": per_cell,
        "counts": dict(zip(STATES, counts, strict=True)),
        "states": b64encode(states.tobytes()).decode(),
        "owners": b64encode(owners.astype("<u2").tobytes()).decode(),
    }


def _states(engine: Engine) -> npt.NDArray[np.uint8]:
    pool = engine.kv.pool
    references = np.array(pool.references)
    states = np.full(pool.num_blocks, FREE, np.uint8)
    states[references == 1] = HELD
    states[references > 1] = SHARED
    states[list(pool.evictable)] = CACHED
    for blocks in pool.fenced.values():
        states[blocks] = FENCED
    return states


def _owners(engine: Engine) -> npt.NDArray[np.uint16]:
    owners = np.zeros(engine.config.num_blocks, np.uint16)
    running = engine.queues.running
    for place in range(len(running), 0, -1):  # backwards: the first in the order has the last word
        owners[running[place - 1].block_table] = place
    return owners


def _merged(
    states: npt.NDArray[np.uint8], owners: npt.NDArray[np.uint16], per_cell: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Per cell its commonest state, and the first owner among the blocks in that state."""
    num_cells = -(-len(states) // per_cell)
    padding = num_cells * per_cell - len(states)
    grid = np.pad(states, (0, padding), constant_values=len(STATES)).reshape(num_cells, per_cell)
    counts = np.stack([(grid == state).sum(axis=1) for state in range(len(STATES))])
    merged = counts.argmax(axis=0).astype(np.uint8)
    first = (grid == merged[:, None]).argmax(axis=1)
    owner_grid = np.pad(owners, (0, padding)).reshape(num_cells, per_cell)
    return merged, owner_grid[np.arange(num_cells), first]
