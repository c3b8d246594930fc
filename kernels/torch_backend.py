"""Paged attention on a CPU, from PyTorch operations. It may not import triton.

Each layer gathers the contexts of a group of sequences into a dense batch and runs PyTorch's fused
attention on it. What to gather is planned once per step (`sequence_groups`).
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.sequence_groups import SequenceGroup, plan_groups


class TorchBackend:
    """Implements `backend.Backend` on a CPU. For one thread at a time: it reuses a workspace."""

    name = "torch"

    def __init__(self) -> None:
        self._workspace = torch.empty(0)

    def store_kv(
        self,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor,
    ) -> None:
        if slot_mapping.numel() == 0:
            return
        if int(slot_mapping.min()) < 0:
            kept = slot_mapping >= 0
            key, value, slot_mapping = key[kept], value[kept], slot_mapping[kept]
        key_cache.view(-1, *key.shape[1:]).index_copy_(0, slot_mapping, key)
        value_cache.view(-1, *value.shape[1:]).index_copy_(0, slot_mapping, value)

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        metadata: AttentionMetadata,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        block_size, num_kv_heads, head_dim = key_cache.shape[1:]
        plan = plan_groups(
            metadata,
            block_size=block_size,
            kv_bytes_per_token=2 * num_kv_heads * head_dim * key_cache.element_size(),
            sliding_window=sliding_window,
            dtype=query.dtype,
        )
        # Both views separate the KV head from the query heads that share it.
        grouped = (num_kv_heads, query.shape[1] // num_kv_heads, head_dim)
        query = query.view(query.shape[0], *grouped)
        output = query.new_empty(query.shape[0], *grouped)
        for tokens in plan.padding:
            output[tokens] = 0
        for group in plan.groups:
            keys, values = self._gather(key_cache, value_cache, group)
            attend = _attend_one_token if group.query_len == 1 else _attend_many_tokens
            if isinstance(group.tokens, slice):
                output[group.tokens] = attend(query[group.tokens], keys, values, group, scale)
            else:
                gathered = query.index_select(0, group.tokens)
                output.index_copy_(
                    0, group.tokens, attend(gathered, keys, values, group, scale).contiguous()
                )
        return output.flatten(1, 2)

    def _gather(
        self, key_cache: Tensor, value_cache: Tensor, group: SequenceGroup
    ) -> tuple[Tensor, Tensor]:
        """The group's keys and values, each [num_seqs, key_len, num_kv_heads, head_dim].

        They lie in a workspace that the next gather overwrites: fresh memory of this size would
        come from the system, page by page, in every layer.
        """
        row_size = key_cache.shape[2] * key_cache.shape[3]
        num_rows = group.slots.numel()
        size = num_rows * row_size
        workspace = self._workspace
        if workspace.numel() < 2 * size or workspace.dtype != key_cache.dtype:
            workspace = self._workspace = key_cache.new_empty(2 * size)
        shape = (group.num_seqs, group.key_len, *key_cache.shape[2:])
        rows = []
        for cache, start in ((key_cache, 0), (value_cache, size)):
            out = workspace[start : start + size].view(num_rows, row_size)
            torch.index_select(cache.view(-1, row_size), 0, group.slots, out=out)
            rows.append(out.view(shape))
        return rows[0], rows[1]


def _attend_one_token(
    query: Tensor, keys: Tensor, values: Tensor, group: SequenceGroup, scale: float
) -> Tensor:
    """Decode: the heads that share a KV head stand where the tokens of a longer query would.

    query [num_seqs, num_kv_heads, heads_per_kv_head, head_dim]; returns the same shape.
    """
    return scaled_dot_product_attention(
        query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=group.mask, scale=scale
    )


def _attend_many_tokens(
    query: Tensor, keys: Tensor, values: Tensor, group: SequenceGroup, scale: float
) -> Tensor:
    """Prefill of one sequence: KV heads stand where a batch would, so that keys are not repeated.

    query [query_len, num_kv_heads, heads_per_kv_head, head_dim]; returns the same shape.
    """
    heads_per_kv_head = query.shape[2]
    # [1, key_len, num_kv_heads, head_dim] -> [num_kv_heads, heads_per_kv_head, key_len, head_dim]
    keys = keys.permute(2, 0, 1, 3).expand(-1, heads_per_kv_head, -1, -1)
    values = values.permute(2, 0, 1, 3).expand(-1, heads_per_kv_head, -1, -1)
    output = scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),
        keys,
        values,
        attn_mask=group.mask,
        is_causal=group.is_causal,
        scale=scale,
    )
    return output.permute(2, 0, 1, 3)
