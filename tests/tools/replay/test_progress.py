"""Progress is told to a person who waits, and to nobody else."""

import io

import pytest

from tokenreel.tools.replay import progress
from tokenreel.tools.replay.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's time, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_is_silent(now: list[float]) -> None:
    stream = Terminal()
    told = Progress("indexing", 1000, stream=stream)
    now[0] += 0.4
    told.update(900)
    told.finish()
    assert stream.getvalue() == ""


def test_a_terminal_shows_a_bar_and_then_nothing(now: list[float]) -> None:
    stream = Terminal()
    told = Progress("indexing", 4_000_000, stream=stream)
    told.advance(1_000_000)
    now[0] += 2
    told.update(1_000_000)
    assert "indexing" in stream.getvalue() and " 50% of 4 MB, 2 s left" in stream.getvalue()
    told.update(2_000_000)  # at once: not worth a second line
    assert stream.getvalue().count("%") == 1
    told.finish()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_no_terminal_gets_plain_lines_now_and_then(now: list[float]) -> None:
    stream = io.StringIO()
    told = Progress("indexing", 10_000_000, stream=stream)
    for _ in range(30):
        now[0] += 1
        told.update(5_000_000)
    told.finish()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and lines[0] == "indexing  50% of 10 MB, 10 s left"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_who_does_not_want_it_gets_none(now: list[float]) -> None:
    stream = Terminal()
    told = Progress("indexing", 1000, enabled=False, stream=stream)
    now[0] += 60
    told.update(500)
    told.finish()
    assert stream.getvalue() == ""
