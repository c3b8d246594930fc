"""How a step's attention is cut into items for threads. It never changes a result.

A unit is up to `TILE_ROWS` rows of one sequence and KV head, over all of their keys or over some
splits of them; an item is some consecutive units. Rows count query heads within tokens: row r is
query head `r % heads_per_kv_head` of token `r // heads_per_kv_head` of the sequence's step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.compiler import inlined, part
from tokenreel.kernels.cpu.vector import LANES

TILE_ROWS = 48
SPLIT = 16
"""Groups of 16 slots whose sums are completed before they join those of earlier splits. Where
splits begin depends on positions alone, so that a result is the same by one thread or many."""
NO_WINDOW = 1 << 40
_ITEMS_PER_THREAD = 32
_PIECES_PER_THREAD = 8
"""A unit is cut into pieces if it is more than a thread's share divided by this."""
STATE_PADDING = 2 * LANES
"""What a row's partial result holds beside its weighted values; see `attention`."""


class AttentionShape(NamedTuple):
    """What does not change from step to step."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    window: int
    """A token at position p sees the keys at (p - window, p]; NO_WINDOW: all up to p."""
    scale: float


class Unit(NamedTuple):
    """What one thread computes without a pause; in arrays, a row of int32."""

    sequence: int
    kv_head: int
    first_row: int
    end_row: int
    first_split: int
    end_split: int
    partial: int
    """Where in `AttentionPlan.partials` its splits' results go, one after the other; negative:
    there is but this unit for these rows, and it writes what they attended to."""


class AttentionPlan(NamedTuple):
    """One step's units and items, the same for every layer."""

    units: NDArray[np.int32]
    """[capacity, 7]: of each `Unit` its fields."""
    items: NDArray[np.int32]
    """[capacity + 1]: item i is the units from items[i] to items[i + 1]."""
    merges: NDArray[np.int32]
    """[capacity, 7]: rows whose splits were computed apart, with all of their splits."""
    counts: NDArray[np.int32]
    """[2]: how many items and merges there are."""
    partials: NDArray[np.float32]
    """Results of splits that were computed apart."""


def new_attention_plan(
    shape: AttentionShape, max_tokens: int, max_seqs: int, max_model_len: int, num_threads: int
) -> AttentionPlan:
    """Room to plan steps of at most `max_tokens` tokens of `max_seqs` sequences for a team."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    tiles = shape.num_kv_heads * (max_tokens * heads_per_kv_head // TILE_ROWS + max_seqs)
    apart = _PIECES_PER_THREAD * num_threads
    capacity = tiles + 2 * apart
    groups_per_block = -(-shape.block_size // LANES)
    splits = (max_model_len // shape.block_size + 1) * groups_per_block // SPLIT + 1
    row = -(-shape.head_dim // LANES) * LANES + STATE_PADDING
    num_partials = apart * heads_per_kv_head * splits * row if num_threads > 1 else 0
    return AttentionPlan(
        np.zeros((capacity, len(Unit._fields)), np.int32),
        np.zeros(capacity + 1, np.int32),
        np.zeros((apart, len(Unit._fields)), np.int32),
        np.zeros(2, np.int32),
        zeros(num_partials, np.float32),
    )


@inlined
def num_groups(position, block_size):
    """How many groups of 16 slots lie before `position` or hold it. A block's last group may hold
    less than 16 slots."""
    groups_per_block = (block_size + LANES - 1) // LANES
    return position // block_size * groups_per_block + position % block_size // LANES + 1


@part
def plan_attention(shape, query_start_loc, context_lens, num_seqs, num_threads, plan):
    """Fills `plan` for a step of the first `num_seqs` sequences, to be run by `num_threads`."""
    tiles, cost = _estimate(shape, query_start_loc, context_lens, num_seqs)
    item_cost = cost // (_ITEMS_PER_THREAD * num_threads)
    piece_cost = cost // (_PIECES_PER_THREAD * num_threads)
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    units = items = merges = partial = open_cost = 0
    for sequence in range(num_seqs):
        num_tokens = query_start_loc[sequence + 1] - query_start_loc[sequence]
        num_rows = num_tokens * heads_per_kv_head
        num_tiles = _num_tiles(num_rows)
        for tile in range(num_tiles * shape.num_kv_heads):
            # The last tokens see the most keys: first, so that the step ends with short units.
            kv_head, place = tile // num_tiles, num_tiles - 1 - tile % num_tiles
            start, stop = place * TILE_ROWS, min(place * TILE_ROWS + TILE_ROWS, num_rows)
            first, end = visible_groups(shape, num_tokens, context_lens[sequence], start, stop)
            split, end_split = first // SPLIT, (end + SPLIT - 1) // SPLIT
            tile_cost = _cost(stop - start, end - first)
            state_size = (stop - start) * row_size(shape)
            tiles -= 1
            per_piece = max(1, piece_cost // _cost(stop - start, SPLIT))
            if (
                num_threads == 1
                or per_piece >= end_split - split
                or tile_cost <= piece_cost
                or merges == len(plan.merges)
                or partial + (end_split - split) * state_size > len(plan.partials)
                or units + end_split - split + tiles > len(plan.units)
            ):
                _set(plan.units, units, sequence, kv_head, start, stop, split, end_split, -1)
                units += 1
                open_cost += tile_cost
                if open_cost >= item_cost:
                    items, open_cost = items + 1, 0
                    plan.items[items] = units
                continue
            _set(plan.merges, merges, sequence, kv_head, start, stop, split, end_split, partial)
            merges += 1
            while split < end_split:
                end = min(split + per_piece, end_split)
                _set(plan.units, units, sequence, kv_head, start, stop, split, end, partial)
                units, items, open_cost = units + 1, items + 1, 0
                plan.items[items] = units
                partial += (end - split) * state_size
                split = end
    if open_cost > 0:
        items += 1
        plan.items[items] = units
    plan.counts[0], plan.counts[1] = items, merges


@inlined
def _estimate(shape, query_start_loc, context_lens, num_seqs):
    """How many tiles there are, and about what they cost."""
    tiles = cost = 0
    for sequence in range(num_seqs):
        num_tokens = query_start_loc[sequence + 1] - query_start_loc[sequence]
        num_rows = num_tokens * (shape.num_heads // shape.num_kv_heads)
        tiles += _num_tiles(num_rows)
        seen = min(max(0, context_lens[sequence] - num_tokens // 2), shape.window)
        cost += _cost(num_rows, seen // LANES + 1)
    return tiles * shape.num_kv_heads, cost * shape.num_kv_heads


@inlined
def _num_tiles(num_rows):
    return (num_rows + TILE_ROWS - 1) // TILE_ROWS


@inlined
def _cost(num_rows, num_groups):
    """In scores of 16 slots; whatever a row costs besides is about two of them."""
    return num_rows * (num_groups + 2)


@inlined
def _set(units, index, sequence, kv_head, first_row, end_row, first_split, end_split, partial):
    units[index, 0], units[index, 1] = sequence, kv_head
    units[index, 2], units[index, 3] = first_row, end_row
    units[index, 4], units[index, 5] = first_split, end_split
    units[index, 6] = partial


@inlined
def load_unit(units, index):
    return Unit(
        units[index, 0],
        units[index, 1],
        units[index, 2],
        units[index, 3],
        units[index, 4],
        units[index, 5],
        units[index, 6],
    )


@inlined
def row_size(shape):
    """Floats of one row's partial result."""
    return (shape.head_dim + LANES - 1) // LANES * LANES + STATE_PADDING


@inlined
def visible_groups(shape, num_tokens, context_len, first_row, end_row):
    """The groups of slots that some of the rows see: from the first, up to the second."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    before = context_len - num_tokens
    last = before + (end_row - 1) // heads_per_kv_head
    if last < 0:
        return 0, 0
    first = max(0, before + first_row // heads_per_kv_head + 1 - shape.window)
    return num_groups(first, shape.block_size) - 1, num_groups(last, shape.block_size)
