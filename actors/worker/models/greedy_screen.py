"""The largest logit of each row, from a cheaper product and an exact look at the few in question.

Reading the vocabulary's weights is most of what greedy decoding of a small model costs a CPU. A
product in 8 or 16 bits leaves a few candidates (`approximate_product`), whose logits are then
computed in float32. What comes out is the argmax of the float32 logits.
"""

import numpy as np
import torch
from torch import Tensor

from tokenreel.actors.worker.models.approximate_product import (
    Candidates,
    EightBitProduct,
    SixteenBitProduct,
)

MIN_WEIGHTS = 1 << 21
"""A smaller vocabulary is in the cache anyway."""
MAX_EIGHT_BIT_ROWS = 12
"""More rows multiply faster in 16 bits, or in float32."""
MAX_CANDIDATES = 256
"""More of them per row, and computing all logits would cost less."""


class GreedyScreen:
    """Use `make_screen`. Keeps the weights that it is given, and copies of 8 and 16 bits."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._few = EightBitProduct(weight) if EightBitProduct.is_supported() else None
        self._many = SixteenBitProduct(weight) if SixteenBitProduct.is_supported() else None

    def largest(self, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
        """Token and logit for each row of `hidden` [num_rows, hidden_size] float32, the lowest
        token of equals. None if there is no cheaper way: then compute all logits."""
        product = self._few if len(hidden) <= MAX_EIGHT_BIT_ROWS else self._many
        candidates = product.candidates(hidden) if product is not None else None
        if candidates is None or len(candidates.rows) > MAX_CANDIDATES * len(hidden):
            return None
        return self._best(hidden, candidates)

    def _best(self, hidden: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        rows, token_ids = candidates
        factors = self._weight.index_select(0, torch.from_numpy(token_ids))
        logits = factors.mul_(hidden.index_select(0, torch.from_numpy(rows))).sum(1).numpy()
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        peaks = np.maximum.reduceat(logits, begins)
        among_best = np.where(logits == peaks[rows], token_ids, len(self._weight))
        best = np.minimum.reduceat(among_best, begins)
        return torch.from_numpy(best), torch.from_numpy(peaks)


def make_screen(weight: Tensor) -> GreedyScreen | None:
    """weight [vocab_size, hidden_size]. None where it would not pay."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or len(weight) < 2:
        return None
    return GreedyScreen(weight) if weight.numel() >= MIN_WEIGHTS else None
