"""Paged attention on CUDA, from the Triton kernels beside this file."""

import torch
from torch import Tensor

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.paged_decode_attention import choose_num_splits, paged_decode_attention
from tokenreel.kernels.paged_prefill_attention import paged_prefill_attention
from tokenreel.kernels.store_kv import store_kv


class TritonBackend:
    """Implements `backend.Backend` on one CUDA device.

    A step of decodes alone launches kernels whose grid depends on the metadata's shapes and
    `max_context_len` only, and so can be captured in a CUDA graph.
    """

    name = "triton"

    def __init__(self, num_multiprocessors: int) -> None:
        self._num_multiprocessors = num_multiprocessors

    def store_kv(
        self,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor,
    ) -> None:
        store_kv(key, value, key_cache, value_cache, slot_mapping)

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        metadata: AttentionMetadata,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        # Sequences with one token gain from split KV and heads in place of tokens: in a mixed
        # step each kernel takes its own sequences and leaves the others alone.
        num_splits = choose_num_splits(
            metadata.context_lens.shape[0],
            key_cache.shape[2],
            metadata.max_context_len,
            self._num_multiprocessors,
        )
        paged_decode_attention(
            query,
            key_cache,
            value_cache,
            metadata,
            output,
            scale=scale,
            sliding_window=sliding_window,
            num_splits=num_splits,
        )
        if not metadata.all_decode:
            paged_prefill_attention(
                query,
                key_cache,
                value_cache,
                metadata,
                output,
                scale=scale,
                sliding_window=sliding_window,
                skip_decodes=True,
            )
        return output
