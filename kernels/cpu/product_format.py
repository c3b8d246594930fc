"""What a model's products are computed in: how weights are packed, and what rows they take."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.kernels.cpu import int8_product, int8_weights, product
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.amx import has_amx
from tokenreel.kernels.cpu.int8_rows import row_bytes


class ProductFormat(NamedTuple):
    pack: Callable[[Tensor], NDArray[Any]]
    """weight [out, in] -> [panels, ...]"""
    row_type: type[np.generic]
    """Of rows between operations; uint16 stands for bfloat16."""
    has_int8_rows: bool
    """Whether rows are brought to 8 bits before they are multiplied."""

    def new_factors(self, num_rows: int, stride: int) -> NDArray[np.uint8] | None:
        """Space of `factors` for so many rows, each of up to `stride` elements."""
        return zeros(num_rows * row_bytes(stride), np.uint8) if self.has_int8_rows else None


def choose_format(dtype: torch.dtype, quantization: str | None) -> ProductFormat:
    """quantization: None, "int8" or "int8-weight-only"."""
    if quantization == "int8":
        return ProductFormat(int8_product.pack, np.float32, True)
    for_amx = dtype == torch.bfloat16 and has_amx()
    pack = product.pack if quantization is None else int8_weights.pack
    return ProductFormat(
        partial(pack, for_amx=for_amx), np.uint16 if for_amx else np.float32, False
    )
