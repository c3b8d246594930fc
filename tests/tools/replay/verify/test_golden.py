"""Journals of earlier versions replay: alike, or with a difference that a new logic explains."""

import json

import pytest
from make_golden import GOLDEN, MAKERS

from tokenreel.tools.exit_codes import EXIT_DAMAGED, EXIT_DIVERGED, EXIT_OK
from tokenreel.tools.replay.cli import main

MAX_BYTES = 50_000
REPLAYABLE = sorted(path.name for path in GOLDEN.iterdir() if path.name != "format-0")


def test_every_golden_journal_can_be_made_and_is_small() -> None:
    assert sorted([*REPLAYABLE, "format-0"]) == sorted(MAKERS)
    for place in GOLDEN.iterdir():
        assert sum(path.stat().st_size for path in place.iterdir()) < MAX_BYTES, place.name


@pytest.mark.parametrize("name", REPLAYABLE)
def test_it_replays(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A change of what the scheduler decides is allowed: it counts LOGIC_VERSION up, which the
    report then names. Anything else is a difference that nobody meant."""
    exit_code = main(["verify", "--json", "--once", str(GOLDEN / name)])
    report = json.loads(capsys.readouterr().out)
    if exit_code == EXIT_DIVERGED:
        assert report["cause"] == "code change"
        assert report["cause_detail"].startswith("another logic version")
        return
    assert exit_code == EXIT_OK
    assert report["totals"]["num_steps"] > 20


def test_fields_appended_since_are_absent_and_do_not_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The journal's records are shorter than this version would write them."""
    main(["verify", "--json", "--once", str(GOLDEN / "fewer-fields")])
    report = json.loads(capsys.readouterr().out)
    assert report["divergence"] is None or "digest" not in report["divergence"]["path"]


def test_a_format_before_the_first_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A later format brings what reads the earlier ones; none is earlier than 1."""
    assert main(["verify", str(GOLDEN / "format-0")]) == EXIT_DAMAGED
    assert (
        "engine-1-0.tkr, offset 8: format version 0 is not 1, the one known here"
        in capsys.readouterr().err
    )


def test_a_torn_tail_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--once", str(GOLDEN / "torn")])
    assert "ends in a torn tail" in capsys.readouterr().out
