"""Draws a result. The one place that imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.tools.bench.problem import Problem
from tokenreel.tools.bench.results.figures import Figures, Spread
from tokenreel.tools.bench.results.report import METRICS, title_of
from tokenreel.tools.bench.results.result import AnyResult, Overhead, Serve
from tokenreel.tools.bench.results.text_table import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme: told apart by the colour-blind, too."""
LAST_COLOR = "#bbbbbb"
INK = "#444444"
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))


class CannotDraw(Problem):
    """One line that says what is missing."""


def draw(result: AnyResult, path: Path) -> None:
    """Of one run the distributions of its latencies; of several, rate and latencies over the load.

    Raises CannotDraw.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise CannotDraw("--plot needs matplotlib: pip install matplotlib") from None
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 7.2), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2).flatten().tolist()
        if isinstance(result, Overhead):
            _draw_overhead(axes, result)
        elif isinstance(result, Serve) and len(result.runs) > 1:
            _draw_sweep(axes, result.runs)
        elif isinstance(result, Serve) and result.runs:
            _draw_distributions(axes, result.runs[0])
        else:
            raise CannotDraw("there is no plot of this verb's result")
        machine = result.header.machine
        title = f"{result.label}: {machine.num_cores} cores of {machine.processor}"
        figure.suptitle(f"{title}, {result.header.began[:10]}", x=0.008, ha="left")
        try:
            figure.savefig(path)
        except OSError as error:
            raise CannotDraw(f"--plot {path}: {error.strerror or error}") from None


def _draw_distributions(axes: Sequence["Axes"], run: Figures) -> None:
    """The share that was served within so much time."""
    for place, (metric, name) in enumerate(METRICS.items()):
        panel, color = axes[place], COLORS[place]
        spread: Spread = getattr(run, f"{metric}_ms")
        panel.set_title(f"{name}, {spread.count:,} values")
        panel.set_xlabel("milliseconds, or less")
        panel.set_ylabel("%")
        panel.set_ylim(0, 101)
        values = run.samples_ms[metric]
        last = max(1, len(values) - 1)
        panel.plot(values, [100 * at / last for at in range(len(values))], color=color)
        for label, quantile in QUANTILES[:-1]:
            at = float(getattr(spread, label))
            panel.plot([at], [100 * quantile], "o", color=color, markersize=4)
            panel.annotate(
                f" {label} {at:.3g}", (at, 100 * quantile), fontsize=8, color=INK, va="top"
            )
        panel.set_xlim(0, 1.12 * max(values, default=1.0) or 1.0)


def _draw_sweep(axes: Sequence["Axes"], runs: Sequence[Figures]) -> None:
    rate, ttft, tpot, e2el = axes
    places, names = list(range(len(runs))), [title_of(run) for run in runs]
    values = [run.output_tokens_per_s for run in runs]
    rate.plot(places, values, "o-", color=COLORS[0], linewidth=1.7)
    rate.set_title("output tokens per second")
    for panel, metric in ((ttft, "ttft"), (tpot, "tpot"), (e2el, "e2el")):
        for color, (quantile, _) in zip(COLORS, QUANTILES[:-1], strict=False):
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
    for color, (label, values) in zip(
        COLORS,
        {
            "engine": [run.engine.output_tokens_per_s for run in runs],
            "without the model": [run.stub.output_tokens_per_s for run in runs],
            "floor": [run.floor.tokens_per_s for run in runs],
        }.items(),
        strict=False,
    ):
        rate.plot(places, values, "o-", color=color, linewidth=1.7, label=label)
    rate.set_title("output tokens per second")
    rate.legend()
    share.bar(places, [100 * run.share_of_floor for run in runs], color=COLORS[0], width=0.6)
    share.set_title("share of the floor that the engine reaches, %")
    actors = dict.fromkeys(actor.actor for run in runs for actor in run.engine.actors)
    spent = {
        actor: [
            sum(each.cpu_us_per_token for each in run.engine.actors if each.actor == actor)
            for run in runs
        ]
        for actor in actors
    }
    spent["generator"] = [run.engine.generator.cpu_us_per_token for run in runs]
    _stack(cpu, places, spent)
    cpu.set_title("CPU time per output token by process, microseconds")
    _stack(
        floor,
        places,
        {
            "model's products": [run.floor.model_us for run in runs],
            "HTTP alone": [run.floor.http_us for run in runs],
            "load generator": [run.floor.generator_us for run in runs],
        },
    )
    floor.set_title("the floor's CPU time per output token, microseconds")
    for panel in axes:
        panel.set_xticks(places, names)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(lambda value, _: number(value))


def _stack(panel: "Axes", places: Sequence[int], parts: dict[str, list[float]]) -> None:
    bottoms = [0.0] * len(places)
    for color, (label, values) in zip((*COLORS, LAST_COLOR), parts.items(), strict=False):
        panel.bar(places, values, bottom=bottoms, label=label, color=color, width=0.6)
        bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
    panel.legend()


_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
}
