"""What a person can get wrong about a model, told before anything is served."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker import loading
from tokenreel.actors.worker.loading import load, num_parameters
from tokenreel.kernels.cpu.greedy_screen import screens_bytes
from tokenreel.messages.options import EngineOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_model_len": 97}, "--max-model-len 97 .* use 1 to 96"),
        ({"max_model_len": 0}, "--max-model-len 0 "),
        ({"block_size": 0}, "--block-size should be at least 1"),
        ({"load_format": "gguf"}, "--load-format gguf is unknown"),
        ({"dtype": "int4"}, "--dtype int4 is unknown"),
        ({"kv_cache_memory_bytes": 10}, "no room"),
    ],
)
def test_a_wrong_option_is_named(
    changes: dict[str, Any], message: str, small_model: Callable[[str], Any]
) -> None:
    directory = str(small_model("llama").directory)
    values: dict[str, Any] = {"device": "cpu"} | changes
    with pytest.raises(StartError, match=message):
        load(EngineOptions(model=directory, served_model_name="m", **values))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_num_batched_tokens": 1, "max_num_seqs": 1},
        {"num_gpu_blocks_override": 1},
        {"max_model_len": 1},
        {"dtype": "bfloat16", "block_size": 5},
    ],
)
def test_the_smallest_settings_come_up(
    changes: dict[str, Any], small_model: Callable[[str], Any]
) -> None:
    directory = str(small_model("llama").directory)
    values: dict[str, Any] = {"device": "cpu"} | changes
    loaded = load(EngineOptions(model=directory, served_model_name="m", **values))
    assert loaded.ready.num_blocks >= 1
    assert loaded.ready.max_model_len == values.get("max_model_len", 96)


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    small_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device: 1000)
    directory = str(small_model("llama").directory)
    with pytest.raises(StartError, match="the weights take .* GiB of memory are free on cpu"):
        load(EngineOptions(model=directory, served_model_name="m", device="cpu"))


@pytest.mark.parametrize("variant", ["llama", "llama_tied"])
@pytest.mark.parametrize(
    ("quantization", "product_bytes", "is_screened"),
    [(None, 4, False), (None, 4, True), ("int8", 1, False)],
)
def test_a_vocabulary_needs_room_as_a_table_and_for_products(
    variant: str,
    quantization: str | None,
    product_bytes: int,
    is_screened: bool,
    small_model: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model(variant)
    vocabulary = model.decoder.config.vocab_size * model.decoder.config.hidden_size
    layers = num_parameters(model.decoder.config) - vocabulary * (2 if variant == "llama" else 1)
    needed = (layers + vocabulary) * product_bytes + vocabulary * 4
    shape = model.decoder.config.vocab_size, model.decoder.config.hidden_size
    needed += screens_bytes(*shape) if is_screened else 0  # Tested where it is.
    monkeypatch.setattr(loading, "MIN_SCREENED", vocabulary + 1 - is_screened)
    options = EngineOptions(
        model=str(model.directory), served_model_name="m", device="cpu", quantization=quantization
    )
    monkeypatch.setattr(loading, "free_bytes", lambda device: needed - 1)
    with pytest.raises(StartError, match="the weights take"):
        load(options)
    monkeypatch.setattr(loading, "free_bytes", lambda device: needed)
    monkeypatch.setattr(loading, "Checkpoint", _stop)
    with pytest.raises(RuntimeError, match="there was room"):
        load(options)


def _stop(*arguments: Any) -> None:
    raise RuntimeError("there was room")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and none is here")
def test_a_gpu_serves_the_same_tokens(
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama")
    on_gpu = new_driver(load_decoder(model.directory, device="cuda"))
    sequence = on_gpu.add(random_tokens(10))
    steps = [on_gpu.compose({sequence.seq_id: length}) for length in (10, 1, 1, 1)]
    for pending in [on_gpu.runner.launch(step) for step in steps]:
        on_gpu.commit(pending.collect())
    assert sequence.output == new_driver(model.decoder).generate(random_tokens(10), 4)
