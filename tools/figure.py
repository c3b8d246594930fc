"""A figure in the one style of every plot. matplotlib is imported when one is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme: told apart by the colour-blind, too."""
INK = "#444444"


class CannotDraw(Exception):
    """One line that says what is missing."""


@contextmanager
def figure_at(path: Path) -> Iterator["Figure"]:
    """A figure to draw on; it is written to `path` when the block ends.

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
        yield figure
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
