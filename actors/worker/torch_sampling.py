"""Draws tokens with PyTorch: on a GPU, and as the reference for what is compiled for a CPU.

Every operation works on rows one by one, in an order that the number of rows does not change.
"""

import numpy as np
import torch
from torch import Tensor

from tokenreel.actors.worker.largest import largest
from tokenreel.actors.worker.philox import uniforms
from tokenreel.actors.worker.sampled import RowLogprobs, mark_not_finite
from tokenreel.actors.worker.sampling_filters import filter_weights
from tokenreel.actors.worker.sampling_table import Array, SamplingBatch

MAX_PART_ELEMENTS = 1 << 18
"""Rows are drawn in parts whose temporaries fit a CPU's second-level cache."""
CDF_CHUNK = 256
"""The CDF is searched by chunks first, then inside one."""


class TorchSampling:
    """For one step; made before the logits are adjusted."""

    def __init__(self, logits: Tensor, batch: SamplingBatch) -> None:
        """logits [n, vocab_size] float32."""
        self._batch = batch
        self._raw_logprobs = _raw_logprobs(logits, batch)

    def choose(self, logits: Tensor) -> Tensor:
        """[n] int64, NOT_FINITE included."""
        batch = self._batch
        token_ids, peaks = largest(logits)
        drawn = np.flatnonzero(batch.temperature > 0)
        part_size = max(1, MAX_PART_ELEMENTS // logits.shape[1])
        for start in range(0, len(drawn), part_size):
            rows = drawn[start : start + part_size]
            index = _index(rows, logits.device)
            token_ids[index] = _draw(logits[index], peaks[index], batch, rows)
        return mark_not_finite(token_ids, peaks)

    def logprobs(self, token_ids: Tensor) -> list[RowLogprobs]:
        """Of the rows that asked, before they were adjusted."""
        if self._raw_logprobs is None:
            return []
        return [_row_logprobs(self._raw_logprobs, token_ids.clamp(min=0), self._batch)]


def _draw(logits: Tensor, peaks: Tensor, batch: SamplingBatch, rows: Array) -> Tensor:
    """A random token for each row of `logits` [n, vocab_size], which stand at `rows` of `batch`."""
    device = logits.device
    temperature = torch.from_numpy(batch.temperature[rows]).to(device)
    scaled = (logits - peaks.unsqueeze(1)).div_(temperature.unsqueeze(1))
    weights = torch.softmax(scaled, -1)
    filter_weights(weights, batch.top_k[rows], batch.top_p[rows], batch.min_p[rows])
    numbers = uniforms(batch.seeds[rows], batch.output_positions[rows].astype(np.uint64))
    return inverse_cdf(weights, torch.from_numpy(numbers).to(device))


def _index(rows: Array, device: torch.device) -> Tensor | slice:
    """Consecutive rows need not be copied."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return torch.from_numpy(rows).to(device)


def inverse_cdf(weights: Tensor, numbers: Tensor) -> Tensor:
    """The first token whose cumulated weight exceeds number * total, for each row.

    weights [n, vocab_size], numbers [n] float64 in [0, 1); returns [n] int64.
    """
    num_rows, vocab_size = weights.shape
    num_chunks = vocab_size // CDF_CHUNK
    body, tail = weights.split((num_chunks * CDF_CHUNK, vocab_size % CDF_CHUNK), 1)
    sums = body.reshape(num_rows, num_chunks, CDF_CHUNK).sum(-1)
    sums = torch.cat((sums, tail.sum(-1, keepdim=True)), 1).double()
    cumulated = sums.cumsum(1)
    targets = (numbers * cumulated[:, -1]).unsqueeze(1)
    chunks = _first_above(cumulated, targets)
    before = cumulated.gather(1, chunks) - sums.gather(1, chunks)
    # Rounding must not lead before the chunk: a token without weight could stand there first.
    inside_targets = (targets - before).clamp_(min=0)

    offsets = torch.arange(CDF_CHUNK, device=weights.device)
    token_ids = chunks * CDF_CHUNK + offsets
    inside = weights.gather(1, token_ids.clamp(max=vocab_size - 1)).double()
    inside.mul_(token_ids < vocab_size)
    chosen = chunks * CDF_CHUNK + _first_above(inside.cumsum(1), inside_targets)
    # Only a row that is not finite can lead outside.
    return chosen.squeeze(1).clamp_(0, vocab_size - 1)


def _first_above(cumulated: Tensor, targets: Tensor) -> Tensor:
    """The first index whose value exceeds the target, for each row; at the latest the last one
    that adds something, where rounding leaves the target at the very end. Returns [n, 1]."""
    above = (cumulated <= targets).sum(1, keepdim=True)
    last = (cumulated < cumulated[:, -1:]).sum(1, keepdim=True)
    return torch.minimum(above, last)


def _raw_logprobs(logits: Tensor, batch: SamplingBatch) -> Tensor | None:
    rows = np.flatnonzero(batch.num_logprobs >= 0)
    if not len(rows):
        return None
    return torch.log_softmax(logits[torch.from_numpy(rows).to(logits.device)], -1)


def _row_logprobs(logprobs: Tensor, token_ids: Tensor, batch: SamplingBatch) -> RowLogprobs:
    rows = np.flatnonzero(batch.num_logprobs >= 0)
    num_top = np.minimum(batch.num_logprobs[rows], logprobs.shape[1])
    chosen = token_ids[torch.from_numpy(rows).to(logprobs.device)]
    top, top_ids = torch.topk(logprobs, int(num_top.max()))
    return RowLogprobs(
        rows=rows.tolist(),
        num_top=num_top.tolist(),
        sampled=logprobs.gather(1, chosen.unsqueeze(1)).squeeze(1),
        top_ids=top_ids,
        top=top,
    )
