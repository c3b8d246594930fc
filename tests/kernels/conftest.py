"""Random steps over a poisoned paged cache, with the contiguous truth beside them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenreel.kernels.backend import AttentionMetadata

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if INTERPRETED or torch.cuda.is_available():
        return
    skip = pytest.mark.skip(
        reason="no GPU; TRITON_INTERPRET=1, set before Python starts, runs the kernels on the CPU"
    )
    for item in items:
        if item.get_closest_marker("triton"):
            item.add_marker(skip)


@pytest.fixture
def triton_device() -> torch.device:
    """Where Triton kernels run in this process."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def triton_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if INTERPRETED and request.param == "bfloat16":
        pytest.skip("Triton's interpreter multiplies bfloat16 by its bits; natively only")
    dtype: torch.dtype = getattr(torch, request.param)
    return dtype


@dataclass
class PagedStep:
    """A step whose caches hold NaN wherever no context lies."""

    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    metadata: AttentionMetadata
    scale: float
    sliding_window: int | None
    truth: list[tuple[Tensor, Tensor, Tensor]]
    """Per sequence its queries, keys and values, contiguous: [heads, tokens, head_dim]."""

    def expected(self) -> Tensor:
        """PyTorch's own attention on the contiguous truth, in float64."""
        outputs = []
        for query, keys, values in self.truth:
            num_heads, num_tokens, _ = query.shape
            context_len = keys.shape[1]
            if context_len == 0:
                outputs.append(torch.zeros_like(query).transpose(0, 1))
                continue
            positions = torch.arange(context_len - num_tokens, context_len).unsqueeze(1)
            key_positions = torch.arange(context_len)
            visible = key_positions <= positions
            if self.sliding_window is not None:
                visible &= key_positions > positions - self.sliding_window
            repeats = num_heads // keys.shape[0]
            output = scaled_dot_product_attention(
                query.double(),
                keys.double().repeat_interleave(repeats, 0),
                values.double().repeat_interleave(repeats, 0),
                attn_mask=visible,
                scale=self.scale,
            )
            outputs.append(output.transpose(0, 1))
        return torch.cat(outputs).to(self.query)

    def assert_close(self, output: Tensor) -> None:
        tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
        limit = tolerance[self.query.dtype]
        torch.testing.assert_close(output, self.expected(), atol=limit, rtol=limit)


StepFactory = Callable[..., PagedStep]


@pytest.fixture
def make_step() -> Iterator[StepFactory]:
    """Builds a PagedStep from a list of (query_len, context_len)."""
    yield build_step


def build_step(
    lengths: list[tuple[int, int]],
    *,
    num_kv_heads: int = 2,
    heads_per_kv_head: int = 2,
    head_dim: int = 32,
    block_size: int = 16,
    sliding_window: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    seed: int = 0,
) -> PagedStep:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    num_blocks = [-(-context_len // block_size) for _, context_len in lengths]
    pool = torch.randperm(sum(num_blocks) + 3, generator=generator).to(torch.int32)
    # What follows a table's last block must not be read: it points outside of the pool.
    tables = torch.full((len(lengths), max(num_blocks) + 2), -(10**6), dtype=torch.int32)
    cache_shape = (len(pool), block_size, num_kv_heads, head_dim)
    key_cache = torch.full(cache_shape, float("nan"), dtype=dtype)
    value_cache = torch.full(cache_shape, float("nan"), dtype=dtype)
    starts = [0]
    truth = []
    used = 0
    for seq, (query_len, context_len) in enumerate(lengths):
        blocks = pool[used : used + num_blocks[seq]]
        used += num_blocks[seq]
        tables[seq, : len(blocks)] = blocks
        keys, values = (random(context_len, num_kv_heads, head_dim) for _ in range(2))
        positions = torch.arange(context_len)
        places = blocks[positions // block_size].long(), positions % block_size
        key_cache[places], value_cache[places] = keys, values
        query = random(query_len, num_kv_heads * heads_per_kv_head, head_dim)
        starts.append(starts[-1] + query_len)
        truth.append((query.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1)))
    query_lens, context_lens = zip(*lengths, strict=True)
    return PagedStep(
        query=torch.cat([query.transpose(0, 1) for query, _, _ in truth]).to(device),
        key_cache=key_cache.to(device),
        value_cache=value_cache.to(device),
        metadata=AttentionMetadata(
            query_start_loc=torch.tensor(starts, dtype=torch.int32, device=device),
            context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
            block_tables=tables.to(device),
            slot_mapping=torch.empty(0, dtype=torch.int64, device=device),
            max_query_len=max(query_lens),
            max_context_len=max(context_lens),
            all_decode=set(query_lens) == {1},
        ),
        scale=head_dim**-0.5,
        sliding_window=sliding_window,
        truth=truth,
    )
