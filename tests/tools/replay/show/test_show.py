"""`engine-replay show`: every event once and in order, filters that lose nothing, following."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from capturing import CONFIG, REQUESTS
from timed_capturing import capture_timed

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.scenario import Scenario
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import encode, tag_of
from tokenreel.messages.ids import RequestKey, StepId
from tokenreel.messages.journal import CORE_FAILED, INPUT
from tokenreel.messages.journal_meta import core_failed, encode_core_failed
from tokenreel.messages.requests import AbortRequest
from tokenreel.messages.steps import SequencePreempted, StepBegan
from tokenreel.tools.exit_codes import (
    EXIT_DAMAGED,
    EXIT_INTERRUPTED,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_USAGE,
)
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.reading.entries import entries
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.reading.stream import RunStream

SCENARIO = Scenario(config=CONFIG, requests=REQUESTS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture_timed(tmp_path_factory.mktemp("journals"), SCENARIO)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture_timed(tmp_path_factory.mktemp("journals"), SCENARIO, events_per_segment=40)


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[Any]:
    assert main(["show", "--json", *map(str, arguments)]) == EXIT_OK
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["show", *map(str, arguments)]) == EXIT_OK
    heading, *rest = capsys.readouterr().out.splitlines()
    assert heading.split() == ["seq", "time/s", "step", "type", "who", "what"]
    return rest


def test_every_event_and_effect_is_shown_once_in_order(
    segmented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = shown(capsys, segmented)
    events = list(recorded_events(open_journal(segmented)))
    with_event = [each for each in found if "event" in each]
    assert [(each["seq"], each["offset"]) for each in with_event] == [
        (event.seq, event.offset) for event in events
    ]
    assert [[effect["type"] for effect in each["effects"]] for each in with_event] == [
        [type(effect).__name__ for effect in event.effects] for event in events
    ]
    marks = Counter(each["mark"]["type"] for each in found if "mark" in each)
    num_segments = len(list(segmented.glob("*.tkr")))
    assert marks == {"segment": num_segments, "snapshot": num_segments - 1, "run-end": 1}


def test_columns_are_aligned_and_one_line_stands_for_one_event(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(capsys, run)
    assert len(found) == len(shown(capsys, run))
    column = re.compile(r"[ \d]{9} [ \d]{4}\d\.\d{6} [ \d]{7}  \S.{8} .{10} \S")
    assert not [line for line in found if not column.match(line)]


@pytest.mark.parametrize("name", ["1.5", "cmpl-1.5-0123456789abcdef", "chatcmpl-1.5-00ff"])
def test_a_request_is_found_under_every_name_and_nothing_of_it_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    everything, found = shown(capsys, run), shown(capsys, run, "--request", name)
    seq_ids = admitted(everything, "1.5")
    assert len(seq_ids) == 2
    assert [each["seq"] for each in found] == [
        each["seq"] for each in everything if is_about(each, "1.5", seq_ids)
    ]
    with_others = [each for each in found if seq_ids_in(each) - set(seq_ids)]
    assert all("SequencePreempted" in json.dumps(each) for each in with_others)


def test_a_preemption_is_told_to_whom_it_happened_and_of_a_step_with_others_nothing_untrue(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [event for event in recorded_events(open_journal(run)) if event.effects]
    num_told = 0
    for step in steps:
        victims = [e.seq_id for e in step.effects if isinstance(e, SequencePreempted)]
        for seq_id in victims[:1]:
            begun = ["--from", str(step.seq), "--until", str(step.seq)]
            (line,) = lines(capsys, run, "--request", f"s{seq_id}", *begun)
            assert "preempts" in line and "nothing could be scheduled" not in line
            num_told += 1
    assert num_told > 3


def test_a_sequence_is_found_by_its_number(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = admitted(shown(capsys, run), "1.5")
    found = shown(capsys, run, "--request", f"s{second}")
    assert found == shown(capsys, run, "--request", second)
    scheduled = {
        share["seq_id"]
        for each in found
        for effect in each.get("effects", ())
        for share in effect.get("scheduled", ())
    }
    assert scheduled == {second}
    assert first != second


def test_steps_and_types_are_filtered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, run, "--step", "3-5,8")
    assert {each["step"] for each in found} == {3, 4, 5, 8}
    assert len(found) == 8
    everything = shown(capsys, run)
    preempted = [
        each["seq"]
        for each in everything
        if any(effect["type"] == "SequencePreempted" for effect in each.get("effects", ()))
    ]
    assert preempted
    for name in ("preempt", "SequencePreempted", "sequencepreempted"):
        assert [each["seq"] for each in shown(capsys, run, "--type", name)] == preempted
    aborts = shown(capsys, run, "--type", "abort,deliver", "--limit", "3")
    assert len(aborts) == 3
    assert {each["event"]["type"] for each in aborts} <= {"AbortRequest", "OutputDelivered"}


def test_a_range_is_shown_with_both_its_ends(
    segmented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = shown(capsys, segmented)
    seqs = [each["seq"] for each in everything]
    first, last = seqs[len(seqs) // 3], seqs[len(seqs) // 2]
    found = shown(capsys, segmented, "--from", first, "--until", f"seq:{last}")
    assert [each["seq"] for each in found] == [seq for seq in seqs if first <= seq <= last]
    steps = {each["step"] for each in shown(capsys, segmented, "--from", "step:20")}
    begun = [each for each in everything if "event" in each and each["step"] == 20]
    assert min(each["seq"] for each in begun) == min(
        each["seq"] for each in shown(capsys, segmented, "--from", "step:20")
    )
    assert 21 in steps and 17 not in steps
    found = shown(capsys, segmented, "--until", "step:20")
    composed = [each["step"] for each in found if each.get("event", {}).get("type") == "StepBegan"]
    assert max(composed) == 20
    assert shown(capsys, segmented, "--until", "0s")[0]["seq"] == 1


def test_effects_stand_below_their_event(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, run, "--effects", "--step", "1")
    num_effects = sum(len(each["effects"]) for each in shown(capsys, run, "--step", "1"))
    indented = [line for line in found if line.split()[0] == "+"]
    assert len(indented) == num_effects > 0
    assert len(found) == num_effects + 2


def test_the_legend_is_for_terminals_unless_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["show", str(run), "--limit", "1"])
    assert "seconds since" not in capsys.readouterr().out
    main(["show", str(run), "--limit", "1", "--legend"])
    assert "seconds since" in capsys.readouterr().out


def test_a_later_segment_alone_knows_the_requests_of_its_snapshot(
    segmented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = sorted(segmented.glob("*.tkr"))[1]
    names = {line[42:52].strip() for line in lines(capsys, segment)}
    assert any(name.startswith("1.") for name in names)
    assert not {name for name in names if re.fullmatch(r"s\d+", name)}


def test_the_roster_is_empty_when_all_is_quiet(segmented: Path) -> None:
    roster, most = Roster(), 0
    for entry in entries(RunStream(segmented)):
        roster.learn(entry)
        most = max(most, len(roster.seq_ids))
        roster.forget(entry)
    assert most > 5
    assert not roster.members and not roster.seq_ids


def test_damage_is_met_where_it_is(
    segmented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in segmented.glob("*.tkr"))
    for name in names:
        (tmp_path / name).write_bytes((segmented / name).read_bytes())
    damaged = tmp_path / names[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    damaged.write_bytes(data)
    assert main(["show", str(tmp_path), "--json"]) == EXIT_DAMAGED
    captured = capsys.readouterr()
    assert re.search(rf"damaged journal: {names[1]}, offset \d+", captured.err)
    assert json.loads(captured.out.splitlines()[-1])["segment"] == names[1]
    damaged.unlink()
    assert main(["show", str(tmp_path)]) == EXIT_DAMAGED
    assert "missing" in capsys.readouterr().err


def test_a_torn_tail_is_left_out_with_a_note(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(run.glob("*.tkr")).read_bytes()
    (tmp_path / "engine-1-0.tkr").write_bytes(data[:-50])
    assert main(["show", str(tmp_path)]) == EXIT_OK
    assert "torn tail" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--request", "cmpl-0123"], "names no request"),
        (["--step", "9-3"], "ends before it begins"),
        (["--step", "x"], "such as 7"),
        (["--type", "nonsense"], "is none of"),
        (["--limit", "0"], "at least 1"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["show", str(run), *arguments]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "none")]) == EXIT_MISSING
    assert main(["show", str(tmp_path)]) == EXIT_MISSING
    assert capsys.readouterr().err.count("\n") == 2


def test_a_reader_that_has_enough_ends_it_quietly(run: Path) -> None:
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "show", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_growing_run_is_followed_over_its_segments_to_its_end(tmp_path: Path) -> None:
    """The writer works while the reader waits: each wait is one more turn of the writer."""
    recorder = Recorder.create(tmp_path, b"\x80", sync="none")
    turns = writing(recorder)
    stream = RunStream(recorder.run_dir, follow=True, wait=lambda: next(turns, None))
    found = [record.seq for _, record in stream]
    assert found == list(range(1, len(found) + 1))
    assert len(list(recorder.run_dir.glob("*.tkr"))) == 3
    assert not stream.notes


def test_a_run_that_dies_ends_the_following_with_a_note(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, b"\x80", sync="none")
    append(recorder, 1)
    stream = RunStream(recorder.run_dir, follow=True, wait=lambda: recorder.close(tidily=False))
    assert [record.seq for _, record in stream] == [1, 2, 3]
    assert stream.notes == ["the run did not end tidily: no RUN_ENDED record"]


def test_the_cores_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = describe_run(CONFIG, LOGIC_VERSION)
    recorder = Recorder.create(tmp_path, meta, sync="none")
    append(recorder, 1)
    failure = core_failed(ValueError("a block too many"), "Traceback ...")
    recorder.append(CORE_FAILED, 0, encode_core_failed(failure), 2)
    recorder.commit()
    recorder.close(tidily=False)
    assert "THE CORE FAILED at the event before: ValueError: a block too many" in "".join(
        lines(capsys, recorder.run_dir, "--type", "failed")
    )
    assert lines(capsys, recorder.run_dir, "--request", "1.77")[0].split()[2] == "failed"
    (told,) = shown(capsys, recorder.run_dir, "--type", "failed")
    assert told["mark"]["failure"]["traceback"] == "Traceback ..."


def test_an_interrupted_following_says_so_with_its_exit_code(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, b"\x80", sync="none")
    append(recorder, 1)
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "show", "--follow"]
    with subprocess.Popen([*command, str(recorder.run_dir)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"seq" in process.stdout.readline()
        assert b"segment" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == EXIT_INTERRUPTED
    recorder.close()


def append(recorder: Recorder, number: int) -> None:
    event = AbortRequest(RequestKey(1, number))
    recorder.append(tag_of(event), INPUT, encode(event), number)
    began = StepBegan(StepId(number))
    recorder.append(tag_of(began), INPUT, encode(began), number)
    recorder.commit()


def writing(recorder: Recorder) -> Iterator[None]:
    for number in range(10):
        append(recorder, number)
        if number in (3, 7):
            recorder.rotate(b"state")
            append(recorder, number)
        yield
    recorder.close()
    yield


def admitted(found: list[Any], key: str) -> list[int]:
    for each in found:
        for effect in each.get("effects", ()):
            if effect["type"] == "RequestAdmitted" and effect["key"] == key:
                return [int(seq_id) for seq_id in effect["seq_ids"]]
    raise AssertionError(f"{key} was never admitted")


def is_about(each: Any, key: str, seq_ids: list[int]) -> bool:
    """By looking at every field, whatever the message."""
    return key in keys_in(each) or bool(seq_ids_in(each) & set(seq_ids))


def keys_in(value: Any) -> set[str]:
    return set(fields_in(value, "key"))


def seq_ids_in(value: Any) -> set[int]:
    names = ("seq_id", "for_seq_id")
    return {number for name in names for number in fields_in(value, name)} | {
        number for numbers in fields_in(value, "seq_ids") for number in numbers
    }


def fields_in(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [found for each in value.values() for found in fields_in(each, name)]
    if isinstance(value, list):
        return [found for each in value for found in fields_in(each, name)]
    return []
