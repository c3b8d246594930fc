"""A figure is written when it is drawn; what stands in the way is one line."""

import sys
from pathlib import Path

import pytest

from tokenreel.tools.figure import CannotDraw, figure_at


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"drawn.{suffix}"
    with figure_at(path) as figure:
        figure.subplots().plot([1, 2], [3, 4])
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "drawn.png"
    with pytest.raises(CannotDraw, match=r"^--plot .*nowhere/drawn\.png: No such file"):
        with figure_at(path):
            pass


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotDraw, match="pip install matplotlib"):
        with figure_at(tmp_path / "drawn.png"):
            pass
