"""A written run is a journal like any other: it verifies, and it is there whole or not at all."""

import os
from pathlib import Path

import pytest
from capturing import CONFIG, REQUESTS, CountingWorker

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario
from tokenreel.messages.codec import CoreEvent
from tokenreel.messages.ids import StepId
from tokenreel.messages.journal import REDACTED
from tokenreel.messages.steps import SampledTokens, StepBegan, StepCompleted
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal, read_records
from tokenreel.tools.replay.reading.writing import (
    Capture,
    Identity,
    RunExists,
    RunWriter,
    run_meta,
    write_run,
)
from tokenreel.tools.replay.verify.verify import verify

SCENARIO = Scenario(config=CONFIG, requests=REQUESTS)


def play_into(run_dir: Path, events_per_segment: int = 0, identity: Identity | None = None) -> Path:
    with RunWriter(run_dir, run_meta(CONFIG), identity) as writer:
        capture = Capture(writer, events_per_segment)
        Player(SCENARIO, CountingWorker(), capture).play()
        writer.end(capture.t_ns)
    return run_dir


def test_a_played_scenario_becomes_a_journal_that_verifies(tmp_path: Path) -> None:
    journal = open_journal(play_into(tmp_path / "run"))

    verdict = verify(journal, installed_core())

    assert verdict.divergence is None
    assert verdict.totals.num_steps > 50
    assert journal.has_ended and not journal.notes


def test_every_further_segment_starts_from_its_snapshot(tmp_path: Path) -> None:
    journal = open_journal(play_into(tmp_path / "run", events_per_segment=100))

    assert len(journal.segments) > 2
    assert verify(journal, installed_core()).divergence is None
    for segment in journal.segments:
        alone = open_journal(journal.path / segment.name)
        assert verify(alone, installed_core()).divergence is None


def test_the_same_run_written_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    identity = Identity("kept", salt=7, wall_ns=5)
    first = play_into(tmp_path / "a", 100, identity)
    second = play_into(tmp_path / "b", 100, identity)

    names = sorted(os.listdir(first))
    assert names == sorted(os.listdir(second))
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_run_is_written_from_recorded_events(tmp_path: Path) -> None:
    recorded = list(recorded_events(open_journal(play_into(tmp_path / "run"))))
    events = [(each.t_ns, each.event) for each in recorded]

    failure = write_run(tmp_path / "again", Engine(CONFIG), events, is_redacted=True)

    assert failure is None
    again = open_journal(tmp_path / "again")
    assert verify(again, installed_core()).divergence is None
    assert [each[4:] for each in recorded_events(again)] == [each[4:] for each in recorded]
    for _, _, records in read_records(again):
        assert all(record.flags & REDACTED for record in records)


def test_a_failure_of_the_core_is_the_last_thing_written(tmp_path: Path) -> None:
    unsound = StepCompleted(StepId(1), [SampledTokens(1, [3])], 0, 0)  # type: ignore[arg-type]
    events: list[tuple[int, CoreEvent]] = [(5, StepBegan(StepId(1))), (6, unsound)]
    engine = Engine(CONFIG)
    engine.open_steps = None  # type: ignore[assignment]

    failure = write_run(tmp_path / "run", engine, events)

    assert failure is not None and failure.type_name == "TypeError"
    assert not open_journal(tmp_path / "run").has_ended


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(LookupError), RunWriter(tmp_path / "run", run_meta(CONFIG)) as writer:
        writer.write(1, StepBegan(StepId(1)), [])
        raise LookupError

    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")

    with pytest.raises(RunExists, match="exists already"):
        play_into(tmp_path / "run")

    assert (tmp_path / "run").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_only_the_owner_may_read_a_written_run(tmp_path: Path) -> None:
    run_dir = play_into(tmp_path / "run")

    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in run_dir.iterdir())
