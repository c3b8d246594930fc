"""Products with a weight matrix, each in the layout that its device multiplies fastest.

Measured on CPUs with AVX2 and AVX-512, one to 256 rows: PyTorch's own `linear` (weight [out, in])
is never the fastest. Small float32 weights want to be stored transposed; large ones, and all of
16 bits, want oneDNN's blocked layout, which saves up to two thirds of the time.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

MIN_PACKED_ELEMENTS = 1 << 21
"""A float32 weight smaller than this gains less from oneDNN than a call to it costs."""


class Linear(Protocol):
    def __call__(self, rows: Tensor) -> Tensor:
        """[num_rows, in] -> [num_rows, out], in fresh memory."""

    def add_to(self, target: Tensor, rows: Tensor) -> None:
        """Adds the product to `target` [num_rows, out], in place."""


def make_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """weight [out, in], bias [out]; both may be given up by the caller."""
    if weight.device.type != "cpu":
        return PlainLinear(weight, bias)
    if weight.dtype != torch.float32 or weight.numel() >= MIN_PACKED_ELEMENTS:
        if _onednn_computes(weight.dtype):
            return PackedLinear(weight, bias)
        if weight.dtype != torch.float32:
            return PlainLinear(weight, bias)
    return TransposedLinear(weight, bias)


class PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.linear(rows, self._weight, self._bias)

    def add_to(self, target: Tensor, rows: Tensor) -> None:
        target.add_(self(rows))


class TransposedLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight.t().contiguous()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        if self._bias is None:
            return torch.mm(rows, self._weight)
        return torch.addmm(self._bias, rows, self._weight)

    def add_to(self, target: Tensor, rows: Tensor) -> None:
        target.addmm_(rows, self._weight)
        if self._bias is not None:
            target.add_(self._bias)


class PackedLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        # Packed for no number of rows in particular: packed for one, it is slow for more.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = bias
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, rows: Tensor) -> Tensor:
        product: Tensor = self._product(rows, self._weight, self._bias, "none", [], "")
        return product

    def add_to(self, target: Tensor, rows: Tensor) -> None:
        target.add_(self(rows))


def _onednn_computes(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True
