"""The KV store writes each token to its slot and nothing else, in the kernel and its reference."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from tokenreel.kernels.store_kv import store_kv, store_kv_reference

Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype) -> Tensors:
    generator = torch.Generator().manual_seed(head_dim)
    num_tokens, num_blocks = 9, 8
    # As a fused projection leaves them: parts of rows that hold the queries too.
    wide = torch.randn((num_tokens, 5 * num_kv_heads, head_dim), generator=generator).to(dtype)
    key, value = wide[:, 2 * num_kv_heads : 3 * num_kv_heads], wide[:, 4 * num_kv_heads :]
    slots = torch.randperm(num_blocks * block_size, generator=generator)[:num_tokens]
    slots[[0, 4]] = -1
    caches = torch.full((2, num_blocks, block_size, num_kv_heads, head_dim), float("nan"))
    key_cache, value_cache = caches.to(dtype)
    return key, value, key_cache, value_cache, slots


def check(inputs: Tensors) -> None:
    key, value, key_cache, value_cache, slots = (tensor.cpu() for tensor in inputs)
    written = set()
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        written.add(slot)
        assert torch.equal(key_cache.flatten(0, 1)[slot], key[token])
        assert torch.equal(value_cache.flatten(0, 1)[slot], value[token])
    untouched = sorted(set(range(key_cache.flatten(0, 1).shape[0])) - written)
    assert key_cache.flatten(0, 1)[untouched].isnan().all()
    assert value_cache.flatten(0, 1)[untouched].isnan().all()


shapes = pytest.mark.parametrize(
    ("num_kv_heads", "head_dim", "block_size"), [(1, 8, 2), (3, 24, 5), (2, 96, 16), (8, 80, 128)]
)


@shapes
def test_reference_writes_each_token_to_its_slot(
    num_kv_heads: int, head_dim: int, block_size: int
) -> None:
    inputs = make_inputs(num_kv_heads, head_dim, block_size, torch.float32)
    store_kv_reference(*inputs)
    check(inputs)


@pytest.mark.triton
@shapes
def test_kernel_writes_each_token_to_its_slot(
    triton_device: torch.device,
    triton_dtype: torch.dtype,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
) -> None:
    inputs = make_inputs(num_kv_heads, head_dim, block_size, triton_dtype)
    key, value, key_cache, value_cache, slots = (tensor.to(triton_device) for tensor in inputs)
    store_kv(key, value, key_cache, value_cache, slots)
    check((key, value, key_cache, value_cache, slots))


@pytest.mark.triton
def test_no_token_is_no_launch(triton_device: torch.device) -> None:
    key, value, key_cache, value_cache, slots = (
        tensor.to(triton_device) for tensor in make_inputs(1, 8, 2, torch.float32)
    )
    store_kv(key[:0], value[:0], key_cache, value_cache, slots[:0])
    assert key_cache.isnan().all()
