"""Causal attention over a paged cache: grouped queries, sliding windows, no copy of the context.

The softmax is computed along the keys in chunks (Milakov and Gimelshein, 2018), whose limits count
from position 0, as do the splits that chunks are gathered into. What a row cannot see has weight
0, so a row's result is the same bits alone and among others, in a prefill and in a decode.

A row's *state* is [row_size] float32: its weighted values [head_dim padded to 16], the sums of its
weights in 16 lanes, its largest score, and padding.
"""

import numpy as np

from tokenreel.kernels.cpu.attention_plan import (
    SPLIT,
    STATE_PADDING,
    TILE_ROWS,
    load_unit,
    row_size,
    visible_groups,
)
from tokenreel.kernels.cpu.attention_products import CHUNK, TALL, add_values, score
from tokenreel.kernels.cpu.compiler import inlined, part
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    exp,
    first_lanes,
    fma,
    largest_lane,
    load,
    maximum,
    store,
    store_apart,
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


@part
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
    padded, size = key_cache.shape[2], row_size(shape)
    scores = scratch[TILE_ROWS * padded :]
    decays = scores[TILE_ROWS * CHUNK :]
    own = decays[TILE_ROWS:]
    for index in range(plan.items[item], plan.items[item + 1]):
        unit = load_unit(plan.units, index)
        num_rows = unit.end_row - unit.first_row
        first_token = query_start_loc[unit.sequence]
        num_tokens = query_start_loc[unit.sequence + 1] - first_token
        context_len = context_lens[unit.sequence]
        first, end = visible_groups(shape, num_tokens, context_len, unit.first_row, unit.end_row)
        _take_queries(unit, shape, first_token, qkv, padded, scratch)
        if end == 0:
            _begin(own, 0, num_rows, size)
        for split in range(unit.first_split, unit.end_split):
            states, state = own, 0
            if unit.partial >= 0:
                states = plan.partials
                state = unit.partial + (split - unit.first_split) * num_rows * size
            elif split > unit.first_split:
                state = TILE_ROWS * size
            _begin(states, state, num_rows, size)
            for chunk in range(split * SPLIT, min(end, (split + 1) * SPLIT), _GROUPS):
                if chunk + _GROUPS > first:
                    _attend_chunk(
                        unit,
                        shape,
                        context_len - num_tokens,
                        block_tables,
                        key_cache,
                        value_cache,
                        chunk,
                        max(chunk, first),
                        min(chunk + _GROUPS, end),
                        scratch,
                        scores,
                        decays,
                        states,
                        state,
                    )
            if unit.partial < 0 and split > unit.first_split:
                _join(own, 0, state, num_rows, size)
        if unit.partial < 0:
            _write(unit, shape, first_token, own, 0, attended, attended_stride)


@part
def attention_merge(merge, shape, plan, query_start_loc, attended, attended_stride):
    """Joins and writes the results of splits that were computed apart: merge `merge` of the
    `plan.counts[1]`, once all items of the layer are done, and before the next layer's."""
    unit = load_unit(plan.merges, merge)
    num_rows, size = unit.end_row - unit.first_row, row_size(shape)
    for split in range(1, unit.end_split - unit.first_split):
        other = unit.partial + split * num_rows * size
        _join(plan.partials, unit.partial, other, num_rows, size)
    first_token = query_start_loc[unit.sequence]
    _write(unit, shape, first_token, plan.partials, unit.partial, attended, attended_stride)


@inlined
def _take_queries(unit, shape, first_token, qkv, padded, queries):
    """-> queries [rows / TALL, padded, TALL], times the scale."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    scale = broadcast(np.float32(shape.scale))
    row_stride = (shape.num_heads + 2 * shape.num_kv_heads) * padded
    token, head = divmod(unit.first_row, heads_per_kv_head)
    for row in range(unit.end_row - unit.first_row):
        source = (first_token + token) * row_stride
        source += (unit.kv_head * heads_per_kv_head + head) * padded
        target = row // TALL * padded * TALL + row % TALL
        for i in range(0, padded, LANES):
            store_apart(queries, target + i * TALL, TALL, load(qkv, source + i) * scale)
        head += 1
        if head == heads_per_kv_head:
            token, head = token + 1, 0


@inlined
def _begin(states, state, num_rows, size):
    """The state of rows that have seen no key."""
    for place in range(state, state + num_rows * size, size):
        for i in range(0, size - LANES, LANES):
            store(states, place + i, broadcast(0.0))
        states[place + size - LANES] = LOWEST


@inlined
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
    num_rows, size = unit.end_row - unit.first_row, row_size(shape)
    padded, padded_block = key_cache.shape[2:]
    for pair in range(first // 2 * 2, end, 2):
        left, left_slot = _page(unit, block_tables, key_cache, max(pair, first))
        right, right_slot = _page(unit, block_tables, key_cache, min(pair + 1, end - 1))
        score(
            num_rows,
            queries,
            shape.head_dim,
            key_cache,
            left + left_slot,
            right + right_slot,
            padded_block,
            scores,
            (pair - chunk) * LANES,
        )
    low, last = _hide_unseen(unit, shape, before, chunk, first, end, scores)
    _weigh(num_rows, first - chunk, end - chunk, scores, decays, states, state, size)
    for group in range(first, end):
        page, slot = _page(unit, block_tables, key_cache, group)
        position, count = _slots(shape, group)
        # What nobody sees may be anything, and NaN times a weight of 0 is NaN.
        begin, stop = max(0, low - position), min(count, last + 1 - position)
        add_values(
            num_rows,
            padded // LANES,
            scores,
            (group - chunk) * LANES + begin,
            value_cache,
            page + (slot + begin) * padded,
            stop - begin,
            states,
            state,
            size,
        )


@inlined
def _page(unit, block_tables, key_cache, group):
    """Where in a cache the unit's head of a group's block begins, and the group's slot in it."""
    num_kv_heads, padded, padded_block = key_cache.shape[1:]
    block, inner = divmod(group, padded_block // LANES)
    head = block_tables[unit.sequence, block] * num_kv_heads + unit.kv_head
    return head * padded * padded_block, inner * LANES


@inlined
def _slots(shape, group):
    """The position of a group's first slot, and how many slots it has."""
    block, inner = divmod(group, (shape.block_size + LANES - 1) // LANES)
    return block * shape.block_size + inner * LANES, min(LANES, shape.block_size - inner * LANES)


@inlined
def _hide_unseen(unit, shape, before, chunk, first, end, scores):
    """Hides each row's unseen slots. Returns the first and the last position that a row sees."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    start = before + unit.first_row // heads_per_kv_head
    last = before + (unit.end_row - 1) // heads_per_kv_head
    for group in range(first, end):
        position, count = _slots(shape, group)
        if count < LANES or position + LANES > start + 1 or position <= last - shape.window:
            _hide(unit, shape, before - position, count, scores, (group - chunk) * LANES)
    return max(0, start + 1 - shape.window), last


@inlined
def _hide(unit, shape, before, count, scores, column):
    """Scores of a group's slots that a row cannot see become -inf. Of the slots the first `count`
    are used; `before`: from the first slot's position to that of the step's first token."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    hidden = broadcast(-np.inf)
    token, head = divmod(unit.first_row, heads_per_kv_head)
    for row in range(unit.end_row - unit.first_row):
        at = row * CHUNK + column
        end = before + token + 1
        seen = first_lanes(load(scores, at), min(count, end), hidden)
        store(scores, at, first_lanes(hidden, end - shape.window, seen))
        head += 1
        if head == heads_per_kv_head:
            token, head = token + 1, 0


@inlined
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


@inlined
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


@inlined
def _write(unit, shape, first_token, states, state, attended, attended_stride):
    """Weighted values over the sum of weights; zeros for a row that saw no key."""
    heads_per_kv_head = shape.num_heads // shape.num_kv_heads
    size = row_size(shape)
    padded = size - STATE_PADDING
    token, head = divmod(unit.first_row, heads_per_kv_head)
    for row in range(unit.end_row - unit.first_row):
        source = state + row * size
        target = (first_token + token) * attended_stride
        target += (unit.kv_head * heads_per_kv_head + head) * padded
        total = sum_lanes(load(states, source + padded))
        inverse = broadcast(np.float32(1.0) / total if total > 0 else np.float32(0.0))
        for i in range(0, padded, LANES):
            # Plus zero: what underflowed to -0 is 0, whatever was added to it.
            mean = load(states, source + i) * inverse + broadcast(0.0)
            store(attended, target + i, mean)
        head += 1
        if head == heads_per_kv_head:
            token, head = token + 1, 0
