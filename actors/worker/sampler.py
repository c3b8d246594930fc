"""Chooses tokens: a pure function of logits, a request's parameters, and what it has put out.

A row's token does not depend on the rows beside it. The random number of an output token is a
function of the request's seed and the token's position (`philox`); it picks from the filtered
distribution by inverse CDF in vocabulary order.
"""

from typing import Any

from torch import Tensor

from tokenreel.actors.worker.compiled_sampling import CompiledSampling
from tokenreel.actors.worker.logit_adjustments import adjust
from tokenreel.actors.worker.sampled import Sampled
from tokenreel.actors.worker.sampling_table import SamplingBatch
from tokenreel.actors.worker.torch_sampling import TorchSampling
from tokenreel.kernels.cpu.team import Team


def sample(logits: Tensor, batch: SamplingBatch, team: Team | None) -> Sampled:
    """One token for each row. `logits` [n, vocab_size] float32, contiguous, may be changed.

    With a team its threads share the rows by compiled kernels, on a CPU; without, by PyTorch.
    """
    sampling: Any = (
        TorchSampling(logits, batch) if team is None else CompiledSampling(logits, batch, team)
    )
    for row, adjustment in batch.adjustments:
        adjust(logits[row], adjustment)
    token_ids = sampling.choose(logits)
    return Sampled(token_ids, sampling.logprobs(token_ids))
