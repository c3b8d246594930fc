"""Attention over pages: PyTorch's results, and the same bits however a sequence is computed."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenreel.kernels.cpu.attention import (
    attention_item,
    attention_merge,
    attention_scratch_size,
)
from tokenreel.kernels.cpu.attention_plan import (
    NO_WINDOW,
    AttentionShape,
    new_attention_plan,
    plan_attention,
)
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.product import as_numpy

_attention_item = compiled(attention_item)
_attention_merge = compiled(attention_merge)
_plan_attention = compiled(plan_attention)

INTEGERS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
NAN = float("nan")


def padded(size: int) -> int:
    return -(-size // 16) * 16


@dataclass
class Whole:
    """A sequence: what all of its tokens ask, and what they hold."""

    queries: Tensor  # [num_tokens, num_heads, head_dim] float32
    keys: Tensor  # [num_tokens, num_kv_heads, head_dim] of the cache's type
    values: Tensor

    @classmethod
    def random(cls, shape: AttentionShape, length: int, dtype: torch.dtype, seed: int) -> "Whole":
        generator = torch.Generator().manual_seed(seed)

        def draw(num_heads: int) -> Tensor:
            return torch.randn(length, num_heads, shape.head_dim, generator=generator)

        queries, keys, values = (
            draw(n) for n in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        )
        return cls(queries * 2, keys.to(dtype), values.to(dtype))

    def expected(self, shape: AttentionShape, start: int, stop: int) -> Tensor:
        """[stop - start, num_heads, head_dim], in float64."""
        positions = torch.arange(start, stop).unsqueeze(1)
        key_positions = torch.arange(stop)
        visible = (key_positions <= positions) & (key_positions > positions - shape.window)
        repeats = shape.num_heads // shape.num_kv_heads
        attended = scaled_dot_product_attention(
            self.queries[start:stop].double().transpose(0, 1),
            self.keys[:stop].double().transpose(0, 1).repeat_interleave(repeats, 0),
            self.values[:stop].double().transpose(0, 1).repeat_interleave(repeats, 0),
            attn_mask=visible,
            scale=shape.scale,
        )
        return attended.transpose(0, 1)


@dataclass
class Part:
    """Tokens `start` to `stop` of a sequence: what one step computes of it. With `stop` 0 they are
    padding, which asks for NaN."""

    whole: Whole
    start: int
    stop: int


def fill_pages(
    shape: AttentionShape, parts: list[Part], dtype: torch.dtype, order: random.Random
) -> tuple[Tensor, Tensor, NDArray[np.int32]]:
    """Caches and block tables; NaN wherever no part has a token, or none that its window needs."""
    size = shape.block_size
    num_blocks = [-(-part.stop // size) for part in parts]
    free = list(range(sum(num_blocks) + 2))
    order.shuffle(free)
    page = shape.num_kv_heads, padded(shape.head_dim), padded(size)
    keys = torch.full((len(free), *page), NAN).to(dtype)
    values = torch.full((len(free), page[0], page[2], page[1]), NAN).to(dtype)
    tables = np.full((len(parts), max(num_blocks, default=0) + 1), free.pop(), np.int32)
    for row, part in enumerate(parts):
        seen_from = max(0, part.start + 1 - shape.window)
        for index in range(num_blocks[row]):
            tables[row, index] = block = free.pop()
            for position in range(max(index * size, seen_from), min((index + 1) * size, part.stop)):
                slot = position - index * size
                keys[block, :, :, slot] = 0
                values[block, :, slot] = 0
                keys[block, :, : shape.head_dim, slot] = part.whole.keys[position]
                values[block, :, slot, : shape.head_dim] = part.whole.values[position]
    return keys, values, tables


def attend(
    shape: AttentionShape,
    parts: list[Part],
    dtype: torch.dtype,
    *,
    num_threads: int = 1,
    seed: int = 0,
    attended_dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Each part's attended rows [num_tokens, num_heads, head_dim], from one step with all parts,
    its items computed in a random order, by `num_threads` at once."""
    order = random.Random(seed)
    keys, values, tables = fill_pages(shape, parts, dtype, order)
    width = padded(shape.head_dim)
    lengths = [part.stop - part.start for part in parts]
    num_tokens, num_rotated = sum(lengths), shape.num_heads + 2 * shape.num_kv_heads
    qkv = torch.full((num_tokens, num_rotated, width), NAN)
    for begin, part in zip(np.cumsum([0, *lengths]), parts, strict=False):
        if part.stop > 0:
            rows = qkv[begin : begin + part.stop - part.start, : shape.num_heads, : shape.head_dim]
            rows.copy_(part.whole.queries[part.start : part.stop])
    stride = shape.num_heads * width + 16
    attended = torch.full((num_tokens, stride), NAN).to(attended_dtype)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    context_lens = np.array([part.stop for part in parts], np.int32)
    plan = new_attention_plan(shape, num_tokens, len(parts), max((*context_lens, 1)), num_threads)
    plan.partials.fill(NAN)
    _plan_attention(shape, starts, context_lens, len(parts), num_threads, plan)
    caches: tuple[Any, Any] = as_numpy(keys), as_numpy(values)
    out: Any = as_numpy(attended)

    def compute(item: int) -> None:
        scratch = np.full(attention_scratch_size(shape.head_dim), NAN, np.float32)
        _attention_item(
            item, shape, plan, starts, context_lens, tables, qkv.numpy(), *caches, out, stride,
            scratch,
        )  # fmt: skip

    items = list(range(plan.counts[0]))
    order.shuffle(items)
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(compute, items))
    for merge in range(plan.counts[1]):
        _attention_merge(merge, shape, plan, starts, out, stride)
    assert attended[:, stride - 16 :].isnan().all()
    heads = attended[:, :-16].view(num_tokens, shape.num_heads, width)
    assert (heads[..., shape.head_dim :] == 0).all()
    return list(heads[..., : shape.head_dim].split(lengths))


@st.composite
def shapes(draw: st.DrawFn) -> AttentionShape:
    num_kv_heads = draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([8, 16, 32, 48, 64, 80, 96, 128]))
    return AttentionShape(
        num_heads=num_kv_heads * draw(st.sampled_from([1, 2, 3, 4, 7, 13])),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=draw(st.sampled_from([1, 3, 8, 16, 24, 32])),
        window=draw(st.sampled_from([NO_WINDOW, NO_WINDOW, 1, 7, 100])),
        scale=head_dim**-0.5,
    )


CACHE_TYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
LENGTHS = st.one_of(st.integers(1, 40), st.integers(40, 700))


@st.composite
def steps(draw: st.DrawFn, shape: AttentionShape, dtype: torch.dtype) -> list[Part]:
    """Prefills, decodes, chunks of both kinds, and sequences that wait."""
    parts = []
    for seed in range(draw(st.integers(1, 5))):
        stop = draw(LENGTHS)
        num_tokens = min(stop, draw(st.sampled_from([0, 1, 1, 2, 5, 33, 700])))
        parts.append(Part(Whole.random(shape, stop, dtype, seed), stop - num_tokens, stop))
    return parts


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), shapes(), CACHE_TYPES, st.sampled_from([1, 2, 5]))
def test_agrees_with_pytorch(
    data: st.DataObject, shape: AttentionShape, dtype: torch.dtype, num_threads: int
) -> None:
    parts = data.draw(steps(shape, dtype))
    for part, output in zip(
        parts, attend(shape, parts, dtype, num_threads=num_threads), strict=True
    ):
        expected = part.whole.expected(shape, part.start, part.stop)
        torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


def cut(length: int, sizes: list[int]) -> Iterator[tuple[int, int]]:
    """[0, length) in pieces of the given sizes, over and over."""
    start = 0
    while start < length:
        for size in sizes:
            if start < length:
                yield start, min(start + size, length)
            start += size


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data(), shapes(), CACHE_TYPES)
def test_a_token_has_the_same_bits_in_any_step(
    data: st.DataObject, shape: AttentionShape, dtype: torch.dtype
) -> None:
    length = data.draw(LENGTHS)
    whole = Whole.random(shape, length, dtype, 99)
    (alone,) = attend(shape, [Part(whole, 0, length)], dtype)
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 17, 50, 300]), min_size=1, max_size=4))
    for start, stop in list(cut(length, sizes))[-12:]:
        parts = [Part(whole, start, stop), *data.draw(steps(shape, dtype))]
        place = data.draw(st.integers(0, len(parts) - 1))
        parts[0], parts[place] = parts[place], parts[0]
        among = attend(
            shape, parts, dtype, num_threads=data.draw(st.sampled_from([1, 2, 5])), seed=start
        )
        assert torch.equal(among[place].view(torch.int32), alone[start:stop].view(torch.int32))


def test_a_long_decode_is_cut_for_two_threads_and_has_the_bits_of_a_prefill() -> None:
    shape = AttentionShape(9, 3, 64, 16, NO_WINDOW, 0.125)
    length = 2500
    whole = Whole.random(shape, length, torch.bfloat16, 1)
    (prefilled,) = attend(shape, [Part(whole, 0, length)], torch.bfloat16)
    decode = [Part(whole, length - 1, length)]
    for num_threads in (1, 2, 7):
        (decoded,) = attend(shape, decode, torch.bfloat16, num_threads=num_threads)
        assert torch.equal(decoded, prefilled[-1:])
    plan = new_attention_plan(shape, 1, 1, length, 2)
    _plan_attention(shape, np.array([0, 1], np.int32), np.array([length], np.int32), 1, 2, plan)
    assert plan.counts.tolist() == [30, 3]


def test_short_contexts_need_no_merge() -> None:
    shape = AttentionShape(4, 2, 32, 16, NO_WINDOW, 1.0)
    plan = new_attention_plan(shape, 64, 64, 2048, 2)
    starts, context_lens = np.arange(65, dtype=np.int32), np.full(64, 100, np.int32)
    _plan_attention(shape, starts, context_lens, 64, 2, plan)
    assert plan.counts[1] == 0
    assert plan.items[plan.counts[0]] == 128


@settings(max_examples=10, deadline=None, derandomize=True)
@given(shapes(), st.integers(1, 60))
def test_tokens_without_a_context_are_padding_and_give_zeros(
    shape: AttentionShape, num_tokens: int
) -> None:
    whole = Whole.random(shape, num_tokens, torch.float32, 5)
    padding = Part(whole, -num_tokens, 0)
    decode = Part(whole, num_tokens - 1, num_tokens)
    zeros, attended = attend(shape, [padding, decode], torch.float32)
    assert (zeros == 0).all()
    assert not attended.isnan().any()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.data(), shapes())
def test_rows_for_amx_are_rounded_to_bfloat16(data: st.DataObject, shape: AttentionShape) -> None:
    parts = data.draw(steps(shape, torch.bfloat16))
    exact = attend(shape, parts, torch.bfloat16)
    rounded = attend(shape, parts, torch.bfloat16, attended_dtype=torch.bfloat16)
    for float32, bfloat16 in zip(exact, rounded, strict=True):
        assert torch.equal(float32.bfloat16(), bfloat16)
