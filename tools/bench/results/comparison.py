"""Several results of one verb side by side, as a markdown table of figures and ratios."""

from collections import Counter
from collections.abc import Sequence

from tokenreel.tools.bench.results.figures import Figures, Tally
from tokenreel.tools.bench.results.report import METRICS, code_of, title_of
from tokenreel.tools.bench.results.result import (
    AnyResult,
    Latency,
    LatencyFigures,
    Overhead,
    OverheadFigures,
    Serve,
    Startup,
    StartupFigures,
    Throughput,
)
from tokenreel.tools.bench.results.text_table import markdown, number
from tokenreel.tools.command import UsageError

Metrics = dict[str, float]
QUANTILES = ("p50", "p99")


def comparison_lines(results: Sequence[AnyResult], wanted: Sequence[str] | None) -> list[str]:
    """A row per run and metric; a run that only some of the results have is told of those. Below
    the table stands what each column is. Raises UsageError for metrics that there are not, and if
    there is no run at all."""
    columns = [metrics_of(result) for result in results]
    runs = dict.fromkeys(run for column in columns for run in column)
    rows = []
    for run in runs:
        found = [column.get(run, {}) for column in columns]
        names = dict.fromkeys(name for metrics in found for name in metrics)
        for name in names:
            if wanted is None or name in wanted:
                cells = _cells([metrics.get(name) for metrics in found])
                rows.append([f"{run} {name}".strip(), *cells])
    if not runs:
        raise UsageError("there is no run to compare")
    known = dict.fromkeys(n for column in columns for each in column.values() for n in each)
    if unknown := [name for name in wanted or () if name not in known]:
        raise UsageError(f"no metric {unknown[0]!r}; there are: {', '.join(known)}")
    labels = [result.label for result in results]
    return [*markdown(["", *labels], rows), "", *_legend(results)]


def metrics_of(result: AnyResult) -> dict[str, Metrics]:
    """By run, then by name. Runs at the same level are numbered from the second on."""
    found: dict[str, Metrics] = {}
    nth: Counter[str] = Counter()
    for title, metrics in _titled(result):
        nth[title] += 1
        found[title if nth[title] == 1 else f"{title} #{nth[title]}"] = metrics
    return found


def _titled(result: AnyResult) -> list[tuple[str, Metrics]]:
    match result:
        case Serve():
            return [(title_of(run), _of_figures(run)) for run in result.runs]
        case Throughput():
            return [("", _of_tally(run)) for run in result.runs]
        case Latency():
            return [(f"batch {run.batch_size}", _of_latency(run)) for run in result.runs]
        case Startup():
            return [("cold" if run.is_cold else "warm", _of_start(run)) for run in result.runs]
        case Overhead():
            return [(f"c={run.max_concurrency}", _of_overhead(run)) for run in result.runs]


def _of_tally(run: Tally) -> Metrics:
    metrics = {
        "output tok/s": run.output_tokens_per_s,
        "total tok/s": run.total_tokens_per_s,
        "req/s": run.requests_per_s,
    }
    return metrics | ({"failed": run.num_failed} if run.num_failed else {})


def _of_figures(run: Figures) -> Metrics:
    metrics = _of_tally(run)
    if run.goodput is not None:
        metrics["good req/s"] = run.goodput.requests_per_s
    for metric, name in METRICS.items():
        spread = getattr(run, f"{metric}_ms")
        metrics |= {f"{name} {quantile} ms": getattr(spread, quantile) for quantile in QUANTILES}
    return metrics


def _of_latency(run: LatencyFigures) -> Metrics:
    spread = run.latency_ms
    metrics = {f"{name} ms": getattr(spread, name) for name in ("mean", *QUANTILES)}
    return metrics | {"output tok/s": run.output_tokens_per_s}


def _of_start(run: StartupFigures) -> Metrics:
    return {"ready s": run.ready_s.mean, "first token s": run.first_token_s.mean}


def _of_overhead(run: OverheadFigures) -> Metrics:
    return {
        "output tok/s": run.engine.output_tokens_per_s,
        "share of the floor %": 100 * run.share_of_floor,
        "share by CPU time %": 100 * run.cpu_share_of_floor,
        "without the model tok/s": run.stub.output_tokens_per_s,
        "TTFT p50 ms": run.engine.ttft_ms.p50,
        "TTFT p99 ms": run.engine.ttft_ms.p99,
    }


def _cells(found: Sequence[float | None]) -> list[str]:
    first = found[0]
    cells = []
    for place, value in enumerate(found):
        if value is None:
            cells.append("-")
        elif place == 0 or not first:
            cells.append(number(value))
        else:
            cells.append(f"{number(value)} ({value / first:.2f})")
    return cells


def _legend(results: Sequence[AnyResult]) -> list[str]:
    lines = []
    for result in results:
        header, machine = result.header, result.header.machine
        lines.append(
            f"- {result.label}: `{' '.join(header.command)}`; {machine.num_cores} cores of "
            f"{machine.processor}, {code_of(result)}, {header.began[:10]}, load average before "
            f"{machine.load_average:g}"
        )
    return lines
