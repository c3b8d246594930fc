"""top_k, top_p and min_p: which tokens may be drawn.

Each filter finds the smallest weight that a row keeps, without sorting the whole row wherever a few
candidates decide. Tokens that tie with it stay. Order as in vLLM: min_p, top_k, then top_p over
what they leave.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_CANDIDATES = 1024
"""Where top_p stands alone, so many of the largest are tried before all are sorted."""

Array = NDArray[Any]


def filter_weights(weights: Tensor, top_k: Array, top_p: Array, min_p: Array) -> None:
    """Sets to zero, in place, what the parameters of each row exclude. weights [n, vocab_size].

    top_k 0, top_p 1 and min_p 0 exclude nothing.
    """
    vocab_size = weights.shape[1]
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    if (min_p > 0).any():
        shares = torch.from_numpy(min_p).to(weights.device)
        _keep(weights, slice(None), weights.amax(1).mul_(shares))
    for count in np.unique(top_k[has_top_k]).tolist():
        rows = _index(has_top_k & (top_k == count), weights)
        _keep(weights, rows, _largest(weights[rows], count)[:, -1])
    # How many candidates to look at is a row's own affair, never that of its neighbours.
    counts = np.where(has_top_k, top_k, min(NUM_CANDIDATES, vocab_size))
    for count in np.unique(counts[top_p < 1]).tolist():
        chosen = (top_p < 1) & (counts == count)
        rows = _index(chosen, weights)
        _keep(weights, rows, _nucleus_floors(weights[rows], top_p[chosen], count))


def _nucleus_floors(weights: Tensor, top_p: Array, count: int) -> Tensor:
    """The smallest weight among the fewest largest ones that make up `top_p` of each row's total.

    Only the `count` largest are looked at, and all where those are not enough. Returns [n].
    """
    largest = _largest(weights, count)
    cumulated = largest.cumsum(1, dtype=torch.float64)
    shares = torch.from_numpy(top_p.astype(np.float64)).to(weights.device)
    needed = shares * weights.sum(1, dtype=torch.float64)
    last = (cumulated < needed.unsqueeze(1)).sum(1, keepdim=True)
    floors = largest.gather(1, last.clamp(max=count - 1)).squeeze(1)
    too_few = (last.squeeze(1) == count).cpu().numpy()
    if count < weights.shape[1] and too_few.any():
        rows = _index(too_few, weights)
        floors[rows] = _nucleus_floors(weights[rows], top_p[too_few], weights.shape[1])
    return floors


def _keep(weights: Tensor, rows: Tensor | slice, floors: Tensor) -> None:
    """Zeroes what lies under each row's floor."""
    part = weights[rows]
    weights[rows] = part.masked_fill(part < floors.unsqueeze(1), 0.0)


def _largest(weights: Tensor, count: int) -> Tensor:
    """The `count` largest values of each row, in descending order."""
    if weights.device.type == "cpu":
        # NumPy selects and sorts with vector instructions, PyTorch's CPU sort does not.
        values = weights.numpy()
        if count < values.shape[1]:
            values = np.partition(values, values.shape[1] - count, axis=1)[:, -count:]
        return torch.from_numpy(np.sort(values, axis=1)[:, ::-1].copy())
    return torch.topk(weights, count).values


def _index(chosen: Array, weights: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen)).to(weights.device)
