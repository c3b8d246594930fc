"""The decoder that all families share, on a CPU: weights packed at load, a step as one function.

It computes what `decoder.Decoder` computes, in float32 between products; see `decoder_step`.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.actors.worker.models.compiled_cache import (
    CompiledCache,
    attention_kind,
    block_bytes,
    element_type,
)
from tokenreel.actors.worker.models.decoder import ReadTensor
from tokenreel.actors.worker.models.rope import rotation_table
from tokenreel.actors.worker.step_input import StepInput
from tokenreel.kernels.cpu import decoder_head, decoder_step
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION
from tokenreel.kernels.cpu.attention import attention_scratch_size
from tokenreel.kernels.cpu.compiler import Specialized
from tokenreel.kernels.cpu.decoder_step import (
    PHASES_PER_LAYER,
    Array,
    Inputs,
    Scratch,
    Shape,
    Weights,
)
from tokenreel.kernels.cpu.finish import peaks_stride
from tokenreel.kernels.cpu.greedy_screen import make_screens, new_screened_rows
from tokenreel.kernels.cpu.product import ROWS, as_numpy, padded
from tokenreel.kernels.cpu.product_format import choose_format
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.team import Team
from tokenreel.kernels.cpu.vector import LANES

Pack = Callable[[Tensor], Array]


MIN_SCREENED = 1 << 18
"""Elements of a float32 vocabulary; a smaller one stays in the second-level cache."""


class CompiledDecoder:
    """A model and a team of threads. `max_model_len` bounds the positions it is asked for."""

    def __init__(
        self,
        config: DecoderConfig,
        read: ReadTensor,
        max_model_len: int,
        num_threads: int,
        quantization: str | None = None,
    ) -> None:
        """quantization: see `choose_format`. A layer's weights are quantized before the next ones
        are read; the embedding stays as it is."""
        self.config = config
        embedding = read("model.embed_tokens.weight")
        self._dtype = embedding.dtype
        self._format = choose_format(element_type(self._dtype), quantization)
        tied = config.tie_word_embeddings
        head = embedding if tied else read("lm_head.weight")
        self._head = self._format.pack(head)
        is_screened = self._head.dtype == np.float32 and head.numel() >= MIN_SCREENED
        self._screens = make_screens(head) if is_screened else None
        del head
        self._embedding = as_numpy(_pad(embedding, PANEL)).reshape(-1)
        del embedding
        self._weights = _read_layers(config, read, self._format.pack)
        self._norm = _vector(read("model.norm.weight"), PANEL)
        rotations = rotation_table(config.rope, config.head_dim, max_model_len)
        cosines, sines = rotations.real.contiguous(), rotations.imag.contiguous()
        self._rotations = cosines.view(-1).numpy(), sines.view(-1).numpy()
        self._max_model_len = max_model_len
        self._shape = _shape(config)
        num_phases = 1 + config.num_layers * PHASES_PER_LAYER
        self._team = Team(num_threads, max(num_phases, decoder_head.PHASES))
        self._forward = Specialized(decoder_step.forward)
        self._logits = Specialized(decoder_head.logits)
        is_screened = self._screens is not None
        self._greedy = Specialized(
            decoder_head.greedy_screened if is_screened else decoder_head.greedy
        )
        self._num_reserved = 0
        self._peaks = np.empty((0, 0), np.float32)
        self._reserve_peaks(ROWS)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def team(self) -> Team:
        return self._team

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def new_cache(self, num_blocks: int, block_size: int) -> CompiledCache:
        return CompiledCache(
            self.config, num_blocks, block_size, self.dtype, self._max_model_len, self._team
        )

    def block_bytes(self, block_size: int) -> int:
        return block_bytes(self.config, block_size, self.dtype)

    def forward(self, step: StepInput, cache: CompiledCache) -> Array:
        """Computes a step and stores its keys and values in `cache`. Returns the hidden states that
        logits are wanted of, [num_logits, padded hidden_size] float32, which are good until the
        next step."""
        num_tokens = len(step.token_ids)
        self._reserve(num_tokens)
        self._team.run(
            self._forward,
            self._shape,
            self._weights,
            self._embedding,
            self._rotations,
            cache.kinds,
            cache.plans(num_tokens, len(step.context_lens)),
            cache.pages,
            Inputs(
                token_ids=step.token_ids,
                positions=step.positions,
                slot_mapping=step.slot_mapping,
                query_start_loc=step.query_start_loc,
                context_lens=step.context_lens,
                block_tables=step.block_tables,
                wanted=step.logit_indices,
            ),
            self._scratch,
        )
        num_rows, stride = len(step.logit_indices), self._shape.hidden_stride
        return self._scratch.hidden[: num_rows * stride].reshape(num_rows, stride)

    def logits(self, hidden: ArrayLike) -> Tensor:
        """[num_rows, padded hidden_size], rows of `forward` -> [num_rows, vocab_size] float32."""
        hidden = np.asarray(hidden)
        num_rows, vocab_size = len(hidden), self.config.vocab_size
        stride = padded(vocab_size)
        out = np.empty(num_rows * stride, np.float32)
        self._reserve(num_rows)
        self._team.run(
            self._logits,
            self._shape,
            self._norm,
            self._head,
            hidden.reshape(-1),
            num_rows,
            out,
            stride,
            self._scratch,
        )
        return torch.from_numpy(out).view(num_rows, stride)[:, :vocab_size].contiguous()

    def greedy(self, hidden: ArrayLike) -> Array:
        """[num_rows] int64: the token of each row's largest logit, NOT_FINITE if that is not."""
        hidden = np.asarray(hidden)
        num_rows = len(hidden)
        token_ids = np.empty(num_rows, np.int64)
        self._reserve_peaks(num_rows)
        self._team.run(
            self._greedy,
            self._shape,
            self._norm,
            self._head,
            *((self._screens, self._screened) if self._screens is not None else ()),
            hidden.reshape(-1),
            num_rows,
            self.config.vocab_size,
            self._peaks.reshape(-1),
            self._peaks.shape[1],
            token_ids,
            self._scratch,
        )
        return token_ids

    def _reserve(self, num_tokens: int) -> None:
        """Scratch for so many tokens. What the system gives is zero, as padding has to be."""
        if num_tokens <= self._num_reserved:
            return
        self._num_reserved = max(num_tokens, 2 * self._num_reserved)
        # AMX reads up to 31 rows behind the one it is asked for.
        num_rows = self._num_reserved + ROWS - 1
        shape, num_threads = self._shape, self._team.num_threads
        row_type = self._format.row_type
        longest = max(shape.hidden_stride, shape.attended_stride, shape.inner_stride)
        self._scratch = Scratch(
            hidden=zeros(num_rows * shape.hidden_stride, np.float32),
            rows=zeros(num_rows * shape.hidden_stride, row_type),
            attended=zeros(num_rows * shape.attended_stride, row_type),
            inner=zeros(num_rows * shape.inner_stride, row_type),
            factors=self._format.new_factors(num_rows, longest),
            qkv=zeros(num_rows * shape.qkv_stride, np.float32),
            sums=zeros((num_threads, ROWS * PANEL), np.float32),
            attention=zeros(
                (num_threads, attention_scratch_size(self.config.head_dim)), np.float32
            ),
            tiles=TILE_CONFIGURATION,
        )

    def _reserve_peaks(self, num_rows: int) -> None:
        """What `greedy` needs besides, for so many rows: fewer than tokens, and much for each."""
        self._reserve(num_rows)
        if num_rows <= len(self._peaks):
            return
        num_rows = padded(max(num_rows, 2 * len(self._peaks)), ROWS)
        # Behind the last panel nothing is the largest.
        self._peaks = zeros((num_rows, peaks_stride(len(self._head))), np.float32)
        self._peaks.fill(-np.inf)
        if self._screens is not None:
            self._screened = new_screened_rows(num_rows, self._shape.hidden_stride)


def _shape(config: DecoderConfig) -> Shape:
    head_dim = padded(config.head_dim, LANES)
    return Shape(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        hidden_stride=padded(config.hidden_size),
        qkv_stride=(config.num_heads + 2 * config.num_kv_heads) * head_dim,
        attended_stride=padded(config.num_heads * head_dim),
        inner_stride=padded(config.intermediate_size),
        eps=config.rms_norm_eps,
    )


def _read_layers(config: DecoderConfig, read: ReadTensor, pack: Pack) -> Weights:
    """One by one: a layer is gone before the next is read."""
    whole: Weights | None = None
    for number in range(config.num_layers):
        layer = _read_layer(config, number, read, pack)
        if whole is None:
            shapes = [((config.num_layers, *array.shape), array.dtype) for array in layer]
            whole = Weights(*(zeros(*shape) for shape in shapes))
        for target, array in zip(whole, layer, strict=True):
            target[number] = array
        del layer, array
    assert whole is not None, "a model without layers"
    return whole


def _read_layer(config: DecoderConfig, number: int, read: ReadTensor, pack: Pack) -> Weights:
    attention, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."

    def read_qkv(kind: str) -> Tensor:
        """Each head's rows padded to whole vectors, so that a head begins at a multiple of 16."""
        parts = [read(f"{attention}{name}_proj.{kind}") for name in ("q", "k", "v")]
        heads = torch.cat(parts).unflatten(0, (-1, config.head_dim))
        return _pad(heads, LANES, 1).flatten(0, 1)

    def read_gate_up(kind: str) -> Tensor:
        """16 rows of the gate, then the same 16 of up."""
        halves = [_pad(read(f"{mlp}{name}_proj.{kind}"), LANES, 0) for name in ("gate", "up")]
        return torch.stack([half.unflatten(0, (-1, LANES)) for half in halves], 1).flatten(0, 2)

    def optional(is_there: bool, find: Callable[[], Tensor], multiple: int = PANEL) -> Array:
        return _vector(find(), multiple) if is_there else np.empty(0, np.float32)

    output = read(attention + "o_proj.weight").unflatten(1, (-1, config.head_dim))
    norms = f"model.layers.{number}."
    return Weights(
        attention_gain=_vector(read(norms + "input_layernorm.weight"), PANEL),
        qkv=pack(read_qkv("weight")),
        qkv_bias=optional(config.qkv_bias, lambda: read_qkv("bias")),
        query_gain=optional(config.qk_norm, lambda: read(attention + "q_norm.weight"), LANES),
        key_gain=optional(config.qk_norm, lambda: read(attention + "k_norm.weight"), LANES),
        output=pack(_pad(output, LANES).flatten(1)),
        output_bias=optional(config.output_bias, lambda: read(attention + "o_proj.bias")),
        mlp_gain=_vector(read(norms + "post_attention_layernorm.weight"), PANEL),
        gate_up=pack(read_gate_up("weight")),
        gate_up_bias=optional(config.mlp_bias, lambda: read_gate_up("bias")),
        down=pack(read(mlp + "down_proj.weight")),
        down_bias=optional(config.mlp_bias, lambda: read(mlp + "down_proj.bias")),
        attention_kinds=np.array(attention_kind(config, number)),
    )


def _vector(tensor: Tensor, multiple: int) -> Array:
    return _pad(tensor.float(), multiple).numpy()


def _pad(tensor: Tensor, multiple: int, dim: int = -1) -> Tensor:
    """Zeros behind a dimension, to a multiple."""
    missing = -tensor.shape[dim] % multiple
    if not missing:
        return tensor.contiguous()
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat((tensor, tensor.new_zeros(shape)), dim)
