"""Draws the runs of a what-if side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.tools.figure import COLORS, figure_at
from tokenreel.tools.replay.recording.values import RecordedRequest
from tokenreel.tools.replay.what_if.figures import e2e_samples_ms, tpot_samples_ms, ttft_samples_ms
from tokenreel.tools.replay.what_if.what_if import SIMULATED, Answer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Samples = Callable[[list[RecordedRequest]], list[float]]

RECORDED_COLOR = "#222222"
NUM_WINDOWS = 40
MS_TOLD_IN_SECONDS = 2000
TAIL = 0.995
"""The share of the slowest run that is drawn."""


def draw(answer: Answer, path: Path) -> None:
    """Distributions of TTFT, TPOT and end-to-end, and the output tokens per second over time.

    Raises CannotDraw.
    """
    with figure_at(path) as figure:
        (ttft, tpot), (e2e, rate) = figure.subplots(2, 2)
        for axes, title, samples in (
            (ttft, "time to first token", ttft_samples_ms),
            (tpot, "time per output token", tpot_samples_ms),
            (e2e, "end to end", e2e_samples_ms),
        ):
            _draw_distribution(axes, title, answer, samples)
        _draw_rate(rate, answer)
        handles, labels = rate.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
        title = f"What if? Run {answer.recording.run_id}, {_arrivals(answer)}"
        figure.suptitle(title, x=0.008, ha="left")


def _draw_distribution(axes: "Axes", title: str, answer: Answer, samples: Samples) -> None:
    """The share that was served within so much time. The longest tails are cut off."""
    runs = [sorted(samples(column.counted)) for column in answer.columns]
    in_seconds = max((values[-1] for values in runs if values), default=0) >= MS_TOLD_IN_SECONDS
    for run, style in zip(runs, _styles(answer), strict=True):
        values = [value / 1000 for value in run] if in_seconds else run
        if values:
            shares = [100 * (place + 1) / len(values) for place in range(len(values))]
            axes.step([values[0], *values], [0.0, *shares], where="post", **style)
    from matplotlib.ticker import MultipleLocator

    axes.set_title(title)
    axes.set_xlabel("seconds, or less" if in_seconds else "milliseconds, or less")
    axes.set_ylabel("% of sequences" if samples is tpot_samples_ms else "% of requests")
    axes.set_ylim(0, 101)
    ends = [run[int(TAIL * (len(run) - 1))] for run in runs if run]
    axes.set_xlim(0, 1.1 * max(ends, default=1) / (1000 if in_seconds else 1) or None)
    axes.yaxis.set_major_locator(MultipleLocator(25))


def _draw_rate(axes: "Axes", answer: Answer) -> None:
    """Output tokens per second, over windows of a common width."""
    import numpy as np

    longest_s = max(column.figures.duration_s for column in answer.columns)
    edges = np.linspace(0, max(longest_s, 1e-9), NUM_WINDOWS + 1)
    width_s = edges[1]
    for column, style in zip(answer.columns, _styles(answer), strict=True):
        served = [request for request in column.counted if request.sequences]
        start_ns = min((request.arrival_ns for request in served), default=0)
        times = [t for r in served for s in r.sequences for t in s.output_ns]
        counts, _ = np.histogram((np.array(times) - start_ns) / 1e9, edges)
        last = int(np.ceil(column.figures.duration_s / width_s))
        axes.stairs(counts[:last] / width_s, edges[: last + 1], baseline=None, **style)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("output tokens per second")
    axes.set_xlabel("seconds since the first arrival")
    axes.set_xlim(0, longest_s or None)
    axes.set_ylim(bottom=0)


def _styles(answer: Answer) -> list[dict[str, Any]]:
    """The record in black, the simulation of it dashed above it, the variants in colour."""
    styles: list[dict[str, Any]] = []
    for place, column in enumerate(answer.columns):
        color = RECORDED_COLOR if place == 0 else COLORS[(place - 1) % len(COLORS)]
        line = ":" if place > len(COLORS) else "--" if column.name == SIMULATED else "-"
        styles.append({"label": column.name, "color": color, "linestyle": line, "linewidth": 1.7})
    return styles


def _arrivals(answer: Answer) -> str:
    if answer.loop is None:
        return "arrivals as recorded"
    return f"closed loop of {answer.loop.num_clients} clients"
