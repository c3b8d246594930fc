"""Draws a result. The one place that imports matplotlib, and only when asked to."""

from pathlib import Path
from typing import Any

from tokenreel.tools.bench.problem import Problem
from tokenreel.tools.bench.results.panels import INK, draw_panels
from tokenreel.tools.bench.results.result import AnyResult


class CannotDraw(Problem):
    """One line that says what is missing."""


def draw(result: AnyResult, path: Path) -> None:
    """Raises CannotDraw."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise CannotDraw("--plot needs matplotlib: pip install matplotlib") from None
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 7.2), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        if not result.runs:
            raise CannotDraw("--plot: there is no run to draw")
        draw_panels(figure, result)
        machine = result.header.machine
        title = f"{result.label}: {machine.num_cores} cores of {machine.processor}"
        figure.suptitle(f"{title}, {result.header.began[:10]}", x=0.008, ha="left")
        try:
            figure.savefig(path)
        except OSError as error:
            raise CannotDraw(f"--plot {path}: {error.strerror or error}") from None


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
