"""What the plot of each verb shows, panel by panel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenreel.tools.bench.results.figures import ActorTime, Figures, Spread
from tokenreel.tools.bench.results.report import METRICS, title_of
from tokenreel.tools.bench.results.result import (
    AnyResult,
    Latency,
    LatencyFigures,
    Overhead,
    OverheadFigures,
    Serve,
    Startup,
    Throughput,
    ThroughputFigures,
)
from tokenreel.tools.bench.results.text_table import number
from tokenreel.tools.figure import COLORS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAST_COLOR = "#bbbbbb"
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
"""Where bars leave a legend no room."""
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))


def draw_panels(figure: "Figure", result: AnyResult) -> None:
    """Of a result with one run at least. Of one run of `serve` the distributions of its latencies,
    of several, rate and latencies over the load."""
    match result:
        case Overhead():
            _draw_overhead(_axes(figure, 2), result)
        case Serve() if len(result.runs) > 1:
            _draw_sweep(_axes(figure, 2), result.runs)
        case Serve():
            _draw_distributions(_axes(figure, 2), result.runs[0])
        case Throughput():
            _draw_throughput(_axes(figure, 1), result.runs[0])
        case Latency():
            _draw_latency(_axes(figure, 1), result.runs[0])
        case Startup():
            _draw_startup(_axes(figure, 1), result)


def _axes(figure: "Figure", num_rows: int) -> list["Axes"]:
    figure.set_figheight(figure.get_figheight() * num_rows / 2)
    axes: list[Axes] = figure.subplots(num_rows, 2).flatten().tolist()
    return axes


def _draw_distributions(axes: Sequence["Axes"], run: Figures) -> None:
    """The share that was served within so much time."""
    for place, (metric, name) in enumerate(METRICS.items()):
        spread: Spread = getattr(run, f"{metric}_ms")
        _draw_distribution(axes[place], name, spread, run.samples_ms[metric], COLORS[place])


def _draw_distribution(
    panel: "Axes", name: str, spread: Spread, values: Sequence[float], color: str
) -> None:
    panel.set_title(f"{name}, {spread.count:,} values")
    panel.set_xlabel("milliseconds, or less")
    panel.set_ylabel("%")
    panel.set_ylim(0, 101)
    last = max(1, len(values) - 1)
    panel.plot(values, [100 * at / last for at in range(len(values))], color=color)
    for label, quantile in QUANTILES:
        point = (float(getattr(spread, label)), 100 * quantile)
        panel.plot(*point, "o", color=color, markersize=4)
        panel.annotate(f" {label} {number(point[0])}", point, fontsize=8, color=INK, va="top")
    panel.set_xlim(0, 1.12 * max(values, default=1.0) or 1.0)


def _draw_sweep(axes: Sequence["Axes"], runs: Sequence[Figures]) -> None:
    rate, ttft, tpot, e2el = axes
    places, names = list(range(len(runs))), [title_of(run) for run in runs]
    values = [run.output_tokens_per_s for run in runs]
    rate.plot(places, values, "o-", color=COLORS[0], linewidth=1.7)
    rate.set_title("output tokens per second")
    for panel, metric in ((ttft, "ttft"), (tpot, "tpot"), (e2el, "e2el")):
        for color, (quantile, _) in zip(COLORS, QUANTILES, strict=False):
            spreads: list[Spread] = [getattr(run, f"{metric}_ms") for run in runs]
            points = [getattr(spread, quantile) for spread in spreads]
            panel.plot(places, points, "o-", color=color, linewidth=1.7, label=quantile)
        panel.set_title(f"{METRICS[metric]}, milliseconds")
        panel.legend()
    for panel in axes:
        panel.set_xticks(places, names)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(lambda value, _: number(value))


def _draw_overhead(axes: Sequence["Axes"], result: Overhead) -> None:
    rate, share, cpu, floor = axes
    runs = result.runs
    places, names = list(range(len(runs))), [f"c={run.max_concurrency}" for run in runs]
    rates = {
        "engine": [run.engine.output_tokens_per_s for run in runs],
        "without the model": [run.stub.output_tokens_per_s for run in runs],
        "floor": [run.floor.tokens_per_s for run in runs],
    }
    for color, (label, values) in zip(COLORS, rates.items(), strict=False):
        rate.plot(places, values, "o-", color=color, linewidth=1.7, label=label)
    rate.legend()
    rate.set_title("output tokens per second")
    _draw_shares(share, places, runs)
    _stack(cpu, places, _spent_by_process(runs))
    cpu.set_title("CPU time per output token by process, microseconds")
    parts = {
        "model's products": [run.floor.model_us for run in runs],
        "HTTP alone": [run.floor.http_us for run in runs],
        "load generator": [run.floor.generator_us for run in runs],
    }
    _stack(floor, places, parts)
    floor.set_title("the floor's CPU time per output token, microseconds")
    for panel in axes:
        panel.set_xticks(places, names)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(lambda value, _: number(value))


def _draw_shares(panel: "Axes", places: Sequence[int], runs: Sequence[OverheadFigures]) -> None:
    for side, color, label, shares in (
        (-0.2, COLORS[0], "of its tokens per second", [run.share_of_floor for run in runs]),
        (0.2, COLORS[2], "by CPU time", [run.cpu_share_of_floor for run in runs]),
    ):
        heights = [100 * part for part in shares]
        panel.bar([at + side for at in places], heights, color=color, width=0.38, label=label)
    panel.set_title("share of the floor that the engine reaches, %")
    panel.legend(**BESIDE)


def _spent_by_process(runs: Sequence[OverheadFigures]) -> dict[str, list[float]]:
    """CPU time per token: one value per run."""
    actors = dict.fromkeys(actor.actor for run in runs for actor in run.engine.actors)
    spent = {
        actor: [
            sum(each.cpu_us_per_token for each in run.engine.actors if each.actor == actor)
            for run in runs
        ]
        for actor in actors
    }
    return spent | {"generator": [run.engine.generator.cpu_us_per_token for run in runs]}


def _stack(panel: "Axes", places: Sequence[int], parts: dict[str, list[float]]) -> None:
    bottoms = [0.0] * len(places)
    for color, (label, values) in zip((*COLORS, LAST_COLOR), parts.items(), strict=False):
        panel.bar(places, values, bottom=bottoms, label=label, color=color, width=0.6)
        bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
    panel.legend(**BESIDE, reverse=True)


def _draw_throughput(axes: Sequence["Axes"], run: ThroughputFigures) -> None:
    over_time, cpu = axes
    last = max(1, len(run.ended_s) - 1)
    shares = [run.num_completed * at / last for at in range(len(run.ended_s))]
    over_time.plot(run.ended_s, shares, color=COLORS[0], linewidth=1.7)
    over_time.set_title(f"answers there: {number(run.output_tokens_per_s)} output tokens/s in all")
    over_time.set_xlabel("seconds")
    over_time.set_xlim(left=0)
    over_time.set_ylim(bottom=0)
    _draw_actors(cpu, run.actors)


def _draw_latency(axes: Sequence["Axes"], run: LatencyFigures) -> None:
    name = f"batches of {run.batch_size}: {run.num_input_tokens} in, {run.num_output_tokens} out"
    _draw_distribution(axes[0], name, run.latency_ms, run.samples_ms, COLORS[0])
    labels = ["mean", *(label for label, _ in QUANTILES), "max"]
    values = [float(getattr(run.latency_ms, label)) for label in labels]
    _draw_bars(axes[1], labels, values, "milliseconds")


def _draw_startup(axes: Sequence["Axes"], result: Startup) -> None:
    labels = ["cold" if run.is_cold else "warm" for run in result.runs]
    places = list(range(len(labels)))
    ready = [run.ready_s.mean for run in result.runs]
    rest = [run.first_token_s.mean - run.ready_s.mean for run in result.runs]
    _stack(axes[0], places, {"ready": ready, "first token": rest})
    axes[0].set_ylim(bottom=0)
    axes[0].set_xticks(places, labels)
    axes[0].set_title("seconds from the command, mean")
    for place, run in enumerate(result.runs):
        for start in (each for each in result.starts if each.is_cold == run.is_cold):
            axes[0].plot([place], [start.first_token_s], "o", color=INK, markersize=3)
    actors = result.runs[-1].actors_s
    title = f"{labels[-1]}: seconds from an actor's start until it was ready"
    _draw_bars(axes[1], list(actors), list(actors.values()), title)


def _draw_actors(panel: "Axes", actors: Sequence[ActorTime]) -> None:
    labels = [actor.actor for actor in actors]
    values = [actor.cpu_us_per_token for actor in actors]
    _draw_bars(panel, labels, values, "CPU time per output token, microseconds")


def _draw_bars(panel: "Axes", labels: Sequence[str], values: Sequence[float], title: str) -> None:
    """Lying, so that long names can be read."""
    bars = panel.barh(list(range(len(labels))), values, color=COLORS[0], height=0.6)
    panel.bar_label(bars, [f" {number(value)}" for value in values], color=INK)
    panel.set_yticks(list(range(len(labels))), labels)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.set_title(title)
