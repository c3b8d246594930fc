"""Attention of sequences' last tokens over a paged KV cache, of any length each (Triton, CUDA).

The tiles of all sequences form one grid without padding, as in variable-length FlashAttention-2
(Dao 2023); queries sit at the end of their context, so that a prompt may come in chunks. The
cache is paged as in PagedAttention (Kwon et al. 2023).
"""

# mypy: disable-error-code="untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.paged_softmax import LOG2_E, attend_to_keys


def paged_prefill_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    output: Tensor,
    *,
    scale: float,
    sliding_window: int | None = None,
    skip_decodes: bool = False,
) -> None:
    """Writes to `output` the rows of all sequences, or of those with more than one query token.

    query, output [num_tokens, num_heads, head_dim], head_dim contiguous; `output` contiguous;
    caches [num_blocks, block_size, num_kv_heads, head_dim]. A sequence with an empty context gets
    zeros. With `skip_decodes` the rows of sequences with one query token are left alone.
    """
    num_seqs = metadata.context_lens.shape[0]
    num_tokens, num_heads, head_dim = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    heads_per_kv_head = num_heads // num_kv_heads
    block_dim = max(16, triton.next_power_of_2(head_dim))
    max_rows, block_keys = _tile_sizes(block_dim, key_cache.element_size())
    rows = min(max_rows, triton.next_power_of_2(metadata.max_query_len * heads_per_kv_head))
    block_rows = max(16, rows, triton.next_power_of_2(heads_per_kv_head))
    # Each sequence wastes less than one tile.
    num_tiles = num_tokens // (block_rows // heads_per_kv_head) + num_seqs
    prefill_kernel[(num_tiles, num_kv_heads)](
        output,
        query,
        key_cache,
        value_cache,
        metadata.query_start_loc,
        metadata.context_lens,
        metadata.block_tables,
        num_seqs,
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
        SLIDING_WINDOW=sliding_window or 0,
        SKIP_DECODES=skip_decodes,
        BLOCK_ROWS=block_rows,
        BLOCK_DIM=block_dim,
        BLOCK_KEYS=block_keys,
        num_warps=8 if block_rows * block_dim >= 128 * 128 else 4,
        num_stages=2,
        enable_fp_fusion=True,
    )


def _tile_sizes(block_dim: int, element_size: int) -> tuple[int, int]:
    """Rows and keys of a tile, such that a Hopper GPU keeps it in registers (`docs/kernels.md`).

    A row is one query head of one token. Products of float32 are not for tensor cores, and their
    operands need registers too.
    """
    if element_size == 4:
        return max(16, 2048 // block_dim), 16
    return min(128, 16384 // block_dim), min(64, 8192 // block_dim)


def paged_prefill_attention_reference(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    metadata: AttentionMetadata,
    *,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """What `paged_prefill_attention` writes, in PyTorch and float32."""
    block_size, num_kv_heads = key_cache.shape[1:3]
    output = torch.zeros_like(query)
    starts = metadata.query_start_loc.tolist()
    for seq, context_len in enumerate(metadata.context_lens.tolist()):
        tokens = slice(starts[seq], starts[seq + 1])
        num_tokens = tokens.stop - tokens.start
        if num_tokens == 0 or context_len == 0:
            continue
        positions = torch.arange(context_len, device=query.device)
        blocks = metadata.block_tables[seq, positions // block_size].long()
        keys = key_cache[blocks, positions % block_size].float()
        values = value_cache[blocks, positions % block_size].float()
        heads = query[tokens].float().view(num_tokens, num_kv_heads, -1, query.shape[2])
        scores = torch.einsum("tkgd,nkd->kgtn", heads, keys) * scale
        own_positions = positions[context_len - num_tokens :, None]
        hidden = positions > own_positions
        if sliding_window is not None:
            hidden |= positions <= own_positions - sliding_window
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        attended = torch.einsum("kgtn,nkd->tkgd", weights, values)
        output[tokens] = attended.flatten(1, 2).to(query.dtype)
    return output


@triton.jit(do_not_specialize=["num_seqs", "table_stride"])
def prefill_kernel(
    output: tl.tensor,
    query: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    query_start_loc: tl.tensor,
    context_lens: tl.tensor,
    block_tables: tl.tensor,
    num_seqs: tl.tensor,
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
    SKIP_DECODES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
) -> None:
    """One program per (tile of query tokens, KV head).

    A row is one query head of one token; the heads that share the keys stand side by side.
    """
    TOKENS: tl.constexpr = BLOCK_ROWS // HEADS_PER_KV_HEAD
    kv_head = tl.program_id(1)
    seq = _find_sequence(tl.program_id(0), query_start_loc, num_seqs, TOKENS)
    query_start = tl.load(query_start_loc + seq)
    query_len = tl.load(query_start_loc + seq + 1) - query_start
    first_token = (tl.program_id(0) - _first_tile(query_start, seq, TOKENS)) * TOKENS
    if first_token >= query_len:
        return
    if SKIP_DECODES:
        if query_len == 1:
            return

    rows = tl.arange(0, BLOCK_ROWS)
    dims = tl.arange(0, BLOCK_DIM)
    tokens = first_token + rows // HEADS_PER_KV_HEAD
    heads = kv_head * HEADS_PER_KV_HEAD + rows % HEADS_PER_KV_HEAD
    # If the heads are not a power of two, the last rows belong to the next tile.
    row_mask = (tokens < query_len) & (rows < TOKENS * HEADS_PER_KV_HEAD)
    mask = row_mask[:, None] & (dims < HEAD_DIM)[None, :]
    step_tokens = (query_start + tokens).to(tl.int64)
    query_tile = tl.load(
        query
        + step_tokens[:, None] * query_stride_token
        + heads[:, None] * query_stride_head
        + dims[None, :],
        mask=mask,
        other=0.0,
    )

    context_len = tl.load(context_lens + seq)
    first_position = context_len - query_len + first_token
    stop_key = tl.minimum(first_position + TOKENS, context_len)
    if SLIDING_WINDOW > 0:
        first_key = tl.maximum(first_position - SLIDING_WINDOW + 1, 0)
        first_masked_key = first_key
    else:
        first_key = 0
        first_masked_key = tl.maximum(first_position + 1, 0) // BLOCK_KEYS * BLOCK_KEYS
    accumulator, _, row_sum = attend_to_keys(
        query_tile,
        context_len - query_len + tokens,
        first_key,
        first_masked_key,
        stop_key,
        key_cache + kv_head * cache_stride_head,
        value_cache + kv_head * cache_stride_head,
        block_tables + seq.to(tl.int64) * table_stride,
        cache_stride_block,
        cache_stride_slot,
        scale_log2,
        HEAD_DIM,
        BLOCK_SIZE,
        SLIDING_WINDOW,
        BLOCK_KEYS,
    )
    # Only an empty context leaves a sum of zero in a row that counts.
    result = accumulator / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    num_heads: tl.constexpr = NUM_KV_HEADS * HEADS_PER_KV_HEAD
    place = output + (step_tokens[:, None] * num_heads + heads[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(place, result.to(output.dtype.element_ty), mask=mask)


@triton.jit
def _find_sequence(
    tile: tl.tensor, query_start_loc: tl.tensor, num_seqs: tl.tensor, TOKENS: tl.constexpr
) -> tl.tensor:
    """The last sequence whose first tile is not after `tile`, by bisection."""
    low = tl.full((), 0, tl.int32)
    high = num_seqs - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _first_tile(tl.load(query_start_loc + middle), middle, TOKENS) <= tile:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _first_tile(query_start: tl.tensor, seq: tl.tensor, TOKENS: tl.constexpr) -> tl.tensor:
    """Where a sequence's tiles begin in the grid: room for one tile that is not full, each."""
    return query_start // TOKENS + seq
