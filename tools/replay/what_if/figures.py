"""What a run was like for its clients, in figures: the same for a captured and a simulated one."""

import msgspec

from tokenreel.messages.sampling import FinishReason
from tokenreel.tools.replay.recording.values import RecordedRequest, Recording


class Distribution(msgspec.Struct, frozen=True):
    mean: float
    p50: float
    p99: float


class Figures(msgspec.Struct, frozen=True):
    """Times are those of the engine core, from the arrival of a request there. TTFT counts every
    request that put a token out, TPOT every sequence with two or more, end-to-end every request
    that its client did not abort. Throughput is measured from the first arrival to the last token.
    None: there was nothing to measure.
    """

    num_requests: int
    num_rejected: int
    num_aborted: int
    num_output_tokens: int
    duration_s: float
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    e2e_ms: Distribution | None
    output_tokens_per_s: float
    requests_per_s: float
    num_preemptions: int
    cache_hit_percent: float
    """Prompt tokens that came from the prefix cache, of all prompt tokens."""
    num_steps: int
    mean_seqs_per_step: float
    mean_step_ms: float


def figures_of(run: Recording, counted: list[RecordedRequest]) -> Figures:
    """Latencies and throughput of the `counted` requests of `run`; preemptions and steps of all."""
    served = [request for request in counted if request.rejected is None]
    sequences = [sequence for request in served for sequence in request.sequences]
    num_output_tokens = sum(sequence.num_final_outputs for sequence in sequences)
    duration_s = _duration_s(served)
    num_prompt_tokens = sum(len(r.admit.prompt_token_ids) * len(r.sequences) for r in served)
    num_cached_tokens = sum(sequence.num_cached_tokens for sequence in sequences)
    steps = run.steps
    return Figures(
        num_requests=len(counted),
        num_rejected=len(counted) - len(served),
        num_aborted=sum(_is_aborted(request) for request in served),
        num_output_tokens=num_output_tokens,
        duration_s=duration_s,
        ttft_ms=_distribution(ttft_samples_ms(served)),
        tpot_ms=_distribution(tpot_samples_ms(served)),
        e2e_ms=_distribution(e2e_samples_ms(served)),
        output_tokens_per_s=_rate(num_output_tokens, duration_s),
        requests_per_s=_rate(len(served), duration_s),
        num_preemptions=run.num_preemptions,
        cache_hit_percent=100 * _rate(num_cached_tokens, num_prompt_tokens),
        num_steps=len(steps),
        mean_seqs_per_step=_rate(sum(step.work.num_seqs for step in steps), len(steps)),
        mean_step_ms=_rate(sum(s.ended_ns - s.began_ns for s in steps) / 1e6, len(steps)),
    )


def ttft_samples_ms(requests: list[RecordedRequest]) -> list[float]:
    """Of requests that put a token out: from the arrival to the first token of any sequence."""
    samples = []
    for request in requests:
        firsts = [sequence.output_ns[0] for sequence in request.sequences if sequence.outputs]
        if firsts:
            samples.append((min(firsts) - request.arrival_ns) / 1e6)
    return samples


def tpot_samples_ms(requests: list[RecordedRequest]) -> list[float]:
    """Of sequences with two tokens or more: between the first and the last, per token."""
    samples = []
    for request in requests:
        for sequence in request.sequences:
            last = sequence.num_final_outputs - 1
            if last > 0:
                duration_ns = sequence.output_ns[last] - sequence.output_ns[0]
                samples.append(duration_ns / 1e6 / last)
    return samples


def e2e_samples_ms(requests: list[RecordedRequest]) -> list[float]:
    """Of requests that were not aborted: from the arrival to the end of the last sequence."""
    return [
        (max(sequence.finished_ns for sequence in request.sequences) - request.arrival_ns) / 1e6
        for request in requests
        if request.sequences and not _is_aborted(request)
    ]


def _is_aborted(request: RecordedRequest) -> bool:
    return any(s.finish_reason is FinishReason.ABORT for s in request.sequences)


def _duration_s(requests: list[RecordedRequest]) -> float:
    times = [s.output_ns[-1] for r in requests for s in r.sequences if s.outputs]
    if not times:
        return 0.0
    return (max(times) - min(request.arrival_ns for request in requests)) / 1e9


def _distribution(values: list[float]) -> Distribution | None:
    import numpy as np

    if not values:
        return None
    p50, p99 = np.percentile(values, [50, 99])
    return Distribution(sum(values) / len(values), float(p50), float(p99))


def _rate(count: float, whole: float) -> float:
    return count / whole if whole else 0.0
