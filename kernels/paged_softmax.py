"""The inner loop of both attention kernels: a tile of queries over a range of keys (Triton, CUDA).

The softmax runs along (Milakov and Gimelshein 2018): what was summed so far is rescaled whenever
a larger score turns up, as in FlashAttention-2 (Dao 2023). Sums and exponentials are float32.
"""

# mypy: disable-error-code="untyped-decorator"

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
"""Scores are scaled by this too, because the hardware's exponential has base two."""


@triton.jit
def attend_to_keys(
    query: tl.tensor,
    row_positions: tl.tensor,
    first_key: tl.tensor,
    first_masked_key: tl.tensor,
    stop_key: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    block_table: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_slot: tl.tensor,
    scale_log2: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SLIDING_WINDOW: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> tl.tensor:
    """Attends from each row of `query` to the keys at positions [first_key, stop_key).

    query [rows, dims], zero beyond HEAD_DIM; row_positions [rows]. The caches point to the KV
    head, the block table to the sequence. Every row sees every key before `first_masked_key`,
    which is a multiple of BLOCK_KEYS away from `first_key`. From there on a row sees the keys up
    to its own position, within SLIDING_WINDOW unless that is 0.

    Returns the weighted sum of the values [rows, dims], and for each row the maximum of its scores
    in base two and the sum of its weights. All are float32. A row that sees no key: 0, -inf, 0.
    """
    accumulator = tl.zeros(query.shape, tl.float32)
    row_max = tl.full([query.shape[0]], float("-inf"), tl.float32)
    row_sum = tl.zeros([query.shape[0]], tl.float32)
    for first in range(first_key, first_masked_key, BLOCK_KEYS):
        accumulator, row_max, row_sum = _attend_to_tile(
            accumulator,
            row_max,
            row_sum,
            query,
            row_positions,
            first,
            stop_key,
            key_cache,
            value_cache,
            block_table,
            cache_stride_block,
            cache_stride_slot,
            scale_log2,
            HEAD_DIM,
            BLOCK_SIZE,
            SLIDING_WINDOW,
            BLOCK_KEYS,
            MASKED=False,
        )
    for first in range(first_masked_key, stop_key, BLOCK_KEYS):
        accumulator, row_max, row_sum = _attend_to_tile(
            accumulator,
            row_max,
            row_sum,
            query,
            row_positions,
            first,
            stop_key,
            key_cache,
            value_cache,
            block_table,
            cache_stride_block,
            cache_stride_slot,
            scale_log2,
            HEAD_DIM,
            BLOCK_SIZE,
            SLIDING_WINDOW,
            BLOCK_KEYS,
            MASKED=True,
        )
    return accumulator, row_max, row_sum


@triton.jit
def _attend_to_tile(
    accumulator: tl.tensor,
    row_max: tl.tensor,
    row_sum: tl.tensor,
    query: tl.tensor,
    row_positions: tl.tensor,
    first: tl.tensor,
    stop_key: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    block_table: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_slot: tl.tensor,
    scale_log2: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SLIDING_WINDOW: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Adds BLOCK_KEYS keys to the running softmax."""
    dims = tl.arange(0, query.shape[1])
    positions = first + tl.arange(0, BLOCK_KEYS)
    key_mask = (dims < HEAD_DIM)[:, None]
    value_mask = (dims < HEAD_DIM)[None, :]
    in_range = positions < stop_key
    if MASKED:
        # What lies beyond the context is never read: it may be a NaN, and the table end before.
        key_mask = key_mask & in_range[None, :]
        value_mask = value_mask & in_range[:, None]
        blocks = tl.load(block_table + positions // BLOCK_SIZE, mask=in_range, other=0)
    else:
        blocks = tl.load(block_table + positions // BLOCK_SIZE)
    slots = blocks.to(tl.int64) * cache_stride_block + (positions % BLOCK_SIZE) * cache_stride_slot
    # [dims, BLOCK_KEYS]
    keys = tl.load(key_cache + slots[None, :] + dims[:, None], mask=key_mask, other=0.0)
    # [rows, BLOCK_KEYS]
    scores = tl.dot(query, keys, input_precision="ieee") * scale_log2
    if MASKED:
        visible = in_range[None, :] & (positions[None, :] <= row_positions[:, None])
        if SLIDING_WINDOW > 0:
            visible = visible & (positions[None, :] > row_positions[:, None] - SLIDING_WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is a NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores - base[:, None])
    rescale = tl.exp2(row_max - base)
    # [BLOCK_KEYS, dims]
    values = tl.load(value_cache + slots[:, None] + dims[None, :], mask=value_mask, other=0.0)
    accumulator = tl.dot(
        weights.to(values.dtype), values, accumulator * rescale[:, None], input_precision="ieee"
    )
    return accumulator, new_max, row_sum * rescale + tl.sum(weights, 1)
