"""Causal attention over a paged cache: grouped queries, sliding windows, no copy of the context.

The softmax is computed along the keys in chunks (Milakov and Gimelshein, 2018), whose limits count
from position 0, as do the splits that chunks are gathered into. What a row cannot see has weight
0, so a row's result is the same bits alone and among others, in a prefill and in a decode.

A row's *state* is [row_size] float32: its weighted values [head_dim padded to 16], the sums of its
weights in 16 lanes, its largest score, and padding.
"""

import numpy as np

from tokenreel.kernels.cpu.attention_plan import (
    END_ROW,
    END_SPLIT,
    FIRST_ROW,
    FIRST_SPLIT,
    KV_HEAD,
    PARTIAL,
    SEQUENCE,
    SPLIT,
    STATE_PADDING,
    TILE_ROWS,
    row_size,
    visible_groups,
)
from tokenreel.kernels.cpu.attention_products import CHUNK, TALL, add_values, score
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    compiled,
    exp,
    first_lanes,
    fma,
    largest_lane,
    load,
    maximum,
    store,
    sum_lanes,
)

LOWEST = np.float32(-3e38)
"""The largest score of a row that has seen no key: finite, so that no difference is NaN."""
_GROUPS = CHUNK // LANES


def attention_scratch_size(head_dim: int) -> int:
    """Elements of the float32 array that each thread needs for itself."""
    padded = -(-head_dim // LANES) * LANES
    states = 2 * TILE_ROWS * (padded + STATE_PADDING)
    return TILE_ROWS * (padded + CHUNK + 1) + states


@compiled
def attention_item(
    item,
    shape,
    plan,
    query_start_loc,
    context_lens,
    block_tables,
    qkv,
    key_cache,
    value_cache,
    attended,
    attended_stride,
    scratch,
):
    """Computes item `item` of the `plan.counts[0]` of a step, for one layer.

    qkv: [num_tokens, num_heads + 2 * num_kv_heads, padded head_dim] float32, of which the queries
    are read. key_cache: [num_blocks, num_kv_heads, padded head_dim, padded block_size];
    value_cache: [num_blocks, num_kv_heads, padded block_size, padded head_dim].
    attended: rows of `attended_stride` elements, float32 or bfloat16, one per token.
    scratch: `attention_scratch_size` float32.

    After `plan.counts[1]` merges, if there are any, every row is written.
    """
    for unit in range(plan.items[item], plan.items[item + 1]):
        _attend(
            plan.units[unit],
            plan.partials,
            shape,
            query_start_loc,
            context_lens,
            block_tables,
            qkv,
            key_cache,
            value_cache,
            attended,
            attended_stride,
            scratch,
        )


@compiled
def attention_merge(merge, shape, plan, query_start_loc, attended, attended_stride):
    """Joins and writes the results of splits that were computed apart: merge `merge` of the
    `plan.counts[1]`, once all items of the layer are done, and before the next layer's."""
    unit = plan.merges[merge]
    num_rows = unit[END_ROW] - unit[FIRST_ROW]
    size = num_rows * row_size(shape)
    first = unit[PARTIAL]
    for split in range(1, unit[END_SPLIT] - unit[FIRST_SPLIT]):
        _join(plan.partials, first, first + split * size, num_rows, row_size(shape))
    _write(unit, shape, query_start_loc, plan.partials, first, attended, attended_stride)


@compiled
def _attend(
    unit,
    partials,
    shape,
    query_start_loc,
    context_lens,
    block_tables,
    qkv,
    key_cache,
    value_cache,
    attended,
    attended_stride,
    scratch,
):
    sequence, num_rows = unit[SEQUENCE], unit[END_ROW] - unit[FIRST_ROW]
    depth, size = shape.head_dim, row_size(shape)
    queries = scratch[: TILE_ROWS * depth]
    scores = scratch[TILE_ROWS * depth :]
    decays = scores[TILE_ROWS * CHUNK :]
    own = decays[TILE_ROWS:]
    num_tokens = query_start_loc[sequence + 1] - query_start_loc[sequence]
    before = context_lens[sequence] - num_tokens
    first, end = visible_groups(
        shape, num_tokens, context_lens[sequence], unit[FIRST_ROW], unit[END_ROW]
    )
    _take_queries(unit, shape, query_start_loc, qkv, queries)
    _begin(own, 0, num_rows, size)
    for split in range(unit[FIRST_SPLIT], unit[END_SPLIT]):
        states, state = own, 0
        if unit[PARTIAL] >= 0:
            states = partials
            state = unit[PARTIAL] + (split - unit[FIRST_SPLIT]) * num_rows * size
        elif split > unit[FIRST_SPLIT]:
            state = TILE_ROWS * size
        _begin(states, state, num_rows, size)
        for chunk in range(split * SPLIT, min(end, (split + 1) * SPLIT), _GROUPS):
            if chunk + _GROUPS > first:
                _attend_chunk(
                    unit,
                    shape,
                    before,
                    block_tables,
                    key_cache,
                    value_cache,
                    chunk,
                    max(chunk, first),
                    min(chunk + _GROUPS, end),
                    queries,
                    scores,
                    decays,
                    states,
                    state,
                )
        if unit[PARTIAL] < 0 and state > 0:
            _join(own, 0, state, num_rows, size)
    if unit[PARTIAL] < 0:
        _write(unit, shape, query_start_loc, own, 0, attended, attended_stride)


@compiled
def _take_queries(unit, shape, query_start_loc, qkv, queries):
    """-> queries [rows / TALL, head_dim, TALL], times the scale."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    padded = row_size(shape) - STATE_PADDING
    scale = np.float32(shape.scale)
    flat = qkv.reshape(-1)
    for row in range(unit[END_ROW] - unit[FIRST_ROW]):
        token = query_start_loc[unit[SEQUENCE]] + (unit[FIRST_ROW] + row) // heads_per_kv_head
        head = unit[KV_HEAD] * heads_per_kv_head + (unit[FIRST_ROW] + row) % heads_per_kv_head
        source = (token * (shape.num_heads + 2 * shape.num_kv_heads) + head) * padded
        target = row // TALL * shape.head_dim * TALL + row % TALL
        for i in range(shape.head_dim):
            queries[target + i * TALL] = flat[source + i] * scale


@compiled
def _begin(states, state, num_rows, size):
    """The state of rows that have seen no key."""
    for place in range(state, state + num_rows * size, size):
        for i in range(0, size - LANES, LANES):
            store(states, place + i, broadcast(0.0))
        states[place + size - LANES] = LOWEST


@compiled
def _attend_chunk(
    unit,
    shape,
    before,
    block_tables,
    key_cache,
    value_cache,
    chunk,
    first,
    end,
    queries,
    scores,
    decays,
    states,
    state,
):
    """Lets the rows of a unit see the groups from `first` to `end` of the chunk that begins at
    group `chunk`. `before`: the tokens of the context that precede the step's."""
    num_rows, size = unit[END_ROW] - unit[FIRST_ROW], row_size(shape)
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    kv_head, sequence = unit[KV_HEAD], unit[SEQUENCE]
    num_kv_heads, padded, padded_block = key_cache.shape[1:]
    page = padded * padded_block
    groups_per_block = padded_block // LANES
    for pair in range(first // 2 * 2, end, 2):
        left, right = max(pair, first), min(pair + 1, end - 1)
        block, inner = block_tables[sequence, left // groups_per_block], left % groups_per_block
        left_key = (block * num_kv_heads + kv_head) * page + inner * LANES
        block, inner = block_tables[sequence, right // groups_per_block], right % groups_per_block
        right_key = (block * num_kv_heads + kv_head) * page + inner * LANES
        score(
            num_rows,
            queries,
            key_cache,
            left_key,
            right_key,
            padded_block,
            shape.head_dim,
            scores,
            (pair - chunk) * LANES,
        )
    start = before + unit[FIRST_ROW] // heads_per_kv_head
    last = before + (unit[END_ROW] - 1) // heads_per_kv_head
    low = max(0, start + 1 - shape.window)
    _hide(unit, shape, before, chunk, first, end, scores)
    _weigh(num_rows, first - chunk, end - chunk, scores, decays, states, state, size)
    for group in range(first, end):
        block, inner = block_tables[sequence, group // groups_per_block], group % groups_per_block
        position = group // groups_per_block * shape.block_size + inner * LANES
        begin = max(0, low - position)
        stop = min(min(LANES, shape.block_size - inner * LANES), last + 1 - position)
        value = (block * num_kv_heads + kv_head) * page + (inner * LANES + begin) * padded
        add_values(
            num_rows,
            padded // LANES,
            scores,
            (group - chunk) * LANES + begin,
            value_cache,
            value,
            stop - begin,
            states,
            state,
            size,
        )


@compiled
def _hide(unit, shape, before, chunk, first, end, scores):
    """Makes the scores of slots that a row cannot see -inf."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    groups_per_block = (shape.block_size + LANES - 1) // LANES
    hidden = broadcast(-np.inf)
    for group in range(first, end):
        inner = group % groups_per_block
        place = group // groups_per_block * shape.block_size + inner * LANES
        count = min(LANES, shape.block_size - inner * LANES)
        for row in range(unit[END_ROW] - unit[FIRST_ROW]):
            position = before + (unit[FIRST_ROW] + row) // heads_per_kv_head
            at = row * CHUNK + (group - chunk) * LANES
            seen = first_lanes(load(scores, at), min(count, position + 1 - place), hidden)
            below = position + 1 - shape.window - place
            store(scores, at, first_lanes(hidden, below, seen))


@compiled
def _weigh(num_rows, first, end, scores, decays, states, state, size):
    """Scores of the groups from `first` to `end` become weights, relative to each row's largest
    score so far; what the states hold is scaled to it."""
    for row in range(num_rows):
        largest = broadcast(-np.inf)
        for group in range(first, end):
            largest = maximum(load(scores, row * CHUNK + group * LANES), largest)
        place = state + row * size + size - LANES
        before = states[place]
        after = max(before, largest_lane(largest))
        states[place] = after
        decays[row] = before - after
    for row in range(0, num_rows, LANES):
        store(decays, row, exp(load(decays, row)))
    for row in range(num_rows):
        place = state + row * size
        largest = broadcast(states[place + size - LANES])
        decay = broadcast(decays[row])
        for i in range(0, size - STATE_PADDING, LANES):
            store(states, place + i, load(states, place + i) * decay)
        total = load(states, place + size - STATE_PADDING) * decay
        for group in range(first, end):
            at = row * CHUNK + group * LANES
            weight = exp(load(scores, at) - largest)
            store(scores, at, weight)
            total = total + weight
        store(states, place + size - STATE_PADDING, total)


@compiled
def _join(states, state, other, num_rows, size):
    """The state of a later split joins that of earlier ones."""
    for row in range(num_rows):
        ours, theirs = state + row * size, other + row * size
        left, right = states[ours + size - LANES], states[theirs + size - LANES]
        largest = max(left, right)
        decay = exp(broadcast(left - largest))
        scale = exp(broadcast(right - largest))
        for i in range(0, size - LANES, LANES):
            joined = fma(load(states, theirs + i), scale, load(states, ours + i) * decay)
            store(states, ours + i, joined)
        states[ours + size - LANES] = largest


@compiled
def _write(unit, shape, query_start_loc, states, state, attended, attended_stride):
    """Weighted values over the sum of weights; zeros for a row that saw no key."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    size = row_size(shape)
    padded = size - STATE_PADDING
    for row in range(unit[END_ROW] - unit[FIRST_ROW]):
        token = query_start_loc[unit[SEQUENCE]] + (unit[FIRST_ROW] + row) // heads_per_kv_head
        head = unit[KV_HEAD] * heads_per_kv_head + (unit[FIRST_ROW] + row) % heads_per_kv_head
        source, target = state + row * size, token * attended_stride + head * padded
        total = sum_lanes(load(states, source + padded))
        inverse = broadcast(np.float32(1.0) / total if total > 0 else np.float32(0.0))
        for i in range(0, padded, LANES):
            # Plus zero: what underflowed to -0 is 0, whatever was added to it.
            mean = load(states, source + i) * inverse + broadcast(0.0)
            store(attended, target + i, mean)
