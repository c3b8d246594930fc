"""A step's arrays as tensors, on the device of a model in PyTorch's operations: one copy."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.actors.worker.step_input import StepInput
from tokenreel.kernels.backend import AttentionMetadata

_WIDE = ("slot_mapping", "logit_indices", "sampled_rows")
_NARROW = (
    "token_ids",
    "positions",
    "feedback_rows",
    "query_start_loc",
    "context_lens",
    "block_tables",
)
"""Fields of `StepInput` by their width: int64 first, so that all of them lie aligned."""


class StepTensors(NamedTuple):
    token_ids: Tensor
    positions: Tensor
    logit_indices: Tensor
    sampled_rows: Tensor
    metadata: AttentionMetadata


def step_tensors(step_input: StepInput, last_sampled: Tensor) -> StepTensors:
    """`last_sampled` [max_num_seqs] int32 holds each row's last token, on the model's device: a
    GPU's next step is on its way before the host has seen it."""
    names = (*_WIDE, *_NARROW)
    arrays = [getattr(step_input, name) for name in names]
    tensors = dict(zip(names, _copy_at_once(arrays, last_sampled.device), strict=True))
    feedback_rows = tensors["feedback_rows"]
    fed = last_sampled[feedback_rows.clamp(min=0)]
    token_ids = torch.where(feedback_rows >= 0, fed, tensors["token_ids"])
    metadata = AttentionMetadata(
        query_start_loc=tensors["query_start_loc"],
        context_lens=tensors["context_lens"],
        block_tables=tensors["block_tables"],
        slot_mapping=tensors["slot_mapping"],
        max_query_len=step_input.max_query_len,
        max_context_len=step_input.max_context_len,
        all_decode=step_input.max_query_len == 1,
    )
    return StepTensors(
        token_ids,
        tensors["positions"],
        tensors["logit_indices"],
        tensors["sampled_rows"],
        metadata,
    )


def _copy_at_once(arrays: list[NDArray[Any]], device: torch.device) -> list[Tensor]:
    sizes = [array.nbytes for array in arrays]
    is_pinned = device.type == "cuda"
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=is_pinned)
    # numpy's view of the pinned memory: writing there is a plain copy.
    np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays], out=packed.numpy())
    pieces = packed.to(device, non_blocking=True).split(sizes)
    return [
        piece.view(torch.from_numpy(array).dtype).view(array.shape)
        for piece, array in zip(pieces, arrays, strict=True)
    ]
