"""Split-KV decode attention agrees with its reference, and the reference with PyTorch."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tokenreel.kernels.paged_decode_attention import (
    MAX_SPLITS,
    choose_num_splits,
    paged_decode_attention,
    paged_decode_attention_reference,
)

SHAPES: dict[str, dict[str, Any]] = {
    "mha": dict(num_kv_heads=3, heads_per_kv_head=1, head_dim=32),
    "gqa-of-3": dict(num_kv_heads=3, heads_per_kv_head=3, head_dim=64),
    "mqa-of-20": dict(num_kv_heads=1, heads_per_kv_head=20, head_dim=16),
    "head-dim-24": dict(num_kv_heads=2, heads_per_kv_head=2, head_dim=24, block_size=1),
    "head-dim-80": dict(num_kv_heads=1, heads_per_kv_head=5, head_dim=80, block_size=7),
    "head-dim-96": dict(num_kv_heads=2, heads_per_kv_head=4, head_dim=96, block_size=128),
    "head-dim-8": dict(num_kv_heads=2, heads_per_kv_head=2, head_dim=8, block_size=32),
    "window": dict(sliding_window=19),
    "window-of-1": dict(sliding_window=1, block_size=3),
    "window-beyond-context": dict(sliding_window=10_000),
}
LENGTHS = [1, 333, 15, 16, 17, 129, 2, 0, 64]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_reference_agrees_with_dense_attention(make_step: Any, shape: dict[str, Any]) -> None:
    step = make_step([(1, length) for length in LENGTHS], **shape)
    output = paged_decode_attention_reference(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        scale=step.scale,
        sliding_window=step.sliding_window,
    )
    step.assert_close(output)


def run(step: Any, num_splits: int) -> torch.Tensor:
    output = torch.full_like(step.query, float("nan"))
    paged_decode_attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        output,
        scale=step.scale,
        sliding_window=step.sliding_window,
        num_splits=num_splits,
    )
    return output


@pytest.mark.triton
@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_kernel_agrees_with_dense_attention(
    make_step: Any,
    triton_device: torch.device,
    triton_dtype: torch.dtype,
    shape: dict[str, Any],
    num_splits: int,
) -> None:
    lengths = [(1, length) for length in LENGTHS]
    step = make_step(lengths, device=triton_device, dtype=triton_dtype, seed=num_splits, **shape)
    step.assert_close(run(step, num_splits))
