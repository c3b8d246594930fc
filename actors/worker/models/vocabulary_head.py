"""From hidden states to the vocabulary: logits, or just the largest of them.

On a CPU the vocabulary is cut into slabs whose logits stay in the cache. Greedy decoding takes the
best of each slab as it comes: the logits of a large batch, tens of megabytes, are never written.
"""

import torch
from torch import Tensor

from tokenreel.actors.worker.largest import largest
from tokenreel.actors.worker.models.greedy_screen import make_screen
from tokenreel.actors.worker.models.linear import make_linear

CPU_SLAB_TOKENS = 4096
MAX_WHOLE_LOGITS = 1 << 18
"""So few logits fit the cache anyway."""


class VocabularyHead:
    def __init__(self, weight: Tensor) -> None:
        """weight [vocab_size, hidden_size]"""
        self._vocab_size = len(weight)
        self._screen = make_screen(weight)
        size = CPU_SLAB_TOKENS if weight.device.type == "cpu" else len(weight)
        self._slabs = [
            (start, make_linear(weight[start : start + size], None))
            for start in range(0, len(weight), size)
        ]

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> [num_rows, vocab_size] float32."""
        slabs = [slab(hidden) for _, slab in self._slabs]
        return (slabs[0] if len(slabs) == 1 else torch.cat(slabs, 1)).float()

    def greedy(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`largest` of `logits`, without putting them together."""
        if self._screen is not None and (found := self._screen.largest(hidden)) is not None:
            return found
        if len(hidden) * self._vocab_size <= MAX_WHOLE_LOGITS:
            return largest(self.logits(hidden))
        (_, first), *rest = self._slabs
        token_ids, peaks = largest(first(hidden).float())
        for start, slab in rest:
            indices, values = largest(slab(hidden).float())
            # Strictly, so that the lowest of equals stays. A NaN spoils the peak and thus the row.
            token_ids = torch.where(values > peaks, indices + start, token_ids)
            peaks = torch.maximum(peaks, values)
        return token_ids, peaks
