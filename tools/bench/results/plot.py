"""Draws a result."""

from pathlib import Path

from tokenreel.tools.bench.results.panels import draw_panels
from tokenreel.tools.bench.results.result import AnyResult
from tokenreel.tools.figure import CannotDraw, figure_at


def draw(result: AnyResult, path: Path) -> None:
    """Raises CannotDraw."""
    if not result.runs:
        raise CannotDraw("--plot: there is no run to draw")
    with figure_at(path) as figure:
        draw_panels(figure, result)
        machine = result.header.machine
        title = f"{result.label}: {machine.num_cores} cores of {machine.processor}"
        figure.suptitle(f"{title}, {result.header.began[:10]}", x=0.008, ha="left")
