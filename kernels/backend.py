"""The one interface to attention and its KV cache, and the one place that picks who computes it.

Shapes, everywhere in this package:

    query                   [num_tokens, num_heads, head_dim]
    key, value              [num_tokens, num_kv_heads, head_dim]
    key_cache, value_cache  [num_blocks, block_size, num_kv_heads, head_dim], contiguous

A *slot* is one token's place in a cache: `block_id * block_size + offset`. Query head h reads KV
head `h // (num_heads // num_kv_heads)`.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(eq=False)
class AttentionMetadata:
    """One step, as attention sees it: whose tokens these are, and where their contexts lie.

    Sequence i owns the tokens `query_start_loc[i]:query_start_loc[i + 1]`, the last ones of its
    context of `context_lens[i]` tokens (those before the step and those of the step). A sequence
    may have no token; one with tokens and an empty context is padding, and its output is zero.
    What lies beyond a context, in its last block or in its block table, is never used.

    The tensors must not change while the step runs: a backend derives what every layer needs
    once, and keeps it in `derived`.
    """

    query_start_loc: Tensor
    """[num_seqs + 1] int32, from 0 to num_tokens."""
    context_lens: Tensor
    """[num_seqs] int32."""
    block_tables: Tensor
    """[num_seqs, max_blocks] int32; max_blocks may exceed what any sequence needs."""
    slot_mapping: Tensor
    """[num_tokens] int64: where each token's key and value go; negative means nowhere."""
    max_query_len: int
    """At least the longest query, exactly 1 if `all_decode`."""
    max_context_len: int
    """At least the longest context. A CUDA graph is captured for one value."""
    all_decode: bool
    """Whether every sequence has exactly one token."""
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False)


class Backend(Protocol):
    """Stores keys and values in a paged cache, and attends over it."""

    @property
    def name(self) -> str:
        """What the start-up line and the statistics call it."""

    def store_kv(
        self,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor,
    ) -> None:
        """Writes token i of `key` and `value` to slot `slot_mapping[i]` of the caches.

        A token whose slot is negative is not written.
        """

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        metadata: AttentionMetadata,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        """Causal attention of each sequence's last tokens over its context in the caches.

        The token at position p sees the keys at positions (p - sliding_window, p]. Sums are
        float32. Returns [num_tokens, num_heads, head_dim] in the dtype of `query`.
        """


def choose_backend(device: torch.device) -> Backend:
    """The backend for `device`: PyTorch on a CPU (the reference), Triton kernels on CUDA.

    Raises ValueError for any other kind of device.
    """
    if device.type == "cpu":
        from tokenreel.kernels.torch_backend import TorchBackend

        return TorchBackend()
    if device.type == "cuda":
        from tokenreel.kernels.triton_backend import TritonBackend

        return TritonBackend(torch.cuda.get_device_properties(device).multi_processor_count)
    raise ValueError(f"no attention backend for device {device}; use cpu or cuda")
