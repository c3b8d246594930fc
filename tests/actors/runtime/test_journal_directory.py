"""Journals are found where they are said to lie, and a live one is told from a finished one."""

import os
from pathlib import Path

import pytest

from tokenreel.actors.runtime.journal_directory import (
    MAX_RUNS,
    is_live,
    is_run_id,
    lock_run,
    make_room,
    runs_in,
    segments_of,
)


def test_segments_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("engine-1-10.tkr", "engine-1-9.tkr", "engine-2-11.tkr", "engine-1-9.tkr.bak"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "engine-1-3.tkr").mkdir()
    assert [(s.epoch, s.number) for s in segments_of(tmp_path)] == [(1, 9), (1, 10), (2, 11)]


def test_a_lock_is_held_by_one_and_ends_with_its_holder(tmp_path: Path) -> None:
    assert not is_live(tmp_path)
    held = lock_run(tmp_path)
    assert held is not None
    assert is_live(tmp_path)
    assert lock_run(tmp_path) is None
    os.close(held)
    assert not is_live(tmp_path)


def test_only_directories_with_segments_are_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "engine-1-0.tkr").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    assert runs_in(tmp_path) == [tmp_path / "run"]


def test_nothing_is_deleted_while_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "engine-1-0.tkr").write_bytes(bytes(100))
    assert make_room(tmp_path, tmp_path / "own", 100) == 100
    assert make_room(tmp_path, tmp_path / "own", 99) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "-x", "a/b", "a.b", "x" * 33, "ä"])
def test_what_could_lead_elsewhere_is_no_run_id(text: str) -> None:
    assert not is_run_id(text)
    assert is_run_id("20260101-000000-abcdef")


def test_the_number_of_finished_runs_is_bounded_too(tmp_path: Path) -> None:
    for number in range(MAX_RUNS + 3):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        (run / "engine-1-0.tkr").write_bytes(b"x")
        os.utime(run / "engine-1-0.tkr", (number, number))
    make_room(tmp_path, tmp_path / "run-0", 1 << 30)
    gone = [number for number in range(10) if not (tmp_path / f"run-{number}").exists()]
    assert gone == [1, 2, 3]


def test_the_end_of_a_crashed_run_outlives_the_next_start(tmp_path: Path) -> None:
    run = tmp_path / "crashed"
    run.mkdir()
    for number in range(8):
        (run / f"engine-1-{number}.tkr").write_bytes(bytes(100))
    assert make_room(tmp_path, tmp_path / "own", 650) == 600
    assert [segment.number for segment in segments_of(run)] == [2, 3, 4, 5, 6, 7]
