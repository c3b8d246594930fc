"""`engine-replay step` tells the state that the core had, to people and to programs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from capturing import CONFIG, capture

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Status
from tokenreel.messages.steps import StepBegan, StepScheduled
from tokenreel.tools.exit_codes import EXIT_MISSING, EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.text_layout import ranges, table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = capture(tmp_path_factory.mktemp("journals"), events_per_segment=60)
    open_index(run, progress=False)
    return run


def engine_at(run: Path, step_id: int, before: bool = False) -> Engine:
    """Found by a replay from the start."""
    engine = Engine(CONFIG)
    for event in recorded_events(open_journal(run)):
        is_it = isinstance(event.event, StepBegan) and event.event.step_id == step_id
        is_it = is_it and any(isinstance(effect, StepScheduled) for effect in event.effects)
        if is_it and before:
            return engine
        engine.apply(event.event)
        if is_it:
            return engine
    raise LookupError(step_id)


def told(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["step", str(run), *arguments]) == EXIT_OK
    return capsys.readouterr().out


def told_json(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    parsed = json.loads(told(run, capsys, *arguments, "--json"))
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("step_id", [1, 30, 61])
def test_json_holds_the_whole_state(
    run: Path, capsys: pytest.CaptureFixture[str], step_id: int, before: bool
) -> None:
    engine = engine_at(run, step_id, before)
    answer = told_json(run, capsys, str(step_id), *(["--before"] if before else []))
    state = answer["state"]
    assert answer["state_is"] == ("before" if before else "after")
    assert answer["step"]["step_id"] == step_id
    assert state["free_blocks"] == list(engine.kv.pool.free)
    assert state["evictable_blocks"] == list(engine.kv.pool.evictable)
    assert state["queues"]["running"] == [each.seq_id for each in engine.queues.running]
    waiting = sorted(engine.queues.waiting.values(), key=lambda each: each.order)
    assert state["queues"]["waiting"] == [each.seq_id for each in waiting]
    assert {entry["block"]: entry["hash"] for entry in state["cache"]} == {
        block: link.hex() for block, link in engine.kv.cache.hash_of.items()
    }
    for told_sequence in state["sequences"]:
        sequence = engine.sequences[told_sequence["seq_id"]]
        assert told_sequence["block_table"] == sequence.block_table
        assert told_sequence["token_ids"] == sequence.token_ids
        assert told_sequence["num_computed"] == sequence.num_computed
    assert len(state["sequences"]) == len(engine.sequences)
    assert [each["step_id"] for each in state["open_steps"]] == [
        step.step_id for step in engine.open_steps
    ]
    digest = engine.state_digest()
    assert list(state["digest"].values()) == [f"{value:016x}" for value in digest]


def test_everyone_who_is_not_in_the_step_has_a_reason(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = open_index(run, progress=False)
    for step_id in index.steps.step_id[::7].tolist():
        engine = engine_at(run, step_id)
        answer = told_json(run, capsys, str(step_id))
        scheduled = {share["seq_id"] for share in answer["scheduled"]}
        there = {
            each.seq_id for each in engine.sequences.values() if each.status is not Status.FINISHED
        }
        reasons = {each["seq_id"]: each["why"] for each in answer["passed_over"]}
        assert set(reasons) == there - scheduled
        first = answer["first_passed_over"]
        if first is not None:
            assert reasons[first["seq_id"]] in ("REFUSED", "PREEMPTED")


def test_the_page_names_everyone_and_folds_only_what_is_long(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = open_index(run, progress=False)
    row = int((index.steps.num_waiting > 12).argmax())
    step_id = int(index.steps.step_id[row])
    engine = engine_at(run, step_id)
    folded, whole = told(run, capsys, str(step_id)), told(run, capsys, str(step_id), "--all")
    assert "more (--all)" in folded and "(--all)" not in whole
    assert f"waiting ({len(engine.queues.waiting):,}), in line" in folded
    for sequence in engine.queues.waiting.values():
        assert f"s{sequence.seq_id} " in whole
    for sequence in engine.queues.running:
        assert ranges(sequence.block_table) in whole
    assert max(map(len, folded.splitlines())) <= 100
    assert "is behind 1." in folded


def test_one_request_is_told_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = engine_at(run, 30)
    sequence = engine.queues.running[0]
    key = f"{sequence.key.frontend_epoch}.{sequence.key.number}"
    page = told(run, capsys, "30", "--request", key)
    assert f"(s{sequence.seq_id}): running, 1 of {len(engine.queues.running)}" in page
    assert ranges(sequence.block_table) in page
    answer = told_json(run, capsys, "30", "--request", key)
    of_request = [s.seq_id for s in engine.sequences.values() if s.key == sequence.key]
    assert sorted(each["seq_id"] for each in answer["sequences"]) == sorted(of_request)
    assert "state" not in answer


@pytest.mark.parametrize(
    ("arguments", "exit_code", "line"),
    [
        (["100000"], EXIT_USAGE, r"step 100,000 is not in the journal; its steps are 1 to \d+"),
        (["0"], EXIT_USAGE, r"its steps are 1 to \d+"),
        (["-5"], EXIT_USAGE, r"its steps are 1 to \d+"),
        (["5", "--request", "1.99999"], EXIT_USAGE, r"does not hold 1\.99999 at step 5"),
        (["5", "--request", "??"], EXIT_USAGE, "names no request"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    exit_code: int,
    line: str,
) -> None:
    assert main(["step", str(run), *arguments]) == exit_code
    error = capsys.readouterr().err
    assert re.search(line, error) and error.count("\n") == 1


def test_no_journal_is_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", str(tmp_path / "nowhere"), "1"]) == EXIT_MISSING
    assert main(["index", str(tmp_path / "nowhere")]) == EXIT_MISSING
    assert main(["index", str(tmp_path)]) == EXIT_MISSING
    assert capsys.readouterr().err.count("\n") == 3


def test_the_index_says_what_it_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(run)]) == EXIT_OK
    page = capsys.readouterr().out
    assert "beside the journal" in page and "engine-1-0.tkr" in page
    assert main(["index", str(run), "--json"]) == EXIT_OK
    figures = json.loads(capsys.readouterr().out)
    events = sum(1 for _ in recorded_events(open_journal(run)))
    assert figures["total"]["num_events"] == events
    assert figures["total"]["num_requests"] == 40
    files = {path.name: path.stat().st_size for path in run.glob("*.tki")}
    assert figures["total"]["num_index_bytes"] == sum(files.values())


def test_runs_of_neighbours_are_folded() -> None:
    assert ranges([]) == ""
    assert ranges([4]) == "4"
    assert ranges([1, 2, 3, 7, 9, 8, 7]) == "1-3 7 9-7"
    assert ranges([5, 6, 5]) == "5-6 5"
    assert ranges([3, 1]) == "3 1"


def test_a_table_is_aligned_and_counts_what_it_leaves_out() -> None:
    assert table(("<who", "blocks"), [("a", 1200), ("bcd", 3), ("e", 4)], 2, 3) == [
        "  who  blocks",
        "  a     1,200",
        "  bcd       3",
        "  ... and 1 more (--all)",
    ]
    assert table(("<who",), [], 2, 0) == ["  none"]
