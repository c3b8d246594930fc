"""The sampling parameters of the running batch, as arrays by row, and a step's share of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.messages.sampling import SamplingParams

Array = NDArray[Any]
History = Callable[[int, int], tuple[Array, Array]]
"""Row and output position -> token ids of the prompt, and those of the output so far."""


@dataclass(frozen=True)
class Adjustment:
    """What changes a row's logits before a token is chosen, and the tokens that it depends on."""

    params: SamplingParams
    output_position: int
    prompt_token_ids: Array
    output_token_ids: Array


@dataclass(frozen=True)
class SamplingBatch:
    """Parameters of n rows of logits, as `sampler.sample` wants them. All arrays are [n]."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    seeds: Array
    output_positions: Array
    """Which of its output tokens each row is about to get, counted from 0."""
    num_logprobs: Array
    adjustments: list[tuple[int, Adjustment]]
    """Index of the row in this batch, and what to do to it; few rows have any."""
    is_plain: bool = False
    """Every row is greedy on the logits as they are and wants no log-probabilities: there is
    nothing else to know, and the arrays are empty."""

    def __len__(self) -> int:
        return len(self.temperature)

    def part(self, start: int, stop: int) -> "SamplingBatch":
        rows = slice(start, stop)
        return SamplingBatch(
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.seeds[rows],
            self.output_positions[rows],
            self.num_logprobs[rows],
            [(i - start, change) for i, change in self.adjustments if start <= i < stop],
        )


_NONE = np.empty(0)
PLAIN = SamplingBatch(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, [], is_plain=True)


class SamplingTable:
    """One entry per row of the running batch."""

    def __init__(self, max_num_seqs: int) -> None:
        self._temperature = np.zeros(max_num_seqs, np.float32)
        self._top_k = np.zeros(max_num_seqs, np.int64)
        self._top_p = np.ones(max_num_seqs, np.float32)
        self._min_p = np.zeros(max_num_seqs, np.float32)
        self._seeds = np.zeros(max_num_seqs, np.uint64)
        self._num_logprobs = np.full(max_num_seqs, -1, np.int64)
        self._num_prompt_tokens = np.zeros(max_num_seqs, np.int64)
        self._min_tokens = np.zeros(max_num_seqs, np.int64)
        self._is_plain = np.ones(max_num_seqs, np.bool_)
        self._has_history = np.zeros(max_num_seqs, np.bool_)
        self._has_bias = np.zeros(max_num_seqs, np.bool_)
        self._params = [SamplingParams()] * max_num_seqs

    def set(self, row: int, params: SamplingParams, num_prompt_tokens: int) -> None:
        self._temperature[row] = params.temperature
        self._top_k[row] = params.top_k
        self._top_p[row] = params.top_p
        self._min_p[row] = params.min_p
        self._seeds[row] = params.seed
        self._num_logprobs[row] = params.num_logprobs
        self._num_prompt_tokens[row] = num_prompt_tokens
        self._min_tokens[row] = params.min_tokens if params.stop_token_ids else 0
        self._has_bias[row] = bool(params.logit_bias)
        self._has_history[row] = has_history = (
            params.presence_penalty != 0
            or params.frequency_penalty != 0
            or params.repetition_penalty != 1
        )
        self._is_plain[row] = (
            self._temperature[row] == 0
            and params.num_logprobs < 0
            and not has_history
            and not params.logit_bias
            and self._min_tokens[row] == 0
        )
        self._params[row] = params

    def needs_history(self, rows: Array) -> bool:
        """Whether a choice for one of these rows depends on the tokens before."""
        return bool(self._has_history[rows].any())

    def select(self, rows: Array, num_tokens: Array, history: History) -> SamplingBatch:
        """`num_tokens` [n] is how many tokens each sequence has before the one to be chosen."""
        # A short list is looked over faster than an array.
        if all(self._is_plain[rows].tolist()):
            return PLAIN
        positions = num_tokens - self._num_prompt_tokens[rows]
        adjusted = self._has_history[rows] | self._has_bias[rows]
        adjusted |= positions < self._min_tokens[rows]
        adjustments: list[tuple[int, Adjustment]] = []
        for i in np.flatnonzero(adjusted).tolist():
            row, position = int(rows[i]), int(positions[i])
            adjustments.append(
                (i, Adjustment(self._params[row], position, *history(row, position)))
            )
        return SamplingBatch(
            self._temperature[rows],
            self._top_k[rows],
            self._top_p[rows],
            self._min_p[rows],
            self._seeds[rows],
            positions,
            self._num_logprobs[rows],
            adjustments,
        )
