"""Whatever the layout of a weight, its product is the product."""

import pytest
import torch
from torch.nn import functional

from tokenreel.actors.worker.models.linear import (
    Linear,
    PackedLinear,
    PlainLinear,
    TransposedLinear,
    make_linear,
)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])).to(dtype)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("layout", [PlainLinear, TransposedLinear, PackedLinear])
def test_layouts_agree(layout: type[Linear], has_bias: bool) -> None:
    weight, bias = numbers(24, 40), numbers(24) if has_bias else None
    linear = layout(weight.clone(), bias)  # type: ignore[call-arg]
    for num_rows in (1, 3, 33):
        rows, target = numbers(num_rows, 40), numbers(num_rows, 24)
        expected = functional.linear(rows, weight, bias)
        torch.testing.assert_close(linear(rows), expected)
        summed = target.clone()
        linear.add_to(summed, rows)
        torch.testing.assert_close(summed, target + expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16, 8), (2048, 1024)])
def test_every_format_finds_a_layout(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight = numbers(*shape, dtype=dtype) * 0.01
    rows = numbers(2, shape[1], dtype=dtype)
    found = make_linear(weight, None)(rows)
    assert found.dtype == dtype
    expected = functional.linear(rows.float(), weight.float())
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
