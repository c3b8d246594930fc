"""The CPU backend agrees with PyTorch's dense attention, whatever the step."""

import random
from typing import Any

import pytest
import torch

from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.torch_backend import TorchBackend

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
STEPS: dict[str, dict[str, Any]] = {
    "one-decode": dict(lengths=[(1, 77)]),
    "one-token": dict(lengths=[(1, 1)]),
    "decodes-of-one-length": dict(lengths=[(1, 40)] * 5),
    "decodes": dict(lengths=[(1, n) for n in (300, 1, 16, 290, 17, 33, 1)]),
    "whole-prompt": dict(lengths=[(65, 65)]),
    "chunk": dict(lengths=[(40, 133)]),
    "chunk-of-many-tiles": dict(lengths=[(600, 700)], head_dim=16),
    "mixed": dict(lengths=[(1, 9), (30, 30), (1, 200), (0, 7), (17, 50), (1, 1), (2, 3)]),
    "padding": dict(lengths=[(1, 0), (1, 12), (3, 0), (4, 9), (1, 0)]),
    "block-of-1": dict(lengths=[(1, 9), (5, 30)], block_size=1),
    "block-of-128": dict(lengths=[(1, 9), (5, 300)], block_size=128),
    "gqa-of-3": dict(
        lengths=[(1, 9), (5, 30), (1, 31)], num_kv_heads=3, heads_per_kv_head=3, head_dim=80
    ),
    "mha": dict(lengths=[(1, 9), (5, 30)], heads_per_kv_head=1, head_dim=24),
    "window": dict(lengths=[(1, 9), (5, 30), (1, 80), (60, 60), (12, 12)], sliding_window=13),
    "window-of-1": dict(lengths=[(1, 9), (5, 30), (7, 7)], sliding_window=1),
    "window-of-many-tiles": dict(lengths=[(600, 600), (300, 900)], sliding_window=100, head_dim=8),
    "window-beyond-context": dict(lengths=[(1, 9), (5, 30), (7, 7)], sliding_window=1000),
}


def attend(backend: TorchBackend, step: Any) -> torch.Tensor:
    return backend.attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        step.scale,
        step.sliding_window,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", STEPS.values(), ids=STEPS.keys())
def test_attention_agrees_with_dense_attention(
    make_step: Any, shape: dict[str, Any], dtype: torch.dtype
) -> None:
    step = make_step(**shape, dtype=dtype)
    step.assert_close(attend(TorchBackend(), step))


def test_attention_agrees_on_random_steps_one_after_the_other(make_step: Any) -> None:
    generator = random.Random(0)
    backend = TorchBackend()
    for seed in range(40):
        lengths = []
        for _ in range(generator.randint(1, 12)):
            context_len = generator.choice([0, 1, 5, 17, 100, 600])
            query_len = generator.choice([0, 1, 1, 1, context_len, context_len // 2])
            lengths.append((min(query_len, context_len), context_len))
        step = make_step(
            [*lengths, (1, 1)],
            num_kv_heads=generator.choice([1, 2, 3]),
            heads_per_kv_head=generator.choice([1, 2, 3]),
            head_dim=generator.choice([8, 24, 32]),
            block_size=generator.choice([1, 3, 16, 32]),
            sliding_window=generator.choice([None, None, 1, 7, 40]),
            seed=seed,
        )
        step.assert_close(attend(backend, step))


def test_every_layer_of_a_step_reads_its_own_cache(make_step: Any) -> None:
    step, other = make_step([(1, 9), (5, 30)]), make_step([(1, 9), (5, 30)], seed=1)
    backend = TorchBackend()
    first = attend(backend, step)
    backend.attention(other.query, other.key_cache, other.value_cache, step.metadata, step.scale)
    step.assert_close(first)
    step.assert_close(attend(backend, step))


def test_a_step_has_one_plan_per_sliding_window(make_step: Any) -> None:
    step = make_step([(1, 9), (5, 30)])
    backend = TorchBackend()
    for window in (None, 4, None):
        step.sliding_window = window
        step.assert_close(attend(backend, step))
    assert len(step.metadata.derived) == 2


def test_what_a_sequence_gets_hardly_depends_on_the_batch(make_step: Any) -> None:
    step = make_step([(1, 50), (1, 45), (1, 800), (20, 31)])
    together = attend(TorchBackend(), step)
    step.query = step.query[:1]
    step.metadata = AttentionMetadata(
        query_start_loc=step.metadata.query_start_loc[:2],
        context_lens=step.metadata.context_lens[:1],
        block_tables=step.metadata.block_tables[:1],
        slot_mapping=step.metadata.slot_mapping,
        max_query_len=1,
        max_context_len=50,
        all_decode=True,
    )
    alone = attend(TorchBackend(), step)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=1e-6)


def test_stored_tokens_are_attended_to_and_negative_slots_skipped(make_step: Any) -> None:
    step = make_step([(1, 17)], block_size=4)
    slot = step.metadata.block_tables[0, 4:5].long() * 4
    caches = [cache.flatten(0, 1) for cache in (step.key_cache, step.value_cache)]
    key, value = (cache[slot].clone() for cache in caches)
    for cache in caches:
        cache[slot] = float("nan")
    noise = torch.full_like(key, float("nan"))
    backend = TorchBackend()
    backend.store_kv(
        torch.cat([noise, key]),
        torch.cat([noise, value]),
        step.key_cache,
        step.value_cache,
        torch.tensor([-1, int(slot)]),
    )
    step.assert_close(attend(backend, step))


def test_storing_nothing_is_allowed(make_step: Any) -> None:
    step = make_step([(1, 1)])
    nothing = torch.empty(0, 2, 32)
    TorchBackend().store_kv(
        nothing, nothing, step.key_cache, step.value_cache, torch.empty(0, dtype=torch.int64)
    )
    step.assert_close(attend(TorchBackend(), step))
