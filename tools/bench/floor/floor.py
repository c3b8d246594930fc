"""The floor: what no engine of this kind can leave out, per output token, over all cores.

The model's products at the machine's rate, the HTTP side alone, and the load generator, each in CPU
time; a machine of N cores that did nothing else would put out N tokens in the sum of them. With one
stream the three follow on each other rather than share the cores, so that there only an engine gets
to the floor whose products are faster than those it is made of.
"""

from collections.abc import Sequence

import msgspec

from tokenreel.tools.bench.floor.product_times import ProductTimes
from tokenreel.tools.bench.results.figures import Figures
from tokenreel.tools.bench.results.result import Floor

MAX_PREFILL_ROWS = 512
"""Of one product: from some hundred rows on the rate does not rise any more."""


class Lengths(msgspec.Struct, frozen=True):
    """Of every request."""

    num_input_tokens: int
    num_output_tokens: int


def layer_rows(concurrencies: Sequence[int], lengths: Lengths) -> list[int]:
    """The numbers of rows whose times `floor_of` needs."""
    prefill = [_prefill_rows(concurrency, lengths) for concurrency in concurrencies]
    return sorted({*concurrencies, *prefill})


def floor_of(
    concurrency: int,
    lengths: Lengths,
    times: ProductTimes,
    http: Figures,
    http_cpu_s: float,
    num_cores: int,
) -> Floor:
    """`http` is the load at the HTTP side alone, for which its process took `http_cpu_s`."""
    num_tokens = max(1, http.num_output_tokens)
    model_us = 1e6 * model_s(concurrency, lengths, times)
    http_us = 1e6 * http_cpu_s / num_tokens
    generator_us = http.generator.cpu_us_per_token
    return Floor(
        model_us=model_us,
        http_us=http_us,
        generator_us=generator_us,
        num_cores=num_cores,
        tokens_per_s=1e6 * num_cores / (model_us + http_us + generator_us),
    )


def cpu_share(engine: Figures, floor: Floor) -> float:
    """See `OverheadFigures.cpu_share_of_floor`."""
    spent_us = sum(actor.cpu_us_per_token for actor in engine.actors)
    return floor.cpu_us / max(1e-9, spent_us + engine.generator.cpu_us_per_token)


def model_s(concurrency: int, lengths: Lengths, times: ProductTimes) -> float:
    """CPU time of the products, per output token: a share of one step that decodes a token for
    everybody, and of the prompt, whose last position already gives the first token."""
    num_outputs, rows = lengths.num_output_tokens, _prefill_rows(concurrency, lengths)
    decode_s = times.layers_s[concurrency] / concurrency * (num_outputs - 1) / num_outputs
    prefill_s = times.layers_s[rows] / rows * lengths.num_input_tokens / num_outputs
    return decode_s + prefill_s + times.head_s[concurrency] / concurrency


def _prefill_rows(concurrency: int, lengths: Lengths) -> int:
    return min(MAX_PREFILL_ROWS, concurrency * lengths.num_input_tokens)
