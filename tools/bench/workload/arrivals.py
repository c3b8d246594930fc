"""When requests come: a renewal process whose gaps follow a gamma distribution."""

import math
import random
from collections.abc import Sequence

from msgspec.structs import replace

from tokenreel.tools.bench.workload.prompts import Prompt


def arrive(
    prompts: Sequence[Prompt], *, request_rate: float, burstiness: float, seed: int
) -> list[Prompt]:
    """The prompts at `request_rate` per second on average, the first one at once.

    `burstiness` is the shape of the gamma distribution, as in vLLM's bench: 1 gives a Poisson
    process, less comes in bursts, more is steadier, and infinity is a metronome.
    """
    rng = random.Random(f"arrivals {seed}")
    due_s = 0.0
    arrivals = []
    for prompt in prompts:
        arrivals.append(replace(prompt, due_s=due_s))
        due_s += _gap_s(rng, request_rate, burstiness)
    return arrivals


def _gap_s(rng: random.Random, request_rate: float, burstiness: float) -> float:
    if math.isinf(burstiness):
        return 1 / request_rate
    return rng.gammavariate(burstiness, 1 / (request_rate * burstiness))
