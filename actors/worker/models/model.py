"""What the worker asks of a model, whichever way it is computed."""

from typing import Any, Protocol

import torch
from torch import Tensor

from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.actors.worker.sampled import Values
from tokenreel.kernels.cpu.team import Team


class Model(Protocol):
    """A decoder on its device. `cache` is what its own `new_cache` makes, `hidden` some rows of
    what `forward` returns."""

    config: DecoderConfig

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def team(self) -> Team | None:
        """The threads of compiled kernels, for the sampler as well; None: both are PyTorch's."""

    def new_cache(self, num_blocks: int, block_size: int) -> Any:
        """Room for the keys and values of `num_blocks` blocks."""

    def block_bytes(self, block_size: int) -> int:
        """What one block of a cache takes."""

    def forward(self, step: Any, cache: Any) -> Any:
        """Computes a step and stores its keys and values in `cache`. Returns the hidden states that
        logits are wanted of, [num_logits, ...], which are good until the next step.

        step: with a team a `StepInput`, without one the `StepTensors` of it.
        """

    def logits(self, hidden: Any) -> Tensor:
        """[num_rows, ...], rows of `forward` -> [num_rows, vocab_size] float32."""

    def greedy(self, hidden: Any) -> Values:
        """[num_rows] int64: the token of each row's largest logit, NOT_FINITE if that is not."""
