"""What a model's products are computed in: how weights are packed, and what rows they take."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu import int8_product, int8_weights, product
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.amx import has_amx
from tokenreel.kernels.cpu.int8_rows import row_bytes

if TYPE_CHECKING:
    from torch import Tensor


ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.int16,
}
"""How numbers of a checkpoint's dtype go by in compiled functions."""


class ProductFormat(NamedTuple):
    pack: "Callable[[Tensor], NDArray[Any]]"
    """weight [out, in] -> [panels, ...]"""
    weight_type: type[np.generic]
    """Of what is packed; uint16 stands for bfloat16, int16 for float16."""
    num_dims: int
    """Alike."""
    row_type: type[np.generic]
    """Of rows between operations."""
    has_int8_rows: bool
    """Whether rows are brought to 8 bits before they are multiplied."""

    def new_factors(self, num_rows: int, stride: int) -> NDArray[np.uint8] | None:
        """Space of `factors` for so many rows, each of up to `stride` elements."""
        return zeros(num_rows * row_bytes(stride), np.uint8) if self.has_int8_rows else None


def choose_format(element_type: type[np.generic], quantization: str | None) -> ProductFormat:
    """element_type: of the weights as they are read. quantization: None, "int8" or
    "int8-weight-only"."""
    if quantization == "int8":
        return ProductFormat(int8_product.pack, np.int8, 2, np.float32, True)
    for_amx = element_type is np.uint16 and has_amx()
    row_type = np.uint16 if for_amx else np.float32
    if quantization is None:
        pack = partial(product.pack, for_amx=for_amx)
        return ProductFormat(pack, element_type, 3, row_type, False)
    pack = partial(int8_weights.pack, for_amx=for_amx)
    return ProductFormat(pack, np.int8, 2, row_type, False)
