"""Stores a step's keys and values in the slots of a paged KV cache (Triton, CUDA)."""

# mypy: disable-error-code="untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor


def store_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Writes token i of `key` and `value` to slot `slot_mapping[i]`, unless that is negative.

    key, value [num_tokens, num_kv_heads, head_dim], head_dim contiguous; caches [num_blocks,
    block_size, num_kv_heads, head_dim], contiguous; slot_mapping [num_tokens] int64.
    """
    num_tokens, num_kv_heads, head_dim = key.shape
    if num_tokens == 0:
        return
    row_block = triton.next_power_of_2(num_kv_heads * head_dim)
    store_kv_kernel[(num_tokens,)](
        key,
        value,
        key_cache,
        value_cache,
        slot_mapping,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        ROW_BLOCK=row_block,
        num_warps=min(8, max(1, row_block // 256)),
        enable_fp_fusion=True,
    )


def store_kv_reference(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """What `store_kv` does, in PyTorch."""
    kept = slot_mapping >= 0
    key_cache.view(-1, *key.shape[1:])[slot_mapping[kept]] = key[kept]
    value_cache.view(-1, *value.shape[1:])[slot_mapping[kept]] = value[kept]


@triton.jit
def store_kv_kernel(
    key: tl.tensor,
    value: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    slot_mapping: tl.tensor,
    key_stride_token: tl.tensor,
    key_stride_head: tl.tensor,
    value_stride_token: tl.tensor,
    value_stride_head: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
) -> None:
    """One program per token: it copies one row of each cache."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping + token).to(tl.int64)
    if slot < 0:
        return
    row: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    offsets = tl.arange(0, ROW_BLOCK)
    heads = offsets // HEAD_DIM
    dims = offsets % HEAD_DIM
    mask = offsets < row
    key_row = key + token * key_stride_token + heads * key_stride_head + dims
    value_row = value + token * value_stride_token + heads * value_stride_head + dims
    tl.store(key_cache + slot * row + offsets, tl.load(key_row, mask=mask), mask=mask)
    tl.store(value_cache + slot * row + offsets, tl.load(value_row, mask=mask), mask=mask)
