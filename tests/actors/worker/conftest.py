"""Small random models of every family, and a driver that plays the engine core's part."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
import transformers

from tokenreel.actors.worker.device import DTYPE_OF_NAME
from tokenreel.actors.worker.input_batch import InputBatch
from tokenreel.actors.worker.model_config import ConfigFile
from tokenreel.actors.worker.model_runner import ModelRunner, StepOutput
from tokenreel.actors.worker.models.compiled_decoder import CompiledDecoder
from tokenreel.actors.worker.models.decoder import Decoder, tensor_shapes
from tokenreel.actors.worker.models.model import Model
from tokenreel.actors.worker.models.registry import read_decoder_config
from tokenreel.actors.worker.step_input import StepInput
from tokenreel.actors.worker.step_tensors import step_tensors
from tokenreel.actors.worker.weights import Checkpoint, ignores
from tokenreel.kernels.backend import choose_backend
from tokenreel.messages.ids import BlockId, Row, SeqId, StepId
from tokenreel.messages.sampling import SamplingParams
from tokenreel.messages.steps import AddedSequence, ScheduledSequence, StepScheduled

VOCAB_SIZE = 131
MAX_MODEL_LEN = 96
BLOCK_SIZE = 4
GREEDY = SamplingParams(temperature=0.0)

SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_MODEL_LEN,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}


def rope(rope_type: str, **parameters: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 1000.0, **parameters}}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "llama_without_gqa": ("Llama", {"num_key_value_heads": 4}),
    "llama_biases_head_dim": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "num_key_value_heads": 1},
    ),
    "llama_rope_linear": ("Llama", rope("linear", factor=3.0)),
    "llama_rope_dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "llama_rope_llama3": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama_rope_yarn": ("Llama", {"rope_parameters": YARN_ROPE}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral_window": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen2_window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_biases_window": (
        "Qwen3",
        {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
}


def random_reference(variant: str) -> Any:
    """A model of transformers whose every parameter matters: biases and gains are random too."""
    family, changes = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().float()
    generator = torch.Generator().manual_seed(len(variant))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = name.endswith("norm.weight")
            parameter.normal_(1.0 if is_gain else 0.0, 0.2, generator=generator)
    return model


@dataclass(frozen=True)
class SmallModel:
    """A model directory, its judge, and ours."""

    directory: Path
    reference: Any
    decoder: Model

    def reference_logits(self, token_ids: list[int]) -> torch.Tensor:
        """[len(token_ids), vocab_size]"""
        with torch.inference_mode():
            logits: torch.Tensor = self.reference(torch.tensor([token_ids])).logits[0]
        return logits


def _load_decoder(
    directory: Path,
    dtype: str = "float32",
    device: str = "cpu",
    *,
    is_compiled: bool | None = None,
    quantization: str | None = None,
    num_threads: int = 2,
    max_model_len: int = MAX_MODEL_LEN,
) -> Model:
    """As the worker loads it, unless `is_compiled` says which of the two implementations."""
    place = torch.device(device)
    config = read_decoder_config(ConfigFile.read(directory))
    with (
        torch.inference_mode(),
        Checkpoint(directory, DTYPE_OF_NAME[dtype], place) as checkpoint,
    ):
        checkpoint.check(tensor_shapes(config), ignores(config))
        if place.type == "cpu" if is_compiled is None else is_compiled:
            return CompiledDecoder(config, checkpoint, max_model_len, num_threads, quantization)
        return Decoder(config, checkpoint, choose_backend(place), max_model_len)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SmallModel]:
    """The small model of a variant, made when it is first asked for."""
    models: dict[str, SmallModel] = {}

    def get(variant: str) -> SmallModel:
        if variant not in models:
            directory = tmp_path_factory.mktemp(variant)
            reference = random_reference(variant)
            reference.save_pretrained(directory)
            models[variant] = SmallModel(directory, reference, _load_decoder(directory))
        return models[variant]

    return get


@pytest.fixture
def load_decoder() -> Callable[..., Model]:
    return _load_decoder


def _chunk(table: Any, block_size: int, token_ids: list[int], start: int, wanted: Any) -> StepInput:
    """The step of one sequence's tokens from `start` on; `wanted` of them yield logits."""
    end = start + len(token_ids)
    positions = np.arange(start, end)
    slots = table[positions // block_size] * block_size + positions % block_size
    unused = np.zeros(len(wanted), np.int64)
    return StepInput(
        token_ids=np.array(token_ids, np.int32),
        positions=positions.astype(np.int32),
        slot_mapping=slots.astype(np.int64),
        feedback_rows=np.full(len(token_ids), -1, np.int32),
        query_start_loc=np.array([0, len(token_ids)], np.int32),
        context_lens=np.array([end], np.int32),
        block_tables=table.astype(np.int32).reshape(1, -1),
        logit_indices=np.array(wanted, np.int64),
        sampled_seq_ids=unused,
        sampled_rows=unused,
        sampled_indices=unused,
        max_query_len=len(token_ids),
        max_context_len=end,
    )


def _all_logits(
    decoder: Model,
    token_ids: list[int],
    chunks: list[int],
    wanted: list[int] | None = None,
    block_size: int = BLOCK_SIZE,
) -> torch.Tensor:
    """Logits after every token, or those that are `wanted`, computed chunk by chunk through a cache
    with shuffled blocks."""
    num_blocks = -(-len(token_ids) // block_size)
    cache = decoder.new_cache(num_blocks, block_size)
    table = np.random.default_rng(0).permutation(num_blocks)
    rows = []
    start = 0
    for length in chunks:
        everywhere = range(len(token_ids)) if wanted is None else wanted
        own = [i - start for i in everywhere if 0 <= i - start < length]
        step = _chunk(table, block_size, token_ids[start : start + length], start, own)
        with torch.inference_mode():
            is_ours = decoder.team is not None
            inputs = step if is_ours else step_tensors(step, torch.zeros(1, dtype=torch.int32))
            rows.append(decoder.logits(decoder.forward(inputs, cache)))
        start += length
    assert start == len(token_ids)
    return torch.cat(rows)


@pytest.fixture
def all_logits() -> Callable[..., torch.Tensor]:
    return _all_logits


@pytest.fixture
def edit_config() -> Callable[..., None]:
    return _edit_config


def _edit_config(directory: Path, **changes: Any) -> None:
    """Changes config.json; a value of None removes the key."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@dataclass
class Sequence:
    """What the engine core knows about one sequence."""

    seq_id: SeqId
    row: Row
    prompt: list[int]
    sampling: SamplingParams
    output: list[int] = field(default_factory=list)
    blocks: list[BlockId] = field(default_factory=list)
    num_computed: int = 0
    num_sampling: int = 0
    """Tokens that open steps will sample."""
    is_added: bool = False

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output

    @property
    def num_known(self) -> int:
        return len(self.prompt) + len(self.output) + self.num_sampling


class Driver:
    """Composes steps as the engine core would, without any policy: the test says what runs."""

    def __init__(
        self,
        decoder: Model,
        *,
        num_blocks: int = 96,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 256,
        block_size: int = BLOCK_SIZE,
        max_model_len: int = MAX_MODEL_LEN,
        is_async: bool | None = None,
    ) -> None:
        """`is_async` is a GPU's way: steps are launched before the last one's tokens are known."""
        self.batch = InputBatch(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            block_size=block_size,
            num_blocks=num_blocks,
            vocab_size=decoder.config.vocab_size,
            is_async=decoder.device.type == "cuda" if is_async is None else is_async,
        )
        self.cache = decoder.new_cache(num_blocks, block_size)
        self.runner = ModelRunner(decoder, self.cache, self.batch)
        self.block_size = block_size
        self.free_blocks = [BlockId(i) for i in reversed(range(num_blocks))]
        self.free_rows = [Row(i) for i in reversed(range(max_num_seqs))]
        self.sequences: dict[SeqId, Sequence] = {}
        self.step_id = 0
        self.removed_rows: list[Row] = []
        self.failures: list[str] = []

    def add(
        self,
        prompt: list[int],
        sampling: SamplingParams = GREEDY,
        prefix_blocks: list[BlockId] | None = None,
    ) -> Sequence:
        """A sequence; `prefix_blocks` hold its first tokens already."""
        seq_id = SeqId(len(self.sequences) + 1)
        sequence = Sequence(seq_id, self.free_rows.pop(), prompt, sampling)
        sequence.blocks = list(prefix_blocks or [])
        sequence.num_computed = len(sequence.blocks) * self.block_size
        self.sequences[seq_id] = sequence
        return sequence

    def preempt(self, sequence: Sequence, num_kept: int = 0) -> None:
        """Its blocks go to others, but for the first few, which the prefix cache keeps; it comes
        back in another row, to be computed anew."""
        self.free_blocks = sequence.blocks[num_kept:] + self.free_blocks
        self.remove(sequence)
        sequence.row = self.free_rows.pop(0)
        sequence.blocks = sequence.blocks[:num_kept]
        sequence.num_computed = num_kept * self.block_size
        sequence.is_added = False

    def remove(self, sequence: Sequence) -> None:
        self.removed_rows.append(sequence.row)
        self.free_rows.append(sequence.row)

    def compose(self, lengths: dict[SeqId, int]) -> StepScheduled:
        added, scheduled = [], []
        for seq_id, length in lengths.items():
            sequence = self.sequences[seq_id]
            if not sequence.is_added:
                sequence.is_added = True
                added.append(
                    AddedSequence(
                        seq_id,
                        sequence.row,
                        sequence.tokens,
                        len(sequence.prompt),
                        list(sequence.blocks),
                        sequence.sampling,
                    )
                )
            start = sequence.num_computed
            end = start + length
            new_blocks: list[BlockId] = []
            while (len(sequence.blocks) + len(new_blocks)) * self.block_size < end:
                new_blocks.append(self.free_blocks.pop())
            sequence.blocks += new_blocks
            num_logits = int(end == sequence.num_known)
            scheduled.append(
                ScheduledSequence(seq_id, sequence.row, start, length, num_logits, new_blocks)
            )
            sequence.num_computed = end
            sequence.num_sampling += num_logits
        self.step_id += 1
        removed, self.removed_rows = self.removed_rows, []
        return StepScheduled(StepId(self.step_id), added, removed, scheduled)

    def commit(self, output: StepOutput) -> StepOutput:
        for tokens in output.outputs:
            sequence = self.sequences[tokens.seq_id]
            sequence.output += tokens.token_ids
            sequence.num_sampling -= 1
        self.failures += [failure.message for failure in output.failures]
        return output

    def step(self, lengths: dict[SeqId, int]) -> StepOutput:
        return self.commit(self.runner.launch(self.compose(lengths)).collect())

    def decode(self, sequences: list[Sequence], num_steps: int) -> None:
        for _ in range(num_steps):
            self.step({sequence.seq_id: 1 for sequence in sequences})

    def generate(
        self, prompt: list[int], num_tokens: int, sampling: SamplingParams = GREEDY
    ) -> list[int]:
        """The output of a sequence that runs by itself."""
        sequence = self.add(prompt, sampling)
        self.step({sequence.seq_id: len(prompt)})
        self.decode([sequence], num_tokens - 1)
        return sequence.output


@pytest.fixture(params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """Every family in turn, with what its configuration can ask for."""
    name: str = request.param
    return name


@pytest.fixture
def tokens() -> list[int]:
    return _random_tokens(41)


@pytest.fixture(scope="session")
def new_driver() -> type[Driver]:
    return Driver


@pytest.fixture(scope="session")
def random_tokens() -> Callable[..., list[int]]:
    return _random_tokens


def _random_tokens(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (count,), generator=generator).tolist()
