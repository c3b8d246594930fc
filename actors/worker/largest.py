"""The largest logit of each row: what greedy decoding chooses."""

from torch import Tensor


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value, each [num_rows]: the lowest index of equals; NaN counts as largest."""
    indices = logits.argmax(-1)
    return indices, logits.gather(1, indices.unsqueeze(1)).squeeze(1)
