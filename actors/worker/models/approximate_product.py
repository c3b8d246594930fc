"""Which tokens can have the largest logit, told by a cheaper product whose error is bounded.

With h the hidden state, w a token's weights, and ^ what the cheaper product takes for them,

  |^h.^w - h.w|  <=  |^h - h| |^w|  +  |h| |^w - w|        (Cauchy and Schwarz)

so that the largest exact logit stands among those whose approximate ones are within twice that
bound of their maximum. |^w - w| is measured at load. Both products here are for a CPU.
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

ROUNDING = 1.01
"""For the float32 arithmetic around a product and in the bounds themselves."""


class Candidates(NamedTuple):
    """Tokens that may be a row's best: by row, within a row by token; at least one for each row,
    and one of them may come twice."""

    rows: Array
    token_ids: Array


class EightBitProduct:
    """FBGEMM's, for a few rows: it reads a quarter of the bytes.

    It rounds hidden states to the nearest of 255 steps from the least to the largest element;
    elements within a step of these ends may be clipped instead.
    """

    MIN_STEP = 1e-4
    """FBGEMM widens smaller steps, and the bound would not hold."""

    def __init__(self, weight: Tensor) -> None:
        """weight [vocab_size, hidden_size] float32."""
        quantized = _quantize(weight)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        taken = quantized.dequantize()
        self._taken_norm = float(taken.norm(dim=1).max())
        self._lost_norm = float((taken - weight).norm(dim=1).max())
        self._lost_norm += _summing_error(weight.shape[1]) * self._taken_norm
        # Without VNNI pairs of products are added in 16 bits, where full-range ones overflow.
        self._has_vnni = bool(torch.cpu._is_vnni_supported())

    @staticmethod
    def is_supported() -> bool:
        return "fbgemm" in torch.backends.quantized.supported_engines

    def candidates(self, hidden: Tensor) -> Candidates | None:
        """hidden [num_rows, hidden_size] float32. None if nothing is certain."""
        errors = self._errors(hidden)
        if errors is None:
            return None
        product = torch.ops.quantized.linear_dynamic(hidden, self._packed, not self._has_vnni)
        logits = product.numpy()  # whose comparisons are several times as fast as PyTorch's
        floors = logits.max(1) - 2 * errors
        passed = np.flatnonzero(logits >= floors[:, np.newaxis])
        return Candidates(*np.divmod(passed, logits.shape[1]))

    def _errors(self, hidden: Tensor) -> Array | None:
        low, high = (float(end) for end in torch.aminmax(hidden))
        step = (max(high, 0.0) - min(low, 0.0)) / (255 if self._has_vnni else 127)
        if not self.MIN_STEP < step < math.inf:
            return None
        num_clipped = ((hidden > high - step) | (hidden < low + step)).sum(1)
        lost = step * (0.25 * hidden.shape[1] + 0.75 * num_clipped).sqrt()
        errors: Tensor = lost * self._taken_norm + hidden.norm(dim=1) * self._lost_norm
        return errors.mul_(ROUNDING).numpy()


class SixteenBitProduct:
    """oneDNN's in bfloat16, for many rows: CPUs with AMX or AVX-512 BF16 multiply it faster.

    The vocabulary is cut into slabs of equal size, which one elementwise maximum lays on top of one
    another: the search for candidates goes over one slab, not over all of them.
    """

    SLAB_TOKENS = 8192
    PART_ROWS = 64
    """Rows whose logits stay in the cache."""
    UNIT_ROUNDOFF = 2.0**-9

    def __init__(self, weight: Tensor) -> None:
        """weight [vocab_size, hidden_size] float32."""
        self._vocab_size = len(weight)
        num_slabs = -(-self._vocab_size // self.SLAB_TOKENS)
        self._slab_size = -(-self._vocab_size // num_slabs)
        # The last slab is filled up with the last token, which may thus be its own rival.
        tokens = torch.arange(num_slabs * self._slab_size).clamp_(max=self._vocab_size - 1)
        self._slabs = [
            torch.ops.mkldnn._reorder_linear_weight(weight[part].bfloat16(), None)
            for part in tokens.split(self._slab_size)
        ]
        # Both factors and the result are rounded; |^w| is no more than |w| and its rounding.
        relative = 3 * self.UNIT_ROUNDOFF + _summing_error(weight.shape[1])
        self._error_norm = float(weight.norm(dim=1).max()) * relative * ROUNDING
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    @staticmethod
    def is_supported() -> bool:
        has_instructions = (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
        return bool(has_instructions and torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def candidates(self, hidden: Tensor) -> Candidates | None:
        """As `EightBitProduct.candidates`."""
        errors = (hidden.norm(dim=1) * self._error_norm).numpy()
        if not np.isfinite(errors).all():
            return None
        rows: list[Array] = []
        token_ids: list[Array] = []
        for start in range(0, len(hidden), self.PART_ROWS):
            end = start + self.PART_ROWS
            found = self._search(hidden[start:end].bfloat16(), errors[start:end])
            rows.append(found.rows + start)
            token_ids.append(found.token_ids)
        return Candidates(np.concatenate(rows), np.concatenate(token_ids))

    def _search(self, hidden: Tensor, errors: Array) -> Candidates:
        slabs = [self._multiply(hidden, slab, None, "none", [], "") for slab in self._slabs]
        tops = slabs[0].clone() if len(slabs) > 1 else slabs[0]
        for slab in slabs[1:]:
            torch.maximum(tops, slab, out=tops)
        logits = tops.float().numpy()
        floors = logits.max(1) - 2 * errors
        rows, columns = np.divmod(np.flatnonzero(logits >= floors[:, np.newaxis]), logits.shape[1])
        place = torch.from_numpy(rows), torch.from_numpy(columns)
        stacked = np.stack([slab[place].float().numpy() for slab in slabs], 1)
        which, slab_numbers = (stacked >= floors[rows][:, np.newaxis]).nonzero()
        token_ids = columns[which] + slab_numbers * self._slab_size
        return Candidates(rows[which], np.minimum(token_ids, self._vocab_size - 1))


def _summing_error(num_terms: int) -> float:
    """Of a float32 sum of products, relative to the norms of its factors."""
    return num_terms * 2.0**-23


def _quantize(weight: Tensor) -> Tensor:
    """Signed 8 bits with a scale per row."""
    scales = weight.abs().amax(1).clamp_(min=1e-30).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # PyTorch means to drop these one day; the versions that we allow have them.
        warnings.filterwarnings("ignore", "torch.quantize_per", UserWarning)
        return torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
