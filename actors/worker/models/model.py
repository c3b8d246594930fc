"""What the worker asks of a model, whichever way it is computed."""

from typing import Any, Protocol

import torch
from torch import Tensor

from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.kernels.backend import AttentionMetadata
from tokenreel.kernels.cpu.team import Team


class Model(Protocol):
    """A decoder on its device. `Any` is the cache that its own `new_cache` makes."""

    config: DecoderConfig

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def team(self) -> Team | None:
        """The threads of compiled kernels, for the sampler as well; None: it takes PyTorch."""

    def new_cache(self, num_blocks: int, block_size: int) -> Any:
        """Room for the keys and values of `num_blocks` blocks."""

    def block_bytes(self, block_size: int) -> int:
        """What one block of a cache takes."""

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        cache: Any,
        metadata: AttentionMetadata,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Computes a step and stores its keys and values in `cache`.

        token_ids, positions [num_tokens]; wanted [num_wanted] int64, ascending. Returns the hidden
        states of those tokens, or of all, [num_wanted, ...], which are good until the next step.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, ...], rows of `forward` -> [num_rows, vocab_size] float32."""

    def greedy(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logit's token and value for each row, each [num_rows]."""
