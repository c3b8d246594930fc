"""Rotary embedding, the norm of heads before it, and where keys and values are stored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenreel.kernels.cpu.attention_plan import NO_WINDOW, AttentionShape
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.product import as_numpy
from tokenreel.kernels.cpu.rotary import rotate_and_store

_rotate_and_store = compiled(rotate_and_store)

EPS = 1e-6
MAX_POSITIONS = 300


def padded(size: int) -> int:
    return -(-size // 16) * 16


def rotated(heads: Tensor, positions: Tensor, angles: Tensor, gain: Tensor | None) -> Tensor:
    """heads [num_tokens, num_heads, head_dim], in float64."""
    heads = heads.double()
    if gain is not None:
        heads = heads / (heads.square().mean(-1, keepdim=True) + EPS).sqrt() * gain.double()
    cosines, sines = (
        table[positions.long()].double().unsqueeze(1) for table in (angles.cos(), angles.sin())
    )
    first, second = heads.chunk(2, -1)
    turned = first * cosines - second * sines, second * cosines + first * sines
    return torch.cat(turned, -1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([8, 16, 32, 48, 64, 80, 96, 128]),
    block_size=st.sampled_from([1, 3, 8, 16, 32]),
    num_tokens=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    is_normed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_agrees_with_pytorch(
    num_kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    num_tokens: int,
    dtype: torch.dtype,
    is_normed: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_heads, width = group * num_kv_heads, padded(head_dim)
    shape = AttentionShape(num_heads, num_kv_heads, head_dim, block_size, NO_WINDOW, 1.0)
    qkv = torch.zeros(num_tokens, num_heads + 2 * num_kv_heads, width)
    qkv[..., :head_dim] = torch.randn(*qkv.shape[:2], head_dim, generator=generator)
    angles = torch.rand(MAX_POSITIONS, head_dim // 2, generator=generator) * 6
    positions = torch.randint(0, MAX_POSITIONS, (num_tokens,), generator=generator).int()
    gains = torch.zeros(2, width)
    gains[:, :head_dim] = torch.randn(2, head_dim, generator=generator)
    num_blocks = -(-num_tokens // block_size) + 1
    slots = torch.randperm(num_blocks * block_size, generator=generator)[:num_tokens]
    slots[torch.rand(num_tokens, generator=generator) < 0.2] = -1
    page = num_blocks, num_kv_heads, width, padded(block_size)
    keys = torch.full(page, float("nan")).to(dtype)
    values = torch.full((*page[:2], page[3], page[2]), float("nan")).to(dtype)
    first, end = num_tokens // 3, num_tokens
    before = qkv.clone()

    _rotate_and_store(
        first,
        end,
        shape,
        positions.numpy(),
        slots.numpy(),
        angles.cos().flatten().numpy(),
        angles.sin().flatten().numpy(),
        *(gains.numpy() if is_normed else np.zeros((2, 0), np.float32)),
        EPS,
        qkv.view(-1).numpy(),
        as_numpy(keys),
        as_numpy(values),
    )

    assert torch.equal(qkv[:first], before[:first])
    assert (qkv[..., head_dim:] == 0).all()
    query_gain, key_gain = (gain[:head_dim] if is_normed else None for gain in gains)
    for heads, gain in (
        (slice(0, num_heads), query_gain),
        (slice(num_heads, num_heads + num_kv_heads), key_gain),
    ):
        expected = rotated(before[:, heads, :head_dim], positions, angles, gain)
        output = qkv[:, heads, :head_dim].double()
        torch.testing.assert_close(output[first:], expected[first:], atol=1e-5, rtol=1e-5)
    stored = torch.zeros(num_blocks, page[3], dtype=torch.bool)
    for token in range(first, end):
        slot = int(slots[token])
        if slot < 0:
            continue
        block, offset = divmod(slot, block_size)
        stored[block, offset] = True
        key, value = qkv[token, num_heads:].split(num_kv_heads)
        assert torch.equal(keys[block, :, :, offset], key.to(dtype))
        assert torch.equal(values[block, :, offset], value.to(dtype))
    assert keys.movedim(3, 1)[~stored].isnan().all()
    assert values.movedim(2, 1)[~stored].isnan().all()


@pytest.mark.parametrize("num_alone", [1, 3])
def test_a_token_has_the_same_bits_in_any_range(num_alone: int) -> None:
    shape = AttentionShape(4, 2, 32, 16, NO_WINDOW, 1.0)
    qkv = torch.randn(7, 8, 32)
    again = qkv.clone()
    angles = torch.rand(10, 16)
    positions, slots = np.arange(7, dtype=np.int32), np.arange(7, dtype=np.int64)
    gain = np.random.default_rng(0).standard_normal(32, np.float32)
    caches = np.zeros((2, 1, 2, 32, 16), np.float32)
    tables = angles.cos().flatten().numpy(), angles.sin().flatten().numpy(), gain, gain, EPS

    def run(first: int, end: int, rows: Tensor) -> None:
        pages = caches[0], caches[1].reshape(1, 2, 16, 32)
        _rotate_and_store(
            first, end, shape, positions, slots, *tables, rows.view(-1).numpy(), *pages
        )

    run(0, 7, qkv)
    for first in range(0, 7, num_alone):
        run(first, min(first + num_alone, 7), again)
    assert torch.equal(qkv, again)
