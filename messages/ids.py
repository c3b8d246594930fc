"""Names of the things that messages speak about."""

from typing import NamedTuple, NewType


class RequestKey(NamedTuple):
    """What a client asked for, named by the frontend that took it. Never the client's own id.

    `frontend_epoch` differs for every frontend process that ever ran under one supervisor;
    `number` counts up within it, so that a key is never used twice.
    """

    frontend_epoch: int
    number: int


SeqId = NewType("SeqId", int)
"""One continuation of a request in the engine core: counts up from 1, never reused in a run."""

StepId = NewType("StepId", int)
"""One forward pass of one scheduled batch: counts up from 1."""

BlockId = NewType("BlockId", int)
"""A KV block of the pool, in [0, num_blocks)."""

Row = NewType("Row", int)
"""A place in the worker's running batch, in [0, max_num_seqs)."""

BlockHash = NewType("BlockHash", bytes)
"""16 bytes: a link of the hash chain over a sequence's full blocks (`messages.block_hash`)."""
