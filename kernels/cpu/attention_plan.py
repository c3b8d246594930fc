"""How a step's attention is cut into items for threads. It never changes a result.

A unit is up to `TILE_ROWS` rows of one sequence and KV head, over all of their keys or over some
splits of them; an item is some consecutive units. Rows count query heads within tokens: row r is
query head `r % heads_per_kv_head` of token `r // heads_per_kv_head` of the sequence's step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.vector import LANES, compiled

TILE_ROWS = 48
SPLIT = 16
"""Groups of 16 slots whose sums are completed before they join those of earlier splits. Where
splits begin depends on positions alone, so that a result is the same by one thread or many."""
NO_WINDOW = 1 << 40
_ITEMS_PER_THREAD = 32
_PIECES_PER_THREAD = 8
"""A unit is cut into pieces if it is more than a thread's share divided by this."""
UNIT_FIELDS = 7
"""sequence, KV head, first row, end row, first split, end split, offset of its partial results in
`AttentionPlan.partials`, or -1: it writes the result itself."""
SEQUENCE, KV_HEAD, FIRST_ROW, END_ROW, FIRST_SPLIT, END_SPLIT, PARTIAL = range(UNIT_FIELDS)
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


class AttentionPlan(NamedTuple):
    """One step's units and items, the same for every layer."""

    units: NDArray[np.int32]
    """[capacity, UNIT_FIELDS]"""
    items: NDArray[np.int32]
    """[capacity + 1]: item i is the units from items[i] to items[i + 1]."""
    merges: NDArray[np.int32]
    """[capacity, UNIT_FIELDS]: rows whose splits were computed apart, with all of their splits."""
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
    splits = num_groups(max_model_len, shape.block_size) // SPLIT + 1
    row = -(-shape.head_dim // LANES) * LANES + STATE_PADDING
    num_partials = apart * heads_per_kv_head * splits * row if num_threads > 1 else 0
    return AttentionPlan(
        np.zeros((capacity, UNIT_FIELDS), np.int32),
        np.zeros(capacity + 1, np.int32),
        np.zeros((apart, UNIT_FIELDS), np.int32),
        np.zeros(2, np.int32),
        np.zeros(num_partials, np.float32),
    )


@compiled
def num_groups(position, block_size):
    """How many groups of 16 slots lie before `position` or hold it. A block's last group may hold
    less than 16 slots."""
    groups_per_block = (block_size + LANES - 1) // LANES
    return position // block_size * groups_per_block + position % block_size // LANES + 1


@compiled
def plan_attention(shape, query_start_loc, context_lens, num_seqs, num_threads, plan):
    """Fills `plan` for a step of the first `num_seqs` sequences, to be run by `num_threads`."""
    tiles, cost = _total(shape, query_start_loc, context_lens, num_seqs)
    item_cost = cost // (_ITEMS_PER_THREAD * num_threads)
    piece_cost = cost // (_PIECES_PER_THREAD * num_threads) if num_threads > 1 else cost
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    plan.items[0] = 0
    units = items = merges = partial = open_cost = 0
    for sequence in range(num_seqs):
        num_tokens = query_start_loc[sequence + 1] - query_start_loc[sequence]
        num_rows = num_tokens * heads_per_kv_head
        num_tiles = (num_rows + TILE_ROWS - 1) // TILE_ROWS
        for tile in range(num_tiles * shape.num_kv_heads):
            # The last tokens see the most keys: first, so that the step ends with short units.
            kv_head, place = tile // num_tiles, num_tiles - 1 - tile % num_tiles
            first_row = place * TILE_ROWS
            end_row = min(first_row + TILE_ROWS, num_rows)
            first, end = visible_groups(
                shape, num_tokens, context_lens[sequence], first_row, end_row
            )
            first_split, end_split = first // SPLIT, (end + SPLIT - 1) // SPLIT
            tile_cost = _cost(end_row - first_row, end - first)
            room = (end_row - first_row) * (end_split - first_split) * row_size(shape)
            tiles -= 1
            per_piece = end_split - first_split
            if (
                tile_cost > piece_cost
                and merges < len(plan.merges)
                and partial + room <= len(plan.partials)
                and units + per_piece + tiles <= len(plan.units)
            ):
                per_piece = max(1, piece_cost // _cost(end_row - first_row, SPLIT))
            is_apart = per_piece < end_split - first_split
            unit = plan.merges[merges] if is_apart else plan.units[units]
            unit[SEQUENCE] = sequence
            unit[KV_HEAD] = kv_head
            unit[FIRST_ROW], unit[END_ROW] = first_row, end_row
            unit[FIRST_SPLIT], unit[END_SPLIT] = first_split, end_split
            unit[PARTIAL] = -1
            if not is_apart:
                units += 1
                open_cost += tile_cost
                if open_cost >= item_cost:
                    items, open_cost = items + 1, 0
                    plan.items[items] = units
                continue
            if plan.items[items] < units:
                items, open_cost = items + 1, 0
                plan.items[items] = units
            unit[PARTIAL] = partial
            merges += 1
            for split in range(first_split, end_split, per_piece):
                plan.units[units, :] = unit
                plan.units[units, FIRST_SPLIT] = split
                plan.units[units, END_SPLIT] = min(split + per_piece, end_split)
                plan.units[units, PARTIAL] = partial + (split - first_split) * (
                    (end_row - first_row) * row_size(shape)
                )
                units, items = units + 1, items + 1
                plan.items[items] = units
            partial += room
    if plan.items[items] < units:
        items += 1
        plan.items[items] = units
    plan.counts[0], plan.counts[1] = items, merges


@compiled
def _total(shape, query_start_loc, context_lens, num_seqs):
    """How many tiles there are, and what they cost."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    tiles = cost = 0
    for sequence in range(num_seqs):
        num_tokens = query_start_loc[sequence + 1] - query_start_loc[sequence]
        num_rows = num_tokens * heads_per_kv_head
        for first_row in range(0, num_rows, TILE_ROWS):
            end_row = min(first_row + TILE_ROWS, num_rows)
            first, end = visible_groups(
                shape, num_tokens, context_lens[sequence], first_row, end_row
            )
            tiles += 1
            cost += _cost(end_row - first_row, end - first)
    return tiles * shape.num_kv_heads, cost * shape.num_kv_heads


@compiled
def _cost(num_rows, num_groups):
    """In scores of 16 slots; whatever a row costs besides is about two of them."""
    return num_rows * (num_groups + 2)


@compiled
def row_size(shape):
    """Floats of one row's partial result."""
    return (shape.head_dim + LANES - 1) // LANES * LANES + STATE_PADDING


@compiled
def visible_groups(shape, num_tokens, context_len, first_row, end_row):
    """The groups of slots that some of the rows see: from the first, up to the second."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    before = context_len - num_tokens
    last = before + (end_row - 1) // heads_per_kv_head
    if last < 0:
        return 0, 0
    first = max(0, before + first_row // heads_per_kv_head + 1 - shape.window)
    return num_groups(first, shape.block_size) - 1, num_groups(last, shape.block_size)
