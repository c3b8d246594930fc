"""A run in figures: what came, what came of it, how long it took, what the steps were like."""

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenreel.messages.journal import META
from tokenreel.messages.journal_meta import Meta, decode_meta
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.rows import NOT_FINISHED
from tokenreel.tools.replay.index.tables import Sequences, Steps
from tokenreel.tools.replay.reading.journal import read_records

Numbers = NDArray[np.int64]
MAX_BINS = 12


class Spread(msgspec.Struct, frozen=True):
    """Of `count` values; 0 everywhere if there are none."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Bin(NamedTuple):
    """How many values are in [low, high)."""

    low: float
    high: float
    num: int


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Times are those of the core's clock, in nanoseconds unless they say otherwise. A request
    counts as finished when its output was delivered."""

    run_id: str
    version: str
    wall_ns: int
    """When the journal begins, since 1970."""
    configuration: dict[str, object]
    span_ns: int
    num_segments: int
    num_records: int
    num_events: int
    has_ended: bool

    num_requests: int
    num_carried: int
    """Of them, those that were there when the journal began."""
    num_delivered: int
    num_aborted: int
    num_rejected: int
    num_in_flight: int
    rejections: dict[str, int]
    num_sequences: int
    finish_reasons: dict[str, int]

    num_prompt_tokens: int
    num_output_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    """Tokens that sequences entering the batch found in the cache, also after a preemption."""
    num_cacheable_tokens: int

    ttft: Spread
    tpot: Spread
    end_to_end: Spread

    num_steps: int
    num_preemptions: int
    step_duration: Spread
    step_durations: list[Bin]
    batch_size: Spread
    batch_sizes: list[Bin]
    step_tokens: Spread
    open_ns: int
    """For how long a step was open at least."""
    computing_ns: int
    """For how long the worker had one, by its own clock."""

    max_running: int
    max_waiting: int
    max_blocks_used: int
    num_blocks: int
    passed_over: dict[str, int]
    failures: list[str]
    notes: list[str]


def statistics_of(index: Index) -> Statistics:
    journal, requests, sequences, steps = (
        index.journal,
        index.requests,
        index.sequences,
        index.steps,
    )
    meta = _meta(index)
    refused = requests.refused_status > 0
    delivered = requests.delivered_ns > 0
    aborted = requests.aborted_ns > 0
    arrived = requests.admit_seq > 0
    done = steps.completed_seq > 0
    duration = steps.ended_ns[done] - steps.began_ns[done]
    answered = delivered & ~aborted & arrived
    block_size, num_blocks = _limit(meta, "block_size"), _limit(meta, "num_blocks")
    num_cached = int(steps.num_cached_tokens.sum())
    return Statistics(
        run_id=journal.run_id,
        version=meta.version,
        wall_ns=journal.segments[0].header.wall_ns,
        configuration=dict(meta.configuration),
        span_ns=journal.span_ns,
        num_segments=len(journal.segments),
        num_records=sum(segment.num_records for segment in journal.segments),
        num_events=sum(part.head.num_events for part in index.parts),
        has_ended=journal.has_ended,
        num_requests=len(requests),
        num_carried=int((~arrived & ~refused).sum()),
        num_delivered=int((delivered & ~aborted).sum()),
        num_aborted=int((aborted & ~refused).sum()),
        num_rejected=int(refused.sum()),
        num_in_flight=int((~delivered & ~refused & ~aborted).sum()),
        rejections=_counts(requests.refused_status[refused]),
        num_sequences=len(sequences),
        finish_reasons=_finish_reasons(sequences),
        num_prompt_tokens=int(requests.num_prompt_tokens[~refused].sum()),
        num_output_tokens=int(steps.num_emitted.sum()),
        num_computed_tokens=int(steps.num_tokens.sum()),
        num_cached_tokens=num_cached,
        num_cacheable_tokens=num_cached + int(steps.num_missed_blocks.sum()) * block_size,
        ttft=spread_of(_since(requests.first_token_ns, requests.admit_t_ns, arrived)),
        tpot=spread_of(_tpots(sequences)),
        end_to_end=spread_of(_since(requests.delivered_ns, requests.admit_t_ns, answered)),
        num_steps=len(steps),
        num_preemptions=int(sequences.num_preemptions.sum()),
        step_duration=spread_of(duration),
        step_durations=bins_of(duration / 1e6),
        batch_size=spread_of(steps.num_seqs),
        batch_sizes=bins_of(steps.num_seqs),
        step_tokens=spread_of(steps.num_tokens),
        open_ns=_open_ns(steps, journal.segments[-1].last_t_ns),
        computing_ns=int(duration.sum()),
        max_running=_most(steps.num_running),
        max_waiting=_most(steps.num_waiting),
        max_blocks_used=num_blocks - int(steps.num_free_blocks.min()) if len(steps) else 0,
        num_blocks=num_blocks,
        passed_over=_reasons(steps),
        failures=[part.head.failure for part in index.parts if part.head.failure],
        notes=index.notes,
    )


def spread_of(values: NDArray[np.int64] | NDArray[np.float64]) -> Spread:
    if not len(values):
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return Spread(
        len(values),
        float(values.mean()),
        float(p50),
        float(p90),
        float(p99),
        float(values.max()),
    )


def bins_of(values: NDArray[np.int64] | NDArray[np.float64]) -> list[Bin]:
    """Of values that are not negative: at powers of two and half-way between them (for whole
    numbers, at whole ones), at most MAX_BINS. The first begins at 0 if something is below those."""
    if not len(values):
        return []
    edges = np.array([2.0**power * part for power in range(-10, 40) for part in (1.0, 1.5)])
    if np.issubdtype(values.dtype, np.integer):
        edges = edges[edges == np.floor(edges)]
    above = max(1, int(np.searchsorted(edges, values.max(), side="right")))
    below = int(np.searchsorted(edges, values.min(), side="right")) - 1
    below = max(below, above - MAX_BINS, 0)
    places = np.searchsorted(edges[below + 1 : above], values, side="right")
    counts = np.bincount(places, minlength=above - below).tolist()
    bounds = edges[below : above + 1].tolist()
    if values.min() < bounds[0]:
        bounds[0] = 0.0
    spans = zip(pairwise(bounds), counts, strict=True)
    return [Bin(low, high, num) for (low, high), num in spans]


def _meta(index: Index) -> Meta:
    for _, _, records in read_records(index.journal):
        record = next(records)
        assert record.type == META  # the index was built on it
        return decode_meta(record.payload)
    raise AssertionError("a journal without segments")


def _limit(meta: Meta, name: str) -> int:
    return int(meta.configuration.get(name, 0))


def _since(then: Numbers, start: Numbers, counts: NDArray[np.bool_]) -> Numbers:
    told = counts & (then > 0)
    return np.asarray(then[told] - start[told], dtype=np.int64)


def _tpots(sequences: Sequences) -> NDArray[np.float64]:
    """Per token after the first, of sequences with two at least."""
    several = (sequences.num_outputs > 1) & (sequences.last_token_ns > sequences.first_token_ns)
    spans = (sequences.last_token_ns - sequences.first_token_ns)[several]
    return np.asarray(spans / (sequences.num_outputs[several] - 1), dtype=np.float64)


def _finish_reasons(sequences: Sequences) -> dict[str, int]:
    names = {int(reason): reason.name.lower() for reason in FinishReason}
    names[NOT_FINISHED] = "not finished"
    return _named(sequences.finish_reason, names)


def _reasons(steps: Steps) -> dict[str, int]:
    """How many steps passed somebody over, by the reason of the first."""
    names = {int(reason): reason.name.lower() for reason in Unscheduled}
    return _named(steps.unscheduled[steps.passed_over > 0], names)


def _named(values: Numbers, names: dict[int, str]) -> dict[str, int]:
    counts = Counter(values.tolist())
    return {names.get(value, str(value)): count for value, count in counts.most_common()}


def _counts(values: Numbers) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values.tolist()).most_common()}


def _most(values: Numbers) -> int:
    return int(values.max()) if len(values) else 0


def _open_ns(steps: Steps, until_ns: int) -> int:
    """Steps begin in the order of their rows and complete in it."""
    if not len(steps):
        return 0
    ends = np.where(steps.completed_seq > 0, steps.completed_t_ns, until_ns)
    ends = np.maximum.accumulate(ends)
    begins = np.maximum(steps.t_ns, np.concatenate([[0], ends[:-1]]))
    return int(np.maximum(ends - begins, 0).sum())
