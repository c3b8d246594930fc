"""Changes to one row of logits before a token is chosen: masked stops, biases, penalties.

In vLLM's order. Each row is changed by itself, from its request's parameters and history alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.actors.worker.sampling_table import Adjustment


def adjust(logits: Tensor, adjustment: Adjustment) -> None:
    """Changes `logits` [vocab_size] in place. Token ids outside the vocabulary are ignored."""
    params = adjustment.params
    if adjustment.output_position < params.min_tokens:
        logits[_known_ids(params.stop_token_ids, logits)] = float("-inf")
    if params.logit_bias:
        ids, biases = zip(*params.logit_bias, strict=True)
        known = [i for i, token_id in enumerate(ids) if 0 <= token_id < len(logits)]
        logits.index_add_(
            0,
            _known_ids(ids, logits),
            torch.tensor([biases[i] for i in known], dtype=logits.dtype, device=logits.device),
        )
    if params.repetition_penalty != 1:
        seen = np.concatenate([adjustment.prompt_token_ids, adjustment.output_token_ids])
        _repetition(logits, seen, params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        output = adjustment.output_token_ids
        _frequency(logits, output, params.frequency_penalty, params.presence_penalty)


def _known_ids(token_ids: tuple[int, ...], logits: Tensor) -> Tensor:
    known = [token_id for token_id in token_ids if 0 <= token_id < len(logits)]
    return torch.tensor(known, dtype=torch.int64, device=logits.device)


def _repetition(logits: Tensor, token_ids: NDArray[np.int32], penalty: float) -> None:
    """Tokens of prompt and output: a positive logit is divided, a negative one multiplied."""
    ids = torch.from_numpy(np.unique(token_ids).astype(np.int64)).to(logits.device)
    values = logits[ids]
    logits[ids] = torch.where(values > 0, values / penalty, values * penalty)


def _frequency(
    logits: Tensor, token_ids: NDArray[np.int32], frequency: float, presence: float
) -> None:
    """Tokens of the output: once `presence`, and `frequency` for every time that they occur."""
    unique, counts = np.unique(token_ids, return_counts=True)
    ids = torch.from_numpy(unique.astype(np.int64)).to(logits.device)
    penalties = (counts * frequency + presence).astype(np.float32)
    logits[ids] -= torch.from_numpy(penalties).to(logits.device)
