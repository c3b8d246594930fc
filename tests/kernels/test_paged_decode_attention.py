"""Split-KV decode attention agrees with PyTorch's dense attention, and so does its reference."""

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
LENGTHS = [1, 150, 16, 0, 33]

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@shapes
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


def decode(step: Any, num_splits: int) -> torch.Tensor:
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
@shapes
def test_kernel_agrees_with_dense_attention(
    make_step: Any,
    triton_device: torch.device,
    triton_dtype: torch.dtype,
    shape: dict[str, Any],
    num_splits: int,
) -> None:
    lengths = [(1, length) for length in LENGTHS]
    step = make_step(lengths, device=triton_device, dtype=triton_dtype, seed=num_splits, **shape)
    step.assert_close(decode(step, num_splits))


@pytest.mark.triton
def test_more_splits_than_keys_leave_no_trace(make_step: Any, triton_device: torch.device) -> None:
    step = make_step([(1, 1), (1, 0), (1, 70)], num_kv_heads=1, device=triton_device)
    step.assert_close(decode(step, MAX_SPLITS))


@pytest.mark.triton
def test_a_query_may_be_a_part_of_a_wider_tensor(
    make_step: Any, triton_device: torch.device
) -> None:
    step = make_step([(1, 20), (1, 3)], device=triton_device)
    wide = torch.full((2, 9, 32), float("nan"), device=triton_device)
    wide[:, 2:6] = step.query
    query, step.query = step.query, wide[:, 2:6]
    output = torch.full_like(query, float("nan"))
    paged_decode_attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        output,
        scale=step.scale,
        num_splits=2,
    )
    step.assert_close(output)


@pytest.mark.triton
def test_sequences_with_other_than_one_token_are_left_alone(
    make_step: Any, triton_device: torch.device
) -> None:
    step = make_step([(1, 9), (3, 30), (0, 5), (1, 40)], num_kv_heads=1, device=triton_device)
    for num_splits in (1, 2):
        output = decode(step, num_splits)
        assert output[1:4].isnan().all()
        expected = step.expected()
        torch.testing.assert_close(output[[0, 4]], expected[[0, 4]], atol=1e-5, rtol=1e-5)


def test_splits_fill_the_device_but_stay_long_enough() -> None:
    assert choose_num_splits(256, 8, 8192, num_multiprocessors=132) == 1
    assert choose_num_splits(1, 8, 100_000, num_multiprocessors=132) == 64
    assert choose_num_splits(4, 8, 100_000, num_multiprocessors=132) == 16
    assert choose_num_splits(1, 8, 600, num_multiprocessors=132) == 4
    assert choose_num_splits(1, 1, 10, num_multiprocessors=132) == 1
    assert choose_num_splits(1, 1, 10**6, num_multiprocessors=132) == MAX_SPLITS
