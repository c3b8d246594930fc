"""How many blocks there are: what the options say, else what fits, never more than can be used."""

from typing import Any

import pytest
import torch

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.kv_cache import KVCache, choose_num_blocks, free_host_bytes
from tokenreel.messages.options import EngineOptions

BLOCK_BYTES = 1000


def choose(available_bytes: int = 1 << 40, free_bytes: int = 1 << 40, **options: Any) -> int:
    settings = EngineOptions(model="m", served_model_name="m", max_num_seqs=8, **options)
    return choose_num_blocks(
        settings, BLOCK_BYTES, 100, available_bytes=available_bytes, free_bytes=free_bytes
    )


def test_no_more_blocks_than_all_sequences_can_fill() -> None:
    assert choose() == 8 * 7


def test_no_more_blocks_than_fit() -> None:
    assert choose(available_bytes=20_500) == 20
    assert choose(kv_cache_memory_bytes=10_000) == 10


def test_an_explicit_number_of_blocks_is_taken() -> None:
    assert choose(num_gpu_blocks_override=5000, available_bytes=0) == 5000
    with pytest.raises(StartError, match="at least 1"):
        choose(num_gpu_blocks_override=0)


@pytest.mark.parametrize(
    "options", [{"kv_cache_memory_bytes": 3000}, {"num_gpu_blocks_override": 3}]
)
def test_more_than_there_is_cannot_be_asked_for(options: dict[str, int]) -> None:
    with pytest.raises(StartError, match="to have 3000 bytes, but 2999 bytes of memory are free"):
        choose(free_bytes=2999, **options)


@pytest.mark.parametrize("options", [{"kv_cache_memory_bytes": 999}, {"available_bytes": -5}])
def test_too_little_memory_hears_the_numbers(options: dict[str, int]) -> None:
    with pytest.raises(StartError, match="takes 1000 bytes.*set --kv-cache-memory-bytes"):
        choose(**options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_cache_is_zero_without_being_written(dtype: torch.dtype, small_model: Any) -> None:
    config = small_model("llama").decoder.config
    cache = KVCache.allocate(config, 10, 4, dtype, torch.device("cpu"))
    assert len(cache.layers) == config.num_layers
    for tensor in cache.layers[0]:
        assert tensor.shape == (10, 4, config.num_kv_heads, config.head_dim)
        assert tensor.dtype == dtype
        assert not tensor.any()


def test_free_memory_is_a_plausible_number() -> None:
    assert 1 << 20 < free_host_bytes() < 1 << 50
