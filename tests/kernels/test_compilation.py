"""Every kernel compiles for the GPUs it is meant for; no GPU is needed to see that."""

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter has taken the compiler's place", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenreel.kernels import paged_decode_attention, paged_prefill_attention, store_kv

HOPPER = GPUTarget("cuda", 90, 32)
SHARED_MEMORY_BYTES = 99 * 1024
"""What a program may have on compute capability 8.6 and 8.9, the least since Ampere."""

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Compiled:
    """Stands in for a kernel: compiles what would have been launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.programs: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(size > 0 for size in grid)
        return self.compile

    def compile(self, *arguments: Any, **keywords: Any) -> None:
        names = self.kernel.arg_names
        values = dict(zip(names, arguments, strict=False))
        signature: dict[str, str] = {}
        attributes = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
            # As Triton specializes what it launches.
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(names.index(name),)] = [["tt.divisibility", 16]]
        constants = {name: value for name, value in keywords.items() if name in names}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(self.kernel, signature, constexprs=constants, attrs=attributes)
        options = {name: value for name, value in keywords.items() if name not in names}
        self.programs.append(triton.compile(source, target=HOPPER, options=options))


def compiled(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Compiled:
    stand_in = Compiled(getattr(module, name))
    monkeypatch.setattr(module, name, stand_in)
    return stand_in


SHAPES: dict[str, dict[str, Any]] = {
    "bfloat16": dict(dtype=torch.bfloat16, heads_per_kv_head=4, head_dim=128),
    "float16-window": dict(
        dtype=torch.float16, heads_per_kv_head=3, head_dim=96, sliding_window=100
    ),
    "bfloat16-256": dict(dtype=torch.bfloat16, heads_per_kv_head=8, head_dim=256),
    "float32": dict(dtype=torch.float32, heads_per_kv_head=2, head_dim=24),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def check(program: Any) -> None:
    assert program.asm["cubin"]
    assert program.metadata.shared <= SHARED_MEMORY_BYTES


@shapes
def test_decode_attention_compiles(
    monkeypatch: pytest.MonkeyPatch, make_step: Any, shape: dict[str, Any]
) -> None:
    split = compiled(monkeypatch, paged_decode_attention, "decode_split_kernel")
    merge = compiled(monkeypatch, paged_decode_attention, "merge_splits_kernel")
    step = make_step([(1, 300)], **shape)
    paged_decode_attention.paged_decode_attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        torch.empty_like(step.query),
        scale=step.scale,
        sliding_window=step.sliding_window,
        num_splits=16,
    )
    for program in (*split.programs, *merge.programs):
        check(program)


@shapes
def test_prefill_attention_compiles(
    monkeypatch: pytest.MonkeyPatch, make_step: Any, shape: dict[str, Any]
) -> None:
    kernel = compiled(monkeypatch, paged_prefill_attention, "prefill_kernel")
    step = make_step([(128, 300)], **shape)
    paged_prefill_attention.paged_prefill_attention(
        step.query,
        step.key_cache,
        step.value_cache,
        step.metadata,
        torch.empty_like(step.query),
        scale=step.scale,
        sliding_window=step.sliding_window,
        skip_decodes=True,
    )
    (program,) = kernel.programs
    check(program)


def test_store_kv_compiles(monkeypatch: pytest.MonkeyPatch, make_step: Any) -> None:
    kernel = compiled(monkeypatch, store_kv, "store_kv_kernel")
    step = make_step([(1, 3)], dtype=torch.bfloat16)
    row = step.key_cache[0, :1]
    slots = torch.zeros(1, dtype=torch.int64)
    store_kv.store_kv(row, row, step.key_cache, step.value_cache, slots)
    (program,) = kernel.programs
    check(program)
