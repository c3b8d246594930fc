"""top_k, top_p and min_p: which tokens may be drawn.

Together they are a floor under each row's weights: what lies below is not drawn, what ties with it
is. Order as in vLLM: min_p, top_k, then top_p over what they leave. Whole rows are not sorted where
a few candidates decide.
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
    has_top_p = top_p < 1
    if not (has_top_k | has_top_p | (min_p > 0)).any():
        return
    floors = weights.amax(1).mul_(torch.from_numpy(min_p).to(weights.device))
    # How many candidates to look at is a row's own affair, never that of its neighbours.
    for count in np.unique(top_k[has_top_k]).tolist():
        rows = has_top_k & (top_k == count)
        index = torch.from_numpy(np.flatnonzero(rows)).to(weights.device)
        floors[index] = _top_k_floors(weights[index], floors[index], top_p[rows], count)
    if (rows := has_top_p & ~has_top_k).any():
        index = torch.from_numpy(np.flatnonzero(rows)).to(weights.device)
        count = min(NUM_CANDIDATES, vocab_size)
        floors[index] = _top_p_floors(weights[index], floors[index], top_p[rows], count)
    _keep(weights, floors)


def _top_k_floors(weights: Tensor, floors: Tensor, top_p: Array, count: int) -> Tensor:
    """The smallest of the `count` largest weights that make up `top_p` of their sum."""
    largest = _keep(_largest(weights, count), floors)
    cumulated = largest.cumsum(1, dtype=torch.float64)
    last = _first_to_reach(cumulated, top_p, cumulated[:, -1])
    return largest.gather(1, last).squeeze(1).maximum(floors)


def _top_p_floors(weights: Tensor, floors: Tensor, top_p: Array, count: int) -> Tensor:
    """The smallest of the largest weights that make up `top_p` of the sum of all.

    Only the `count` largest are looked at, and all where those are not enough.
    """
    largest = _keep(_largest(weights, count), floors)
    cumulated = largest.cumsum(1, dtype=torch.float64)
    totals = _keep(weights.clone(), floors).sum(1, dtype=torch.float64)
    last = _first_to_reach(cumulated, top_p, totals)
    result = largest.gather(1, last.clamp(max=count - 1)).squeeze(1).maximum(floors)
    too_few = last.squeeze(1) == count
    if count < weights.shape[1] and too_few.any():
        shares = top_p[too_few.cpu().numpy()]
        everything = weights.shape[1]
        result[too_few] = _top_p_floors(weights[too_few], floors[too_few], shares, everything)
    return result


def _first_to_reach(cumulated: Tensor, shares: Array, totals: Tensor) -> Tensor:
    """Where each row's running sum gets to its share of the total; [n, 1]."""
    needed = torch.from_numpy(shares.astype(np.float64)).to(totals.device) * totals
    return (cumulated < needed.unsqueeze(1)).sum(1, keepdim=True)


def _keep(weights: Tensor, floors: Tensor) -> Tensor:
    """Zeroes what lies under each row's floor, in place."""
    # As numbers, not as truth values: on a CPU that takes a third of the time.
    is_kept = torch.ge(weights, floors.unsqueeze(1), out=torch.empty_like(weights))
    return weights.mul_(is_kept)


def _largest(weights: Tensor, count: int) -> Tensor:
    """The `count` largest values of each row, in descending order."""
    if weights.device.type == "cpu":
        # NumPy selects and sorts with vector instructions, PyTorch's CPU sort does not.
        values = weights.numpy()
        if count < values.shape[1]:
            values = np.partition(values, values.shape[1] - count, axis=1)[:, -count:]
        return torch.from_numpy(np.sort(values, axis=1)[:, ::-1].copy())
    return torch.topk(weights, count).values
