"""What a sampler hands back: a token for each row of logits, and log-probabilities of some."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokenreel.kernels.cpu.sampling import NOT_FINITE

Values = Any
"""The host's array, from compiled kernels; or a tensor on the device where PyTorch has put it."""


@dataclass(frozen=True)
class RowLogprobs:
    """Natural logarithms of the softmax of the raw logits, for the rows that asked."""

    rows: list[int]
    num_top: list[int]
    sampled: Values
    """[len(rows)]"""
    top_ids: Values
    """[len(rows), max(num_top)], the most likely first."""
    top: Values
    """Alike."""


@dataclass(frozen=True)
class Sampled:
    """What was chosen from n rows of logits."""

    token_ids: Values
    """[n] int64; NOT_FINITE where a row's largest logit is NaN or infinite."""
    logprobs: list[RowLogprobs] = field(default_factory=list)


def mark_not_finite(token_ids: Tensor, peaks: Tensor) -> Tensor:
    """Puts NOT_FINITE, in place, where a row's largest logit says that the row means nothing."""
    return token_ids.masked_fill_(~peaks.isfinite(), NOT_FINITE)
