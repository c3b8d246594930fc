"""Paged attention on a CPU, from PyTorch operations: the reference. It may not import triton.

A layer gathers the contexts of one group of sequences at a time into a dense batch and runs
PyTorch's fused attention on it. The groups are planned once per step (`sequence_groups`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.sequence_groups import Plan, SequenceGroup, plan_groups


class TorchBackend:
    """Implements `backend.Backend` on a CPU. For one thread at a time: it reuses a workspace."""

    name = "torch"

    def __init__(self) -> None:
        # What is gathered, group after group: fresh memory of this size would come from the
        # system page by page, in every layer.
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
        plan, batches = self._prepare(query, key_cache, metadata, sliding_window)
        if plan.order is not None:
            query = query.index_select(0, plan.order)
        num_tokens, num_heads, head_dim = query.shape
        num_kv_heads = key_cache.shape[2]
        # A dimension for the KV heads, one for the query heads that share each of them.
        query = query.view(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
        output = query.new_empty(query.shape)
        key_rows = key_cache.view(-1, num_kv_heads * head_dim)
        value_rows = value_cache.view(-1, num_kv_heads * head_dim)
        for group, views in batches:
            torch.index_select(key_rows, 0, group.slots, out=views.key_rows)
            torch.index_select(value_rows, 0, group.slots, out=views.value_rows)
            attended = scaled_dot_product_attention(
                query[group.tokens].permute(views.permutation),
                views.keys,
                views.values,
                attn_mask=group.mask,
                is_causal=group.is_causal,
                scale=scale,
            )
            output[group.tokens] = attended.permute(views.inverse)
        if plan.num_grouped_tokens < num_tokens:
            output[plan.num_grouped_tokens :] = 0
        if plan.inverse is not None:
            output = output.index_select(0, plan.inverse)
        return output.view(num_tokens, num_heads, head_dim)

    def _prepare(
        self,
        query: Tensor,
        key_cache: Tensor,
        metadata: AttentionMetadata,
        sliding_window: int | None,
    ) -> "_Prepared":
        """The step's plan and each group's part of the workspace, made for the first layer."""
        num_heads, cache_shape = query.shape[1], key_cache.shape[1:]
        derived = (num_heads, cache_shape, query.dtype, sliding_window)
        prepared: tuple[Plan, list[tuple[SequenceGroup, _Views]]] | None = metadata.derived.get(
            derived
        )
        if prepared is None:
            block_size, num_kv_heads, head_dim = cache_shape
            plan = plan_groups(
                metadata,
                block_size=block_size,
                kv_bytes_per_token=2 * num_kv_heads * head_dim * key_cache.element_size(),
                sliding_window=sliding_window,
                dtype=query.dtype,
            )
            views: dict[tuple[bool, int, int], _Views] = {}
            batches = []
            for group in plan.groups:
                # Most groups of a step have the same shape, and views are not free.
                key = (group.one_token_each, group.num_seqs, group.key_len)
                if key not in views:
                    views[key] = self._views(group, key_cache, num_heads // num_kv_heads)
                batches.append((group, views[key]))
            prepared = metadata.derived[derived] = plan, batches
        return prepared

    def _views(self, group: SequenceGroup, key_cache: Tensor, heads_per_kv_head: int) -> "_Views":
        num_rows = group.slots.numel()
        num_kv_heads, head_dim = key_cache.shape[2:]
        size = num_rows * num_kv_heads * head_dim
        if self._workspace.numel() < 2 * size or self._workspace.dtype != key_cache.dtype:
            self._workspace = key_cache.new_empty(2 * size)
        key_rows = self._workspace[:size].view(num_rows, num_kv_heads * head_dim)
        value_rows = self._workspace[size : 2 * size].view(num_rows, num_kv_heads * head_dim)
        if group.one_token_each:
            shape = (group.num_seqs, group.key_len, num_kv_heads, head_dim)
            keys = key_rows.view(shape).transpose(1, 2)
            values = value_rows.view(shape).transpose(1, 2)
            return _Views(key_rows, value_rows, keys, values, (0, 1, 2, 3), (0, 1, 2, 3))
        shape = (group.key_len, num_kv_heads, 1, head_dim)
        repeats = (-1, heads_per_kv_head, -1, -1)
        keys = key_rows.view(shape).permute(1, 2, 0, 3).expand(repeats)
        values = value_rows.view(shape).permute(1, 2, 0, 3).expand(repeats)
        return _Views(key_rows, value_rows, keys, values, (1, 2, 0, 3), (2, 0, 1, 3))


class _Views(NamedTuple):
    """The workspace as one group's gather writes it, and as attention reads it.

    One token each: the sequences are the batch, and the query heads that share a KV head stand
    where the tokens of a longer query would. One sequence: its KV heads are the batch, and the
    query heads that share one read the same keys. Either way keys are never repeated.
    """

    key_rows: Tensor
    """[num_seqs * key_len, num_kv_heads * head_dim]"""
    value_rows: Tensor
    keys: Tensor
    """[num_seqs, num_kv_heads, key_len, head_dim] or
    [num_kv_heads, heads_per_kv_head, key_len, head_dim]"""
    values: Tensor
    permutation: tuple[int, int, int, int]
    """Takes a query [tokens, num_kv_heads, heads_per_kv_head, head_dim] to the order of `keys`."""
    inverse: tuple[int, int, int, int]


_Prepared = tuple[Plan, list[tuple[SequenceGroup, _Views]]]
