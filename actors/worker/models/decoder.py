"""The decoder that all families share, in PyTorch's operations: for GPUs, and as the reference of
`compiled_decoder` on a CPU.

Activations of a step are [num_tokens, ...]: sequences lie one behind another, and only attention
knows where one ends. Operations are few, because on a small model each costs more than its work.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.actors.worker.kv_cache import KVCache, bytes_per_block
from tokenreel.actors.worker.largest import largest
from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.actors.worker.models.rope import rotation_table
from tokenreel.actors.worker.sampled import mark_not_finite
from tokenreel.actors.worker.step_tensors import StepTensors
from tokenreel.kernels.backend import AttentionMetadata, Backend

ReadTensor = Callable[[str], Tensor]
"""A checkpoint's tensor by name, checked, in the model's dtype and on its device."""


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this model holds."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    products = [
        ("self_attn.q_proj", queries, hidden, config.qkv_bias),
        ("self_attn.k_proj", keys, hidden, config.qkv_bias),
        ("self_attn.v_proj", keys, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, queries, config.output_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    ]
    for name, num_out, num_in, has_bias in products:
        layer[f"{name}.weight"] = (num_out, num_in)
        if has_bias:
            layer[f"{name}.bias"] = (num_out,)
    if config.qk_norm:
        layer["self_attn.q_norm.weight"] = layer["self_attn.k_norm.weight"] = (config.head_dim,)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(config.num_layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


class Decoder:
    """A model on its device. `max_model_len` bounds the positions that it is asked for."""

    def __init__(
        self, config: DecoderConfig, read: ReadTensor, backend: Backend, max_model_len: int
    ) -> None:
        self.config = config
        self._embedding = read("model.embed_tokens.weight")
        self._layers = [
            DecoderLayer(config, number, read, backend) for number in range(config.num_layers)
        ]
        self._norm = RMSNorm(read("model.norm.weight"), config.rms_norm_eps)
        self._head = self._embedding if config.tie_word_embeddings else read("lm_head.weight")
        table = rotation_table(config.rope, config.head_dim, max_model_len)
        self._rotations = table.to(self._embedding.device)

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def team(self) -> None:
        return None

    def new_cache(self, num_blocks: int, block_size: int) -> KVCache:
        return KVCache.allocate(self.config, num_blocks, block_size, self.dtype, self.device)

    def block_bytes(self, block_size: int) -> int:
        return bytes_per_block(self.config, block_size, self.dtype)

    def forward(self, step: StepTensors, cache: KVCache) -> Tensor:
        """Computes a step and stores its keys and values in `cache`. Returns the hidden states that
        logits are wanted of, [num_logits, hidden_size]."""
        hidden = self._embedding.index_select(0, step.token_ids)
        rotations = self._rotations.index_select(0, step.positions).unsqueeze(1)
        for layer, (keys, values) in zip(self._layers, cache.layers, strict=True):
            layer(hidden, rotations, keys, values, step.metadata)
        if len(step.logit_indices) == len(hidden):
            return hidden
        return hidden.index_select(0, step.logit_indices)

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size], rows of `forward` -> [num_rows, vocab_size] float32."""
        return functional.linear(self._norm(hidden), self._head).float()

    def greedy(self, hidden: Tensor) -> Tensor:
        """[num_rows] int64: the token of each row's largest logit, NOT_FINITE if that is not."""
        return mark_not_finite(*largest(self.logits(hidden)))


class DecoderLayer:
    def __init__(
        self, config: DecoderConfig, number: int, read: ReadTensor, backend: Backend
    ) -> None:
        prefix = f"model.layers.{number}."
        eps = config.rms_norm_eps
        self._attention_norm = RMSNorm(read(prefix + "input_layernorm.weight"), eps)
        self._attention = Attention(
            config, prefix + "self_attn.", read, backend, config.sliding_windows[number]
        )
        self._mlp_norm = RMSNorm(read(prefix + "post_attention_layernorm.weight"), eps)
        self._mlp = MLP(config, prefix + "mlp.", read)

    def __call__(
        self,
        hidden: Tensor,
        rotations: Tensor,
        keys: Tensor,
        values: Tensor,
        metadata: AttentionMetadata,
    ) -> None:
        """Adds to `hidden` [num_tokens, hidden_size] in place."""
        normed = self._attention_norm(hidden)
        self._attention.add_to(hidden, normed, rotations, keys, values, metadata)
        self._mlp.add_to(hidden, self._mlp_norm(hidden))


class Attention:
    """Query, key and value come from one product, query and key are rotated as one tensor.

    The rotation is a product of complex numbers. Checkpoints pair element i of a head with
    i + head_dim / 2; the rows of the query and key weights are reordered at load so that pairs
    lie side by side. Query and key are reordered alike, so their products stay what they were.
    """

    def __init__(
        self,
        config: DecoderConfig,
        prefix: str,
        read: ReadTensor,
        backend: Backend,
        sliding_window: int | None,
    ) -> None:
        self._backend = backend
        self._sliding_window = sliding_window
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim
        self._scale = config.head_dim**-0.5
        self._qkv = (
            self._read_qkv(prefix, "weight", read),
            self._read_qkv(prefix, "bias", read) if config.qkv_bias else None,
        )
        output_bias = read(prefix + "o_proj.bias") if config.output_bias else None
        self._output = read(prefix + "o_proj.weight"), output_bias
        self._qk_norm: RMSNorm | None = None
        if config.qk_norm:
            gains = [
                _pairs_side_by_side(read(f"{prefix}{name}_norm.weight"), config.head_dim)
                for name in ("q", "k")
            ]
            counts = (config.num_heads, config.num_kv_heads)
            per_head = [gain.expand(count, -1) for gain, count in zip(gains, counts, strict=True)]
            self._qk_norm = RMSNorm(torch.cat(per_head), config.rms_norm_eps)

    def add_to(
        self,
        hidden: Tensor,
        normed: Tensor,
        rotations: Tensor,
        keys: Tensor,
        values: Tensor,
        metadata: AttentionMetadata,
    ) -> None:
        heads, kv_heads = self._num_heads, self._num_kv_heads
        # [num_tokens, num_heads + 2 * num_kv_heads, head_dim]
        qkv = functional.linear(normed, *self._qkv)
        qkv = qkv.view(-1, heads + 2 * kv_heads, self._head_dim)
        query_key = qkv[:, : heads + kv_heads]
        if self._qk_norm is not None:
            query_key = self._qk_norm(query_key)
        query_key = _rotate(query_key, rotations)
        key, value = query_key[:, heads:], qkv[:, heads + kv_heads :]
        self._backend.store_kv(key, value, keys, values, metadata.slot_mapping)
        attended = self._backend.attention(
            query_key[:, :heads], keys, values, metadata, self._scale, self._sliding_window
        )
        hidden.add_(functional.linear(attended.view(hidden.shape[0], -1), *self._output))

    def _read_qkv(self, prefix: str, kind: str, read: ReadTensor) -> Tensor:
        query, key, value = (read(f"{prefix}{name}_proj.{kind}") for name in ("q", "k", "v"))
        dim = self._head_dim
        return torch.cat([_pairs_side_by_side(query, dim), _pairs_side_by_side(key, dim), value])


class MLP:
    def __init__(self, config: DecoderConfig, prefix: str, read: ReadTensor) -> None:
        def read_all(kind: str, *names: str) -> Tensor:
            return torch.cat([read(f"{prefix}{name}_proj.{kind}") for name in names])

        has_bias = config.mlp_bias
        self._gate_up = (
            read_all("weight", "gate", "up"),
            read_all("bias", "gate", "up") if has_bias else None,
        )
        self._down = read_all("weight", "down"), read_all("bias", "down") if has_bias else None

    def add_to(self, hidden: Tensor, normed: Tensor) -> None:
        gate, up = functional.linear(normed, *self._gate_up).chunk(2, dim=-1)
        hidden.add_(functional.linear(functional.silu(gate).mul_(up), *self._down))


class RMSNorm:
    """x / sqrt(mean(x ** 2) + eps) * gain over the last dimension, computed in float32.

    With n elements that is x / hypot(norm(x), sqrt(n * eps)) * (sqrt(n) * gain): four operations
    where the formula has six.
    """

    def __init__(self, gain: Tensor, eps: float) -> None:
        size = gain.shape[-1]
        self._gain = gain.float() * math.sqrt(size)
        self._floor = torch.tensor(math.sqrt(size * eps), device=gain.device)

    def __call__(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        normed: Tensor = x / norm.hypot_(self._floor)
        return normed.mul_(self._gain).to(x.dtype)


def _pairs_side_by_side(rows: Tensor, head_dim: int) -> Tensor:
    """Reorders the first dimension, head by head, from (pair half, pair) to (pair, pair half)."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """x [num_tokens, heads, head_dim], rotations [num_tokens, 1, head_dim // 2] complex."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)
