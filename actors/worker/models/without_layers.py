"""A compiled model whose layers are still being compiled."""

from typing import Any

import numpy as np

from tokenreel.actors.worker.models.compiled_decoder import CompiledDecoder
from tokenreel.actors.worker.step_input import StepInput
from tokenreel.kernels.cpu.product import padded


class WithoutLayers:
    """It computes logits, of hidden states that are zero, and keeps nothing in a cache."""

    def __init__(self, model: CompiledDecoder) -> None:
        self.config, self.dtype, self.device = model.config, model.dtype, model.device
        self.team, self.block_bytes = model.team, model.block_bytes
        self.logits, self.greedy = model.logits, model.greedy

    def new_cache(self, num_blocks: int, block_size: int) -> None:
        pass

    def forward(self, step: StepInput, cache: Any) -> Any:
        shape = len(step.logit_indices), padded(self.config.hidden_size)
        return np.zeros(shape, np.float32)
