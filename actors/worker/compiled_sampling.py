"""Draws tokens with compiled kernels, on a CPU: each row in a few passes over its logits."""

from functools import lru_cache

import numpy as np
from torch import Tensor

from tokenreel.actors.worker.sampled import RowLogprobs
from tokenreel.actors.worker.sampling_table import Array, SamplingBatch
from tokenreel.kernels.cpu.logprobs import log_softmax_rows
from tokenreel.kernels.cpu.sampling import Parameters, RowScratch, make_row_scratch, sample_rows
from tokenreel.kernels.cpu.team import Team

MIN_SHARED_LOGITS = 1 << 19
"""Fewer, some 200 us of work, are not worth a wait for other threads."""


@lru_cache(maxsize=1)
def _scratches(vocab_size: int, num_threads: int) -> tuple[RowScratch, ...]:
    return tuple(make_row_scratch(vocab_size) for _ in range(num_threads))


class CompiledSampling:
    """For one step; made before the logits are adjusted."""

    def __init__(self, logits: Tensor, batch: SamplingBatch, team: Team) -> None:
        """logits [n, vocab_size] float32, contiguous, on a CPU. The threads of `team` share the
        rows."""
        self._batch, self._team = batch, team
        rows = np.flatnonzero(batch.num_logprobs >= 0)
        self._raw = _RawLogprobs(logits, rows, batch, team) if len(rows) else None

    def choose(self, logits: Tensor) -> Array:
        """[n] int64, NOT_FINITE included."""
        batch, size = self._batch, logits.shape[1]
        parameters = Parameters(
            batch.temperature,
            batch.top_k,
            batch.top_p,
            batch.min_p,
            batch.seeds,
            batch.output_positions.astype(np.uint64),
        )
        token_ids = np.empty(len(batch), np.int64)
        self._team.run(
            sample_rows,
            logits.numpy(),
            size,
            parameters,
            token_ids,
            _scratches(size, self._team.num_threads),
            alone=logits.numel() < MIN_SHARED_LOGITS,
        )
        return token_ids

    def logprobs(self, token_ids: Array) -> list[RowLogprobs]:
        """Of the rows that asked, before they were adjusted."""
        return [] if self._raw is None else [self._raw.read(token_ids)]


class _RawLogprobs:
    """What is to be known of `rows` before their logits are adjusted."""

    def __init__(self, logits: Tensor, rows: Array, batch: SamplingBatch, team: Team) -> None:
        values, size = logits.numpy(), logits.shape[1]
        self._rows = rows
        self._num_top = np.minimum(batch.num_logprobs[rows], size)
        self._log_sums = np.empty((len(rows), 2), np.float32)
        self._top_ids = np.zeros((len(rows), self._num_top.max()), np.int64)
        self._top = np.zeros(self._top_ids.shape, np.float32)
        team.run(
            log_softmax_rows,
            values,
            size,
            rows,
            self._num_top,
            (self._log_sums, self._top_ids, self._top),
            _scratches(size, team.num_threads),
            alone=len(rows) * size < MIN_SHARED_LOGITS,
        )
        self._values = values.copy() if batch.adjustments else values

    def read(self, token_ids: Array) -> RowLogprobs:
        chosen = self._values[self._rows, np.maximum(token_ids[self._rows], 0)]
        return RowLogprobs(
            rows=self._rows.tolist(),
            num_top=self._num_top.tolist(),
            sampled=chosen - self._log_sums[:, 0] - self._log_sums[:, 1],
            top_ids=self._top_ids,
            top=self._top,
        )
