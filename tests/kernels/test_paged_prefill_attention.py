"""Variable-length prefill attention agrees with PyTorch's dense one, and so does its reference."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tokenreel.kernels.paged_prefill_attention import (
    paged_prefill_attention,
    paged_prefill_attention_reference,
)

SHAPES: dict[str, dict[str, Any]] = {
    "mha": dict(num_kv_heads=2, heads_per_kv_head=1, head_dim=32),
    "gqa-of-3": dict(num_kv_heads=2, heads_per_kv_head=3, head_dim=64),
    "mqa-of-20": dict(num_kv_heads=1, heads_per_kv_head=20, head_dim=16),
    "head-dim-8": dict(num_kv_heads=1, heads_per_kv_head=2, head_dim=8, block_size=32),
    "head-dim-24": dict(num_kv_heads=2, heads_per_kv_head=2, head_dim=24, block_size=1),
    "head-dim-80": dict(num_kv_heads=1, heads_per_kv_head=5, head_dim=80, block_size=7),
    "head-dim-96": dict(num_kv_heads=1, heads_per_kv_head=4, head_dim=96, block_size=128),
    "window": dict(num_kv_heads=1, sliding_window=19),
    "window-of-1": dict(num_kv_heads=1, sliding_window=1, block_size=3),
    "window-beyond-context": dict(num_kv_heads=1, sliding_window=10_000),
}
# Whole prompts, later chunks, decodes, a sequence without a token, padding.
LENGTHS = [(1, 1), (1, 70), (33, 33), (0, 12), (17, 150), (2, 3), (1, 0), (70, 71)]

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@shapes
def test_reference_agrees_with_dense_attention(make_step: Any, shape: dict[str, Any]) -> None:
    step = make_step(LENGTHS, **shape)
    output = paged_prefill_attention_reference(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        scale=step.scale,
        sliding_window=step.sliding_window,
    )
    step.assert_close(output)


def prefill(step: Any, *, skip_decodes: bool = False) -> torch.Tensor:
    output = torch.full_like(step.query, float("nan"))
    paged_prefill_attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        output,
        scale=step.scale,
        sliding_window=step.sliding_window,
        skip_decodes=skip_decodes,
    )
    return output


@pytest.mark.triton
@shapes
def test_kernel_agrees_with_dense_attention(
    make_step: Any, triton_device: torch.device, triton_dtype: torch.dtype, shape: dict[str, Any]
) -> None:
    step = make_step(LENGTHS, device=triton_device, dtype=triton_dtype, seed=1, **shape)
    step.assert_close(prefill(step))


@pytest.mark.triton
@pytest.mark.parametrize("lengths", [[(1, 1)], [(0, 4)] * 3 + [(2, 40)], [(7, 7)] * 9])
def test_every_tile_finds_its_sequence(
    make_step: Any, triton_device: torch.device, lengths: list[tuple[int, int]]
) -> None:
    step = make_step(lengths, num_kv_heads=1, device=triton_device)
    step.assert_close(prefill(step))


@pytest.mark.triton
def test_decodes_are_left_alone_on_request(make_step: Any, triton_device: torch.device) -> None:
    step = make_step([(1, 9), (3, 30), (1, 40)], num_kv_heads=1, device=triton_device)
    output = prefill(step, skip_decodes=True)
    assert output[[0, 4]].isnan().all()
    torch.testing.assert_close(output[1:4], step.expected()[1:4], atol=1e-5, rtol=1e-5)
