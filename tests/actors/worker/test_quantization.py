"""What `--quantization` does to logits: how far they move, and that they stay one function."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.device import QUANTIZATIONS, choose_quantization
from tokenreel.actors.worker.loading import load
from tokenreel.actors.worker.model_config import ConfigFile
from tokenreel.actors.worker.models.compiled_decoder import CompiledDecoder
from tokenreel.actors.worker.models.registry import read_decoder_config
from tokenreel.actors.worker.weights import Checkpoint
from tokenreel.messages.options import EngineOptions
from tokenreel.tools.demo_corpus import conversation
from tokenreel.tools.up_flags import DEMO_MODEL

MAX_MODEL_LEN = 512


class Effect(NamedTuple):
    mean: float
    """Of the differences' magnitudes, in standard deviations of the exact logits."""
    largest: float
    changed: float
    """The share of positions whose largest logit is another token's."""


def load_decoder(directory: Path, dtype: torch.dtype, quantization: str | None) -> CompiledDecoder:
    config = read_decoder_config(ConfigFile.read(directory))
    with torch.inference_mode(), Checkpoint(directory, dtype, torch.device("cpu")) as checkpoint:
        limit = min(MAX_MODEL_LEN, config.max_position)
        return CompiledDecoder(config, checkpoint, limit, 1, quantization)


def measure(
    all_logits: Callable[..., Tensor],
    directory: Path,
    quantization: str,
    texts: list[list[int]],
) -> Effect:
    """Against float32 and the weights as they are, token by token of given texts."""
    exact, other = (
        torch.cat([all_logits(decoder, text, [len(text)], block_size=16) for text in texts])
        for decoder in (
            load_decoder(directory, torch.float32, None),
            load_decoder(directory, torch.float32, quantization),
        )
    )
    differences = (other - exact).abs() / exact.std()
    changed = (other.argmax(1) != exact.argmax(1)).float().mean()
    return Effect(differences.mean().item(), differences.max().item(), changed.item())


def demo_texts(num_texts: int) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    rng = Random(7)
    texts = ["".join(segment.text for segment in conversation(rng)) for _ in range(num_texts)]
    return [tokenizer.encode(text).ids[:MAX_MODEL_LEN] for text in texts]


@pytest.mark.parametrize(
    ("quantization", "most"),
    [("int8", Effect(0.03, 0.45, 0.02)), ("int8-weight-only", Effect(0.015, 0.2, 0.01))],
)
def test_the_demo_model_hardly_changes_its_mind(
    quantization: str, most: Effect, all_logits: Callable[..., Tensor]
) -> None:
    effect = measure(all_logits, DEMO_MODEL, quantization, demo_texts(12))
    assert all(found <= bound for found, bound in zip(effect, most, strict=True)), effect


@pytest.mark.parametrize("variant", ["llama_biases_head_dim", "qwen3", "mistral_window"])
@pytest.mark.parametrize(
    ("quantization", "most"),
    [("int8", Effect(0.03, 0.3, 0.2)), ("int8-weight-only", Effect(0.02, 0.2, 0.2))],
)
def test_random_models_stay_close(
    variant: str,
    quantization: str,
    most: Effect,
    small_model: Callable[[str], Any],
    all_logits: Callable[..., Tensor],
    tokens: list[int],
) -> None:
    effect = measure(all_logits, small_model(variant).directory, quantization, [tokens])
    assert all(found <= bound for found, bound in zip(effect, most, strict=True)), effect


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_a_prompt_is_cut_leaves_no_trace(
    quantization: str,
    dtype: torch.dtype,
    small_model: Callable[[str], Any],
    all_logits: Callable[..., Tensor],
    tokens: list[int],
) -> None:
    decoder = load_decoder(small_model("llama").directory, dtype, quantization)
    whole = all_logits(decoder, tokens, [41])
    assert torch.equal(all_logits(decoder, tokens, [1, 16, 3, 1, 20]), whole)
    assert torch.equal(all_logits(decoder, tokens, [1] * 41), whole)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_greedy_takes_the_largest_of_the_same_logits(
    quantization: str, small_model: Callable[[str], Any], tokens: list[int]
) -> None:
    decoder = load_decoder(small_model("llama_tied").directory, torch.float32, quantization)
    hidden = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    assert decoder.greedy(hidden).tolist() == decoder.logits(hidden).argmax(1).tolist()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_worker_says_so(quantization: str, small_model: Callable[[str], Any]) -> None:
    directory = str(small_model("llama").directory)
    options = EngineOptions(
        model=directory, served_model_name="m", device="cpu", quantization=quantization
    )
    assert f", {quantization}, " in load(options).detail


def test_what_cannot_be_is_refused() -> None:
    assert choose_quantization(None, torch.device("cuda")) is None
    with pytest.raises(StartError, match="int8 is for CPUs, .* run on cuda; leave it out"):
        choose_quantization("int8", torch.device("cuda"))
    with pytest.raises(StartError, match="--quantization awq is unknown; use int8 or int8-w"):
        choose_quantization("awq", torch.device("cpu"))
