"""`engine-replay verify` as a command: its flags, exit codes and JSON; another package's core."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from capturing import capture
from mutants import drifting_at, lying_at

from tokenreel.actors.runtime.code_identity import source_hash
from tokenreel.actors.runtime.journal_directory import segments_of
from tokenreel.messages.journal import INPUT, LAST_OF_WRITE, PendingRecord, SegmentEncoder
from tokenreel.messages.journal_reader import SegmentReader
from tokenreel.tools.exit_codes import (
    EXIT_DAMAGED,
    EXIT_DIVERGED,
    EXIT_FAULT,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_USAGE,
)
from tokenreel.tools.replay.cli import main

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"), events_per_segment=100)


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return report


def test_continue_lists_every_divergence_and_says_where_it_could_not_go_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lying_at(20, 21, 150, 300)
    assert main(["verify", "--json", "--continue", str(run)], code) == EXIT_DIVERGED
    report = report_of(capsys)
    assert [found["step"] for found in report["divergences"]] == [20, 150, 300]
    assert report["divergence"] == report["divergences"][0]
    arguments = ["verify", "--json", "--continue", "--max-divergences", "2", str(run)]
    assert main(arguments, code) == EXIT_DIVERGED
    assert report_of(capsys)["divergences"] == report["divergences"][:2]
    assert main(["verify", "--continue", str(run)], code) == EXIT_DIVERGED
    text = capsys.readouterr().out
    assert "(3 differences)" in text
    assert "step 150: StepDecided.num_waiting" in text and "step 300:" in text


def test_jobs_and_bounds_do_not_change_what_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = drifting_at(150, 300)
    reports = []
    for jobs in ("1", "3"):
        arguments = ["verify", "--json", "--continue", "--jobs", jobs, str(run)]
        assert main(arguments, code) == EXIT_DIVERGED
        reports.append(report_of(capsys))
        del reports[-1]["totals"]["duration_ns"]
    assert reports[0] == reports[1]
    bounds = ["--from", "step:151", "--until", "step:290"]
    found = reports[0]["divergences"]
    assert main(["verify", "--json", *bounds, str(run)], code) == EXIT_DIVERGED
    assert report_of(capsys)["divergence"]["seq"] == found[0]["seq"]
    assert main(["verify", "--until", "step:149", str(run)], code) == EXIT_OK


def test_damage_behind_a_difference_is_told_with_it_and_decides_the_exit_code(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealed as it should be, but one event in the last segment is none."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    path = segments_of(copy)[-1].path
    reader = SegmentReader(path.read_bytes(), path.name)
    encoder = SegmentEncoder(reader.header)
    data = encoder.header_bytes
    at = 0
    for record in reader:
        payload = record.payload
        if record.flags & INPUT and not at:
            at, payload = record.offset, b"\xc1"
        pending = PendingRecord(record.type, record.flags & ~LAST_OF_WRITE, payload, record.t_ns)
        data += encoder.encode([pending], record.seq)
    path.write_bytes(data)
    code = lying_at(20)
    assert main(["verify", "--continue", str(copy)], code) == EXIT_DAMAGED
    text = " ".join(capsys.readouterr().out.split())
    assert "step 20 (the last one that agreed: 19)" in text
    assert f"damaged, and read no further: {path.name}, offset {at}: no message" in text
    assert main(["verify", "--json", "--continue", str(copy)], code) == EXIT_DAMAGED
    report = report_of(capsys)
    assert report["outcome"] == "diverged" and report["damage"]["offset"] == at
    assert main(["verify", str(copy)], code) == EXIT_DIVERGED
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "outcome"),
    [
        (["RUN/nowhere"], EXIT_MISSING, "missing"),
        (["RUN", "--from", "yesterday"], EXIT_USAGE, "usage"),
        (["RUN", "--core", "RUN"], EXIT_USAGE, "usage"),
        (["DAMAGED"], EXIT_DAMAGED, "damaged"),
        (["BROKEN"], EXIT_FAULT, "fault"),
    ],
)
def test_json_tells_every_failure_as_one_object(
    run: Path,
    tmp_path: Path,
    arguments: list[str],
    exit_code: int,
    outcome: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "damaged"))
    path = segments_of(damaged)[1].path
    path.write_bytes(path.read_bytes()[:-9])
    if "BROKEN" in arguments:
        monkeypatch.setattr("tokenreel.tools.replay.verbs.verify.verify", _raise)
    named = {"RUN": str(run), "DAMAGED": str(damaged), "BROKEN": str(run)}
    given = [_named(word, named) for word in arguments]
    assert main(["verify", "--json", *given]) == exit_code
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["outcome"] == outcome and report["divergence"] is None and report["error"]
    assert said.err.startswith("engine-replay: ") and said.err.count("\n") == 1


def _named(word: str, named: dict[str, str]) -> str:
    for name, path in named.items():
        word = word.replace(name, path)
    return word


def _raise(*_: object, **__: object) -> None:
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    "arguments",
    [["--jobs", "0"], ["--jobs", "many"], ["--jobs", "1000"], ["--max-divergences", "0"]],
)
def test_numbers_are_bounded(
    run: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["verify", *arguments, str(run)])
    assert left.value.code == EXIT_USAGE
    capsys.readouterr()


MUTATION = """

_apply = Engine.apply


def _apply_otherwise(self, event):
    return [
        msgspec.structs.replace(effect, num_waiting=effect.num_waiting + {more})
        if isinstance(effect, StepDecided) and effect.step_id == 150
        else effect
        for effect in _apply(self, event)
    ]


Engine.apply = _apply_otherwise
"""


def package(directory: Path, more: str) -> Path:
    """A copy of what decides, whose core adds `more` to a number that it tells in one step."""
    shutil.copytree(ROOT / "messages", directory / "messages")
    shutil.copytree(ROOT / "actors" / "core", directory / "actors" / "core")
    engine = directory / "actors" / "core" / "engine.py"
    engine.write_text(engine.read_text() + MUTATION.format(more=more))
    return directory


def asked(*arguments: object) -> tuple[int, dict[str, Any]]:
    """By a process of its own: what another core needs."""
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "verify", "--json"]
    finished = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, timeout=120, check=False
    )
    return finished.returncode, json.loads(finished.stdout)


def test_another_package_s_core_is_asked_and_named(run: Path, tmp_path: Path) -> None:
    other = package(tmp_path, "1")
    exit_code, report = asked("--core", other, "--jobs", 2, run)
    assert exit_code == EXIT_DIVERGED
    assert report["divergence"]["path"] == "StepDecided.num_waiting"
    assert report["divergence"]["step"] == 150
    assert report["source_hash"]["running"] == source_hash(other).hex()
    assert report["cause"] == "code change"
    same = package(tmp_path / "same", "0")
    assert asked("--core", same, run)[0] == EXIT_OK


def test_a_core_that_decides_by_hash_seed_is_nondeterminism(run: Path, tmp_path: Path) -> None:
    other = package(tmp_path, "(hash('a') & 0xFFFFFFFF) + 1")
    exit_code, report = asked("--core", other, run)
    assert exit_code == EXIT_DIVERGED
    assert report["cause"] == "nondeterminism"
    assert "source has changed since, too" in report["cause_detail"]
    assert asked("--core", other, "--once", run)[1]["cause"] == "code change"
