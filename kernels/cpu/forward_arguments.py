"""What `decoder_step.forward` is called with, but for its sizes: all that its compilation needs.

It takes no model and no PyTorch, so that a process can begin to compile at once.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tokenreel.kernels.cpu.amx import TILE_CONFIGURATION
from tokenreel.kernels.cpu.attention_plan import AttentionShape, new_attention_plan
from tokenreel.kernels.cpu.decoder_step import Inputs, Pages, Scratch, Shape, Weights
from tokenreel.kernels.cpu.product_format import choose_format
from tokenreel.kernels.cpu.team import Meeting


def forward_arguments(
    element_type: type[np.generic], quantization: str | None, num_kinds: int
) -> tuple[Any, ...]:
    """element_type: of weights as they are read, and of the cache; uint16 stands for bfloat16,
    int16 for float16. quantization: see `choose_format`. num_kinds: of attention."""
    products = choose_format(element_type, quantization)
    kinds = (AttentionShape(1, 1, 1, 1, 1, 1.0),) * num_kinds
    return (
        0,
        Meeting(1, _empty(1, np.int64), _empty(1, np.int64)),
        Shape(1, 1, 1, 1, 1, 1, 1.0),
        _weights(_empty(1 + products.num_dims, products.weight_type)),
        _empty(1, element_type),
        (_empty(1), _empty(1)),
        kinds,
        tuple(new_attention_plan(kind, 1, 1, 1, 1) for kind in kinds),
        Pages(_empty(5, element_type), _empty(5, element_type)),
        Inputs(
            token_ids=_empty(1, np.int32),
            positions=_empty(1, np.int32),
            slot_mapping=_empty(1, np.int64),
            query_start_loc=_empty(1, np.int32),
            context_lens=_empty(1, np.int32),
            block_tables=_empty(2, np.int32),
            wanted=_empty(1, np.int64),
        ),
        Scratch(
            hidden=_empty(1),
            rows=_empty(1, products.row_type),
            attended=_empty(1, products.row_type),
            inner=_empty(1, products.row_type),
            factors=products.new_factors(1, 1),
            qkv=_empty(1),
            sums=_empty(2),
            attention=_empty(2),
            tiles=TILE_CONFIGURATION,
        ),
    )


def _weights(product: NDArray[Any]) -> Weights:
    vector = _empty(2)
    return Weights(
        attention_gain=vector,
        qkv=product,
        qkv_bias=vector,
        query_gain=vector,
        key_gain=vector,
        output=product,
        output_bias=vector,
        mlp_gain=vector,
        gate_up=product,
        gate_up_bias=vector,
        down=product,
        down_bias=vector,
        attention_kinds=_empty(1, np.int64),
    )


def _empty(num_dims: int, element_type: DTypeLike = np.float32) -> NDArray[Any]:
    return np.empty((0,) * num_dims, element_type)
