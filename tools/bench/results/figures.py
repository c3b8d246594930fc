"""What a load came to: rates, latencies, goodput, failures."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from tokenreel.tools.bench.client.load import Measured, Outcome

PERCENTILES = (50, 90, 95, 99)
MAX_REASONS = 12
"""Why requests failed, that are told apart."""
MAX_SAMPLES = 201
"""Of one distribution, in a result."""


class Spread(msgspec.Struct, frozen=True):
    """Of `count` values; all 0 if there are none."""

    count: int = 0
    mean: float = 0.0
    std: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Goodput(msgspec.Struct, frozen=True):
    """Requests that met every limit. A failed one met none."""

    limits_ms: dict[str, float]
    num_good: int
    share: float
    """Of all requests, also those that a bound of the generator's kept from being sent."""
    requests_per_s: float


class Generator(msgspec.Struct, frozen=True):
    """What the load generator itself took, and whether it kept up."""

    cpu_s: float
    cpu_us_per_token: float
    core_share: float
    """Of one core, while the load ran."""
    lag_ms: Spread
    """In an open loop: how much later than due requests were sent."""


class ActorTime(msgspec.Struct, frozen=True):
    """Processor time of one of the engine's processes while the load ran."""

    actor: str
    cpu_s: float
    cpu_us_per_token: float
    core_share: float


class RequestTimes(msgspec.Struct, frozen=True):
    """One request in full, for `--save-detailed`. Times in milliseconds, `sent_ms` since the start
    of the load."""

    sent_ms: float
    ttft_ms: float | None
    e2el_ms: float
    num_prompt_tokens: int
    num_output_tokens: int
    itls_ms: list[float]
    failure: str | None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a load came to, without its latencies."""

    num_requests: int
    num_completed: int
    num_failed: int
    failures: dict[str, int]
    num_cut_short: int
    num_other_length: int
    """Served, but not with as many tokens as were asked for."""
    duration_s: float
    num_prompt_tokens: int
    num_cached_tokens: int
    """Prompt tokens that the server says it found in its prefix cache."""
    num_output_tokens: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    generator: Generator
    actors: list[ActorTime]
    """Of the engine, if the bench started it."""
    others_cores: float | None = None
    """How many cores others kept busy meanwhile; None where the server's own share is not known."""


class Figures(Tally, frozen=True, kw_only=True):
    """Of one load. Latencies are of requests that were served, in milliseconds: time to first token
    (TTFT), time per output token after it (TPOT), between events (ITL), end to end (E2EL)."""

    max_concurrency: int | None
    request_rate: float | None
    """Requests per second that were to come; None in a closed loop, and of a trace."""
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2el_ms: Spread
    samples_ms: dict[str, list[float]]
    """Each latency's distribution: its quantiles in equal steps, lowest first, for plots."""
    goodput: Goodput | None = None
    requests: list[RequestTimes] | None = None


def figures_of(
    measured: Measured,
    actor_times_s: Mapping[str, float],
    others_s: float | None = None,
    *,
    max_concurrency: int | None,
    request_rate: float | None = None,
    limits_ms: Mapping[str, float],
    has_requests: bool = False,
) -> Figures:
    """`actor_times_s`: processor time of each actor during the load; `others_s`: of those who have
    no part in it."""
    began = measured.began
    served = [outcome for outcome in measured.outcomes if outcome.failure is None]
    values = {
        "ttft": [ttft_ms(outcome, began) for outcome in served],
        "tpot": [value for outcome in served if (value := tpot_ms(outcome)) is not None],
        "itl": [gap for outcome in served for gap in gaps_ms(outcome)],
        "e2el": [e2el_ms(outcome) for outcome in served],
    }
    return Figures(
        **msgspec.structs.asdict(tally_of(measured, actor_times_s, others_s)),
        max_concurrency=max_concurrency,
        request_rate=request_rate,
        ttft_ms=spread_of(values["ttft"]),
        tpot_ms=spread_of(values["tpot"]),
        itl_ms=spread_of(values["itl"]),
        e2el_ms=spread_of(values["e2el"]),
        samples_ms={name: samples_of(found) for name, found in values.items()},
        goodput=_goodput(measured, served, limits_ms) if limits_ms else None,
        requests=[_times(each, began) for each in measured.outcomes] if has_requests else None,
    )


def tally_of(
    measured: Measured, actor_times_s: Mapping[str, float], others_s: float | None = None
) -> Tally:
    served = [outcome for outcome in measured.outcomes if outcome.failure is None]
    failures = Counter(each.failure for each in measured.outcomes if each.failure)
    num_prompt = sum(outcome.num_prompt_tokens for outcome in served)
    num_output = sum(outcome.num_output_tokens for outcome in served)
    duration_s = max(measured.duration_s, 1e-9)
    return Tally(
        num_requests=len(measured.outcomes),
        num_completed=len(served),
        num_failed=len(measured.outcomes) - len(served),
        failures=_few(failures),
        num_cut_short=measured.num_cut_short,
        num_other_length=sum(outcome.has_other_length for outcome in served),
        duration_s=measured.duration_s,
        num_prompt_tokens=num_prompt,
        num_cached_tokens=sum(outcome.num_cached_tokens for outcome in served),
        num_output_tokens=num_output,
        output_tokens_per_s=num_output / duration_s,
        total_tokens_per_s=(num_prompt + num_output) / duration_s,
        requests_per_s=len(served) / duration_s,
        generator=Generator(
            cpu_s=measured.cpu_s,
            cpu_us_per_token=1e6 * measured.cpu_s / max(1, num_output),
            core_share=measured.cpu_s / duration_s,
            lag_ms=spread_of([1e3 * outcome.lag_s for outcome in measured.outcomes]),
        ),
        actors=[
            ActorTime(actor, cpu_s, 1e6 * cpu_s / max(1, num_output), cpu_s / duration_s)
            for actor, cpu_s in actor_times_s.items()
        ],
        others_cores=None if others_s is None else others_s / duration_s,
    )


def ttft_ms(outcome: Outcome, began: float) -> float:
    return 1e3 * (outcome.stamps[0] - began - outcome.sent_s)


def e2el_ms(outcome: Outcome) -> float:
    return 1e3 * (outcome.ended_s - outcome.sent_s)


def tpot_ms(outcome: Outcome) -> float | None:
    """None of one token: there is no second one to wait for."""
    if outcome.num_output_tokens < 2:
        return None
    span_s = outcome.stamps[-1] - outcome.stamps[0]
    return 1e3 * span_s / (outcome.num_output_tokens - 1)


def gaps_ms(outcome: Outcome) -> list[float]:
    stamps = outcome.stamps
    return [1e3 * (then - before) for before, then in zip(stamps, stamps[1:], strict=False)]


def spread_of(values: Sequence[float]) -> Spread:
    """Percentiles are interpolated linearly, as numpy does by default."""
    if not values:
        return Spread()
    import numpy as np

    found = np.asarray(values)
    p50, p90, p95, p99 = np.percentile(found, PERCENTILES).tolist()
    mean, std, most = float(found.mean()), float(found.std()), float(found.max())
    return Spread(len(values), mean, std, p50, p90, p95, p99, most)


def samples_of(values: Sequence[float]) -> list[float]:
    """Quantiles in equal steps, lowest first; all values, sorted, if they are few."""
    import numpy as np

    if not values:
        return []
    quantiles = np.linspace(0, 1, min(len(values), MAX_SAMPLES))
    return [round(value, 4) for value in np.quantile(values, quantiles).tolist()]


def _few(failures: Counter[str]) -> dict[str, int]:
    """The most frequent ones; a server may word each refusal anew."""
    told = dict(failures.most_common(MAX_REASONS))
    rest = failures.total() - sum(told.values())
    return told | ({"other reasons": rest} if rest else {})


def _goodput(
    measured: Measured, served: Sequence[Outcome], limits_ms: Mapping[str, float]
) -> Goodput:
    num_good = sum(_is_good(outcome, measured.began, limits_ms) for outcome in served)
    return Goodput(
        dict(limits_ms),
        num_good,
        num_good / max(1, len(measured.outcomes)),
        num_good / max(measured.duration_s, 1e-9),
    )


def _is_good(outcome: Outcome, began: float, limits_ms: Mapping[str, float]) -> bool:
    found = {
        "ttft": ttft_ms(outcome, began),
        "tpot": tpot_ms(outcome) or 0.0,
        "e2el": e2el_ms(outcome),
    }
    return all(found[name] <= limit for name, limit in limits_ms.items())


def _times(outcome: Outcome, began: float) -> RequestTimes:
    return RequestTimes(
        1e3 * outcome.sent_s,
        ttft_ms(outcome, began) if outcome.failure is None else None,
        e2el_ms(outcome),
        outcome.num_prompt_tokens,
        outcome.num_output_tokens,
        gaps_ms(outcome),
        outcome.failure,
    )
