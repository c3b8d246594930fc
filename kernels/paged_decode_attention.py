"""Attention of one query token per sequence over a paged KV cache (Triton, CUDA).

Split-KV, as in Flash-Decoding (Dao, Haziza, Massa and Sizov 2023): a sequence's context is cut
into splits that run side by side, and a second kernel merges what they found. Without it a small
batch would leave most of a GPU idle. The cache is paged as in PagedAttention (Kwon et al. 2023).
"""

# mypy: disable-error-code="untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.paged_softmax import LOG2_E, attend_to_keys

MIN_KEYS_PER_SPLIT = 128
MAX_SPLITS = 64
TILE_BYTES = 16 << 10
"""One tile of keys, of which three are on their way or in use."""


def paged_decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    output: Tensor,
    *,
    scale: float,
    sliding_window: int | None = None,
    num_splits: int,
) -> None:
    """Writes to `output` the rows of those sequences that have exactly one query token.

    query, output [num_tokens, num_heads, head_dim], head_dim contiguous; `output` contiguous;
    caches [num_blocks, block_size, num_kv_heads, head_dim]. A sequence with an empty context gets
    zeros. `num_splits` is a power of two, at most MAX_SPLITS (`choose_num_splits`).
    """
    num_seqs = metadata.context_lens.shape[0]
    num_heads, head_dim = query.shape[1:]
    block_size, num_kv_heads = key_cache.shape[1:3]
    heads_per_kv_head = num_heads // num_kv_heads
    window = sliding_window or 0
    block_dim = max(16, triton.next_power_of_2(head_dim))
    element_size = key_cache.element_size()
    # Products of float32 are not for tensor cores, and their operands need registers too.
    max_block_keys, num_warps = (32, 8) if element_size == 4 else (128, 4)
    block_keys = min(max_block_keys, max(16, TILE_BYTES // (block_dim * element_size)))
    if num_splits == 1:
        partial_output = partial_lse = output
    else:
        shape = (num_seqs, num_heads, num_splits)
        partial_output = query.new_empty((*shape, head_dim), dtype=torch.float32)
        partial_lse = query.new_empty(shape, dtype=torch.float32)
    decode_split_kernel[(num_seqs, num_kv_heads, num_splits)](
        output,
        partial_output,
        partial_lse,
        query,
        key_cache,
        value_cache,
        metadata.query_start_loc,
        metadata.context_lens,
        metadata.block_tables,
        scale * LOG2_E,
        query.stride(0),
        query.stride(1),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        metadata.block_tables.stride(0),
        NUM_KV_HEADS=num_kv_heads,
        HEADS_PER_KV_HEAD=heads_per_kv_head,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        SLIDING_WINDOW=window,
        NUM_SPLITS=num_splits,
        BLOCK_HEADS=max(16, triton.next_power_of_2(heads_per_kv_head)),
        BLOCK_DIM=block_dim,
        BLOCK_KEYS=block_keys,
        num_warps=num_warps,
        num_stages=3,
        enable_fp_fusion=True,
    )
    if num_splits > 1:
        merge_splits_kernel[(num_seqs, num_heads)](
            output,
            partial_output,
            partial_lse,
            metadata.query_start_loc,
            metadata.context_lens,
            HEAD_DIM=head_dim,
            SLIDING_WINDOW=window,
            NUM_SPLITS=num_splits,
            BLOCK_DIM=block_dim,
            BLOCK_KEYS=block_keys,
            num_warps=4,
            enable_fp_fusion=True,
        )


def choose_num_splits(
    num_seqs: int, num_kv_heads: int, max_context_len: int, num_multiprocessors: int
) -> int:
    """As many splits as give every multiprocessor two programs, if contexts are long enough.

    A power of two: each number is a kernel of its own to compile.
    """
    wanted = triton.cdiv(2 * num_multiprocessors, max(1, num_seqs * num_kv_heads))
    useful = max(1, max_context_len // MIN_KEYS_PER_SPLIT)
    return int(triton.next_power_of_2(min(wanted, useful, MAX_SPLITS)))


def paged_decode_attention_reference(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    *,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """What `paged_decode_attention` writes, in PyTorch and float32, if every query is one token."""
    block_size, num_kv_heads = key_cache.shape[1:3]
    output = torch.zeros_like(query)
    for seq, context_len in enumerate(metadata.context_lens.tolist()):
        if context_len == 0:
            continue
        first = max(0, context_len - sliding_window) if sliding_window is not None else 0
        positions = torch.arange(first, context_len, device=query.device)
        blocks = metadata.block_tables[seq, positions // block_size].long()
        keys = key_cache[blocks, positions % block_size].float()
        values = value_cache[blocks, positions % block_size].float()
        heads = query[seq].float().view(num_kv_heads, -1, query.shape[2])
        scores = torch.einsum("kgd,nkd->kgn", heads, keys) * scale
        attended = torch.einsum("kgn,nkd->kgd", scores.softmax(-1), values)
        output[seq] = attended.flatten(0, 1).to(query.dtype)
    return output


@triton.jit(do_not_specialize=["table_stride"])
def decode_split_kernel(
    output: tl.tensor,
    partial_output: tl.tensor,
    partial_lse: tl.tensor,
    query: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    query_start_loc: tl.tensor,
    context_lens: tl.tensor,
    block_tables: tl.tensor,
    scale_log2: tl.tensor,
    query_stride_token: tl.tensor,
    query_stride_head: tl.tensor,
    cache_stride_block: tl.tensor,
    cache_stride_slot: tl.tensor,
    cache_stride_head: tl.tensor,
    table_stride: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    HEADS_PER_KV_HEAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SLIDING_WINDOW: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    """One program per (sequence, KV head, split): the query heads that share keys load them once.

    With one split it writes to `output`; otherwise a normalized result and the base-two logarithm
    of its weight to `partial_output` [num_seqs, num_heads, NUM_SPLITS, HEAD_DIM] and `partial_lse`.
    """
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    token = tl.load(query_start_loc + seq).to(tl.int64)
    if tl.load(query_start_loc + seq + 1) - token != 1:
        return
    context_len = tl.load(context_lens + seq)
    window_start, keys_per_split = _split_size(context_len, SLIDING_WINDOW, NUM_SPLITS, BLOCK_KEYS)
    first_key = window_start + split * keys_per_split
    stop_key = tl.minimum(first_key + keys_per_split, context_len)
    if NUM_SPLITS > 1:
        if first_key >= stop_key:
            return

    rows = tl.arange(0, BLOCK_HEADS)
    dims = tl.arange(0, BLOCK_DIM)
    heads = kv_head * HEADS_PER_KV_HEAD + rows
    row_mask = rows < HEADS_PER_KV_HEAD
    mask = row_mask[:, None] & (dims < HEAD_DIM)[None, :]
    query_tile = tl.load(
        query + token * query_stride_token + heads[:, None] * query_stride_head + dims[None, :],
        mask=mask,
        other=0.0,
    )
    num_full_tiles = (stop_key - first_key) // BLOCK_KEYS
    accumulator, row_max, row_sum = attend_to_keys(
        query_tile,
        tl.zeros([BLOCK_HEADS], tl.int32) + (context_len - 1),
        first_key,
        first_key + num_full_tiles * BLOCK_KEYS,
        stop_key,
        key_cache + kv_head * cache_stride_head,
        value_cache + kv_head * cache_stride_head,
        block_tables + seq * table_stride,
        cache_stride_block,
        cache_stride_slot,
        scale_log2,
        HEAD_DIM,
        BLOCK_SIZE,
        0,  # The range is the window.
        BLOCK_KEYS,
    )
    # Only an empty context leaves a sum of zero.
    result = accumulator / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    num_heads: tl.constexpr = NUM_KV_HEADS * HEADS_PER_KV_HEAD
    if NUM_SPLITS == 1:
        place = output + (token * num_heads + heads[:, None]) * HEAD_DIM + dims[None, :]
        tl.store(place, result.to(output.dtype.element_ty), mask=mask)
    else:
        partial = (seq * num_heads + heads) * NUM_SPLITS + split
        tl.store(partial_output + partial[:, None] * HEAD_DIM + dims[None, :], result, mask=mask)
        tl.store(partial_lse + partial, row_max + tl.log2(row_sum), mask=row_mask)


@triton.jit
def merge_splits_kernel(
    output: tl.tensor,
    partial_output: tl.tensor,
    partial_lse: tl.tensor,
    query_start_loc: tl.tensor,
    context_lens: tl.tensor,
    HEAD_DIM: tl.constexpr,
    SLIDING_WINDOW: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    """One program per (sequence, query head): the mean of the splits, by weight."""
    seq = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    token = tl.load(query_start_loc + seq).to(tl.int64)
    if tl.load(query_start_loc + seq + 1) - token != 1:
        return
    context_len = tl.load(context_lens + seq)
    window_start, keys_per_split = _split_size(context_len, SLIDING_WINDOW, NUM_SPLITS, BLOCK_KEYS)
    splits = tl.arange(0, NUM_SPLITS)
    dims = tl.arange(0, BLOCK_DIM)
    # The others returned without a result.
    present = window_start + splits * keys_per_split < context_len
    partial = (seq * num_heads + head) * NUM_SPLITS + splits
    lse = tl.load(partial_lse + partial, mask=present, other=float("-inf"))
    largest = tl.max(lse, 0)
    weights = tl.exp2(lse - tl.where(largest == float("-inf"), 0.0, largest))
    total = tl.sum(weights, 0)
    results = tl.load(
        partial_output + partial[:, None] * HEAD_DIM + dims[None, :],
        mask=present[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    merged = tl.sum(results * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    place = output + (token * num_heads + head) * HEAD_DIM + dims
    tl.store(place, merged.to(output.dtype.element_ty), mask=dims < HEAD_DIM)


@triton.jit
def _split_size(
    context_len: tl.tensor,
    SLIDING_WINDOW: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> tl.tensor:
    """The first key that the last token sees, and how many keys a split takes.

    Both kernels ask, so that they agree which splits are empty.
    """
    window_start = 0
    if SLIDING_WINDOW > 0:
        window_start = tl.maximum(context_len - SLIDING_WINDOW, 0)
    num_tiles = tl.cdiv(context_len - window_start, BLOCK_KEYS)
    return window_start, tl.cdiv(num_tiles, NUM_SPLITS) * BLOCK_KEYS
