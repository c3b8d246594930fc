"""The KV cache as compiled attention reads it, and what it needs to know to plan a step."""

import numpy as np
import torch

from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.kernels.cpu.aligned import untouched
from tokenreel.kernels.cpu.attention_plan import (
    NO_WINDOW,
    AttentionPlan,
    AttentionShape,
    new_attention_plan,
)
from tokenreel.kernels.cpu.decoder_step import Pages
from tokenreel.kernels.cpu.product import padded
from tokenreel.kernels.cpu.product_format import ELEMENT_TYPES
from tokenreel.kernels.cpu.team import Team
from tokenreel.kernels.cpu.vector import LANES


def element_type(dtype: torch.dtype) -> type[np.generic]:
    return ELEMENT_TYPES[str(dtype).removeprefix("torch.")]


class CompiledCache:
    """`num_blocks` blocks for each layer, and a plan for each of the model's kinds of attention."""

    def __init__(
        self,
        config: DecoderConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        max_model_len: int,
        team: Team,
    ) -> None:
        self._max_model_len = min(max_model_len, num_blocks * block_size)
        self._num_threads = team.num_threads
        self._reserved = 0, 0
        self._plans: tuple[AttentionPlan, ...] = ()
        self.kinds = tuple(
            AttentionShape(
                config.num_heads,
                config.num_kv_heads,
                config.head_dim,
                block_size,
                window or NO_WINDOW,
                config.head_dim**-0.5,
            )
            for window in _windows(config)
        )
        head_dim, slots = padded(config.head_dim, LANES), padded(block_size, LANES)
        heads = (config.num_layers, num_blocks, config.num_kv_heads)
        self.pages = Pages(
            untouched((*heads, head_dim, slots), element_type(dtype)),
            untouched((*heads, slots, head_dim), element_type(dtype)),
        )

    def plans(self, num_tokens: int, num_seqs: int) -> tuple[AttentionPlan, ...]:
        """Room to plan a step of so many tokens and sequences; it is used again."""
        tokens, seqs = self._reserved
        if num_tokens > tokens or num_seqs > seqs:
            self._reserved = max(num_tokens, tokens), max(num_seqs, seqs)
            self._plans = tuple(
                new_attention_plan(kind, *self._reserved, self._max_model_len, self._num_threads)
                for kind in self.kinds
            )
        return self._plans


def block_bytes(config: DecoderConfig, block_size: int, dtype: torch.dtype) -> int:
    """What one block takes in all layers."""
    elements = padded(config.head_dim, LANES) * padded(block_size, LANES) * config.num_kv_heads
    return 2 * config.num_layers * elements * dtype.itemsize


def attention_kind(config: DecoderConfig, layer: int) -> int:
    """Which of `CompiledCache.kinds` a layer has."""
    return _windows(config).index(config.sliding_windows[layer])


def _windows(config: DecoderConfig) -> list[int | None]:
    return list(dict.fromkeys(config.sliding_windows))
