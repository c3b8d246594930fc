"""`engine-replay verify` on runs of the real core, in a process of its own, on any input."""

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from capturing import CONFIG, capture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack, structs

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import decode, encode
from tokenreel.messages.journal import EFFECT, IGNORABLE, INPUT
from tokenreel.messages.journal_reader import SegmentReader
from tokenreel.messages.steps import StepDecided
from tokenreel.tools.exit_codes import (
    EXIT_DAMAGED,
    EXIT_DIVERGED,
    EXIT_IO,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
)
from tokenreel.tools.replay.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"), events_per_segment=40)


def test_the_real_core_replays_without_a_difference(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--json", str(run)]) == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "equal" and report["has_ended"]
    assert report["source_hash"]["recorded"] == report["source_hash"]["running"]
    assert report["configuration"]["num_blocks"] == 16
    assert report["totals"]["num_steps"] > 40


def test_every_snapshot_is_what_the_replay_has_arrived_at_and_a_place_to_start(
    segmented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(segmented)]) == EXIT_OK
    segments = sorted(segmented.glob("*.tkr"), key=lambda path: int(path.stem.split("-")[2]))
    assert len(segments) > 3
    for segment in segments:
        assert main(["verify", str(segment)]) == EXIT_OK, segment.name
    capsys.readouterr()


VERIFY_AND_TELL = """
import json, sys
from tokenreel.tools.replay.cli import main
code = main(["verify", sys.argv[1]])
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_it_runs_without_torch_and_sockets_under_any_hash_seed(run: Path, hash_seed: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-P", "-c", VERIFY_AND_TELL, str(run)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["code"] == EXIT_OK
    strangers = {"torch", "transformers", "zmq", "numpy", "uvloop", "tokenizers", "starlette"}
    assert not strangers & {name.split(".")[0] for name in told["modules"]}


def test_the_module_is_a_command(run: Path) -> None:
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "verify", str(run)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == EXIT_OK
    assert finished.stdout.startswith("equal: every effect and every step's digest")
    assert finished.stderr == ""


def test_output_that_cannot_be_written_is_no_fault_of_the_tool(run: Path) -> None:
    command = [sys.executable, "-m", "tokenreel.tools.replay", "show", str(run)]
    full = {"line": "engine-replay: No space left on device\n", "exit_code": EXIT_IO}
    gone = {"line": "", "exit_code": EXIT_PIPE_CLOSED}
    reader, writer = os.pipe()
    os.close(reader)
    for output, expected in ((os.open("/dev/full", os.O_WRONLY), full), (writer, gone)):
        told = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
        os.close(output)
        assert {"line": told.stderr, "exit_code": told.returncode} == expected


def test_nobody_need_listen(run: Path) -> None:
    command = f'exec "{sys.executable}" -m tokenreel.tools.replay verify "{run}" >&-'
    told = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=120, check=False)
    assert (told.returncode, told.stderr) == (EXIT_OK, b"")


def test_records_that_this_code_would_not_have_written_are_blamed_on_the_journal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole and well linked, but with another number in one step's record."""
    recorder = Recorder.create(tmp_path, describe_run(CONFIG, LOGIC_VERSION), sync="none")
    records = list(SegmentReader((run / "engine-1-0.tkr").read_bytes(), "s"))[1:-1]
    for record in records:
        payload = record.payload
        message = decode(payload)
        if isinstance(message, StepDecided) and message.step_id == 30:
            payload = encode(structs.replace(message, num_free_blocks=-1))
        recorder.append(record.type, record.flags & (INPUT | EFFECT), payload, record.t_ns)
    recorder.close()
    assert main(["verify", str(recorder.run_dir)]) == EXIT_DIVERGED
    text = capsys.readouterr().out
    assert re.search("difference +StepDecided.num_free_blocks", text)
    assert re.search(r"step +30 \(the last one that agreed: 29\)", text)
    assert re.search(r"cause +damaged journal: ", text)


@pytest.mark.parametrize("arguments", [[], ["verify"], ["dance"], ["verify", "a", "b"]])
def test_wrong_usage_is_told_in_two_lines(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == EXIT_USAGE
    assert capsys.readouterr().err.startswith("usage: engine-replay")


def test_what_is_no_journal_is_told_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    expected = {
        tmp_path / "nowhere": "No such file or directory",
        tmp_path: "holds no journal segments",
        tmp_path / "pipe": "is no regular file",
        Path("/dev/zero"): "is no regular file",
        run.parent: f"name one, such as the latest: {run}",
        tmp_path / ("x" * 300): "File name too long",
    }
    for verb, (path, line) in product(("verify", "show", "index"), expected.items()):
        assert main([verb, str(path)]) == EXIT_MISSING
        captured = capsys.readouterr()
        assert captured.out == ""
        assert line in captured.err and captured.err.count("\n") == 1


def test_a_file_longer_than_any_segment_is_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "engine-1-0.tkr"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    assert main(["verify", str(huge)]) == EXIT_DAMAGED
    assert "longer than 1073741824 bytes" in capsys.readouterr().err


def test_segments_that_are_missing_or_foreign_are_refused(
    run: Path, segmented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("engine-1-0.tkr", "engine-1-2.tkr"):
        (tmp_path / name).write_bytes((segmented / name).read_bytes())
    assert main(["verify", str(tmp_path)]) == EXIT_DAMAGED
    assert "segment 1 of the run is missing" in capsys.readouterr().err
    (tmp_path / "engine-1-1.tkr").write_bytes((run / "engine-1-0.tkr").read_bytes())
    assert main(["verify", str(tmp_path)]) == EXIT_DAMAGED
    assert f"belongs to run {run.name}, not to run {segmented.name}" in capsys.readouterr().err


def test_a_run_that_is_still_written_is_verified_as_far_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder.create(tmp_path, describe_run(CONFIG, LOGIC_VERSION), sync="none")
    assert main(["verify", str(recorder.run_dir)]) == EXIT_OK
    assert "the run is still going on" in capsys.readouterr().out
    recorder.close()


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["engine-1-0.tkr", "engine-1-1.tkr", "last"]),
    st.sampled_from(["flip", "cut", "zero", "append", "replace", "remove"]),
    st.integers(0, 2**30),
    st.binary(min_size=1, max_size=200),
)
def test_damage_to_a_file_never_ends_in_a_traceback_or_a_wrong_answer(
    segmented: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
    position: int,
    garbage: bytes,
) -> None:
    names = sorted(path.name for path in segmented.glob("*.tkr"))
    names.sort(key=lambda name: int(name.split("-")[2][:-4]))
    for each in names:
        (tmp_path / each).write_bytes((segmented / each).read_bytes())
    path = tmp_path / (names[-1] if name == "last" else name)
    data = path.read_bytes()
    at = position % len(data)
    match kind:
        case "flip":
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << position % 8]) + data[at + 1 :])
        case "cut":
            path.write_bytes(data[:at])
        case "zero":
            path.write_bytes(data[:at] + bytes(len(data) - at))
        case "append":
            path.write_bytes(data + garbage)
        case "replace":
            path.write_bytes(garbage)
        case _:
            path.unlink()
    exit_code = main(["verify", str(tmp_path)])
    captured = capsys.readouterr()
    if exit_code == EXIT_DAMAGED:
        assert captured.err.startswith("engine-replay: damaged journal: engine-1-")
        assert ", offset " in captured.err and captured.err.count("\n") == 1
    else:  # a torn tail at the end, or a first segment that might have been dropped for room
        assert exit_code == EXIT_OK
        assert "note" in captured.out


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, 2**30),
    st.integers(0, 2**30),
    st.one_of(
        st.binary(min_size=1, max_size=1),
        st.binary(max_size=30),
        st.integers(-(2**63), 2**64 - 1).map(msgpack.encode),
    ),
    st.sampled_from([INPUT, EFFECT, INPUT | EFFECT, 0, IGNORABLE]),
    st.booleans(),
)
def test_records_of_any_content_get_a_verdict_or_a_refusal(
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    which: int,
    position: int,
    bytes_there: bytes,
    flags: int,
    keeps_flags: bool,
) -> None:
    """What a writer gone wrong could leave: whole records that do not say what they should."""
    records = list(SegmentReader((run / "engine-1-0.tkr").read_bytes(), "s"))[1:300]
    victim = which % len(records)
    recorder = Recorder.create(
        tmp_path_factory.mktemp("odd"), describe_run(CONFIG, LOGIC_VERSION), sync="none"
    )
    for index, record in enumerate(records):
        payload, of_record = record.payload, record.flags & (INPUT | EFFECT)
        if index == victim:
            at = position % (len(payload) + 1)
            payload = payload[:at] + bytes_there + payload[at + len(bytes_there) :]
            of_record = of_record if keeps_flags else flags
        recorder.append(record.type, of_record, payload, record.t_ns)
    recorder.close()
    exit_code = main(["verify", "--once", str(recorder.run_dir)])
    captured = capsys.readouterr()
    assert exit_code in (EXIT_OK, EXIT_DIVERGED, EXIT_DAMAGED), captured.err
    assert captured.err.count("\n") == (exit_code == EXIT_DAMAGED)
