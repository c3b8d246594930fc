"""What the verbs say at the end: tables for a person, one column per run."""

from collections.abc import Sequence

from tokenreel.tools.bench.results.figures import Figures, Generator, Spread, Tally
from tokenreel.tools.bench.results.result import AnyResult, Latency, Serve, Startup, Throughput
from tokenreel.tools.bench.results.text_table import aligned, number

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
BUSY_GENERATOR = 0.5
"""Of one core: from here on the generator may be what is measured."""
LATE_MS = 10.0
OTHERS_CORES = 0.1
"""From here on the machine was not idle."""


def title_of(figures: Figures) -> str:
    """A run among others: what its column is called."""
    parts = []
    if figures.request_rate is not None:
        parts.append(f"{number(figures.request_rate)}/s")
    if figures.max_concurrency is not None:
        parts.append(f"c={figures.max_concurrency}")
    return " ".join(parts) or "all"


def head_lines(result: AnyResult) -> list[str]:
    """Who was measured, and where."""
    header, server, machine = result.header, result.server, result.header.machine
    who = f"{server.model} at {server.url}"
    if server.is_ours:
        who = " ".join(["engine-up", server.model, *server.flags])
    versions = ", ".join(
        f"{name} {machine.packages[name]}"
        for name in ("torch", "numba")
        if name in machine.packages
    )
    return [
        who,
        f"{machine.num_cores} cores of {machine.processor}, {machine.memory_gib:g} GiB, "
        f"Python {machine.python}" + (f", {versions}" if versions else ""),
        f"{code_of(result)}, {header.began}, load average before: {machine.load_average:g}",
    ]


def code_of(result: AnyResult) -> str:
    """Which code was measured, or measured somebody else's."""
    header = result.header
    told = f"tokenreel {header.version} {header.commit[:12]}".rstrip()
    return told if result.server.is_ours else f"measured by {told}"


def serve_lines(result: Serve, metrics: Sequence[str]) -> list[str]:
    runs = result.runs
    header = ["", *(title_of(run) for run in runs)]
    rows = _tally_rows(runs)
    if any(run.goodput for run in runs):
        goodputs = [run.goodput for run in runs if run.goodput]
        limits = " ".join(f"{k}:{v:g}" for k, v in goodputs[0].limits_ms.items())
        rows.append([f"good ({limits})", *(f"{g.share:.1%}" for g in goodputs)])
        rows.append(["good req/s", *(number(g.requests_per_s) for g in goodputs)])
    for metric in metrics:
        spreads: list[Spread] = [getattr(run, f"{metric}_ms") for run in runs]
        for statistic in STATISTICS:
            values = [number(getattr(spread, statistic)) for spread in spreads]
            rows.append([f"{METRICS[metric]} {statistic}, ms", *values])
    return [*aligned(header, rows), *note_lines(runs, header[1:]), *actor_lines(runs, header[1:])]


def throughput_lines(result: Throughput) -> list[str]:
    header = ["", "all at once"]
    return [
        *aligned(header, _tally_rows(result.runs)),
        *note_lines(result.runs, header[1:]),
        *actor_lines(result.runs, header[1:]),
    ]


def latency_lines(result: Latency) -> list[str]:
    lines = []
    for run in result.runs:
        spread = run.latency_ms
        rows = [[name, number(getattr(spread, name))] for name in (*STATISTICS, "max")]
        lines += aligned([f"{spread.count} batches of {run.batch_size}", "ms"], rows)
        lines.append(f"  {number(run.output_tokens_per_s)} output tokens/s at the mean")
        if run.num_other_length:
            lines.append(f"  {run.num_other_length} batches of another length than asked")
        lines += [f"  FAILED {count} x {reason}" for reason, count in run.failures.items()]
    return lines


def startup_lines(result: Startup) -> list[str]:
    header = ["seconds", *(f"{_word(run.is_cold)} x{run.ready_s.count}" for run in result.runs)]
    rows = []
    for name, field in (("ready", "ready_s"), ("first token", "first_token_s")):
        spreads: list[Spread] = [getattr(run, field) for run in result.runs]
        for statistic in ("mean", "p50", "max"):
            values = [f"{getattr(spread, statistic):.2f}" for spread in spreads]
            rows.append([f"{name}, {statistic}", *values])
    for actor in result.runs[0].actors_s if result.runs else ():
        values = [f"{run.actors_s.get(actor, 0.0):.2f}" for run in result.runs]
        rows.append([f"{actor} ready", *values])
    lines = aligned(header, rows)
    if result.failure is not None:
        lines += [f"  FAILED after {len(result.starts)} measured: {result.failure}"]
    return lines


def note_lines(runs: Sequence[Tally], titles: Sequence[str]) -> list[str]:
    """What a reader of the table must know."""
    lines = []
    for run, title in zip(runs, titles, strict=True):
        lines += [f"  {title}: FAILED {n} x {reason}" for reason, n in run.failures.items()]
        if run.num_other_length:
            lines.append(f"  {title}: {run.num_other_length} answers of another length than asked")
        if run.num_cut_short:
            lines.append(f"  {title}: stopped, {run.num_cut_short} requests were not finished")
        if run.others_cores is not None and run.others_cores > OTHERS_CORES:
            lines.append(f"  {title}: others kept {run.others_cores:.1f} cores busy meanwhile")
        lines += [f"  {title}: {note}" for note in _generator_notes(run.generator)]
    return lines


def actor_lines(runs: Sequence[Tally], titles: Sequence[str]) -> list[str]:
    """CPU time per output token, of each process; the share of one core."""
    if not any(run.actors for run in runs):
        return []
    actors = dict.fromkeys(actor.actor for run in runs for actor in run.actors)
    rows = []
    for name in actors:
        cells = [next((a for a in run.actors if a.actor == name), None) for run in runs]
        rows.append([name, *(_cpu(c.cpu_us_per_token, c.core_share) if c else "" for c in cells)])
    generators = [run.generator for run in runs]
    rows.append(["generator", *(_cpu(g.cpu_us_per_token, g.core_share) for g in generators)])
    return ["", *aligned(["CPU us/token (share of a core)", *titles], rows)]


def _tally_rows(runs: Sequence[Tally]) -> list[list[str]]:
    rows = [
        ["requests", *(f"{run.num_requests:,}" for run in runs)],
        ["seconds", *(number(run.duration_s) for run in runs)],
        ["output tok/s", *(number(run.output_tokens_per_s) for run in runs)],
        ["total tok/s", *(number(run.total_tokens_per_s) for run in runs)],
        ["req/s", *(number(run.requests_per_s) for run in runs)],
    ]
    if any(run.num_cached_tokens for run in runs):
        shares = [run.num_cached_tokens / max(1, run.num_prompt_tokens) for run in runs]
        rows.append(["prompt tokens cached", *(f"{share:.1%}" for share in shares)])
    if any(run.num_failed for run in runs):
        rows.append(["failed", *(f"{run.num_failed:,}" for run in runs)])
    return rows


def _generator_notes(generator: Generator) -> list[str]:
    notes = []
    if generator.core_share > BUSY_GENERATOR:
        notes.append(f"the load generator took {generator.core_share:.0%} of a core")
    if generator.lag_ms.p99 > LATE_MS:
        notes.append(f"requests were sent late, p99 {number(generator.lag_ms.p99)} ms")
    return notes


def _cpu(us_per_token: float, core_share: float) -> str:
    return f"{number(us_per_token)} ({core_share:.0%})"


def _word(is_cold: bool) -> str:
    return "cold" if is_cold else "warm"
