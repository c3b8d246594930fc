"""A journal becomes a test: of decisions, of a failure until it is fixed, of soundness."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, capture
from conversing import CONFIG as SMALL
from conversing import Asked, Conversation, converse

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Scenario
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.journal import REDACTED
from tokenreel.messages.requests import AdmitRequest
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.exit_codes import (
    EXIT_DIVERGED,
    EXIT_NO_SYMPTOM,
    EXIT_OK,
    EXIT_USAGE,
)
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.keep.keep import (
    ABOUT,
    SCENARIO,
    CannotKeep,
    Guards,
    about,
    complaint,
    fix,
    keep,
    kept_in,
    write_scenario,
)
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import open_journal, read_records
from tokenreel.tools.replay.reading.writing import Capture, RunWriter, run_meta

CODE = installed_core()


class FailingEngine(Engine):
    """Cannot stand a prompt of seven tokens."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, AdmitRequest) and len(event.prompt_token_ids) == 7:
            raise LookupError("seven")
        return super().apply(event)


class SlowEngine(Engine):
    """Decides otherwise: says that it ignored something at each step."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        self.num_ignored += isinstance(event, StepBegan)
        return super().apply(event)


def code_of(kind: type[Engine]) -> CoreCode:
    return CODE._replace(create=kind, restore=kind.restore)


def recorded_by(kind: type[Engine], run: Path) -> Path:
    asked = [Asked(prompt=[1, 2, 3]), Asked(prompt=[1, 2, 3, 4, 5, 6, 7], arrival=2)]
    with RunWriter(run, run_meta(SMALL)) as writer:
        try:
            Conversation(kind(SMALL), asked, Capture(writer)).play()
        except LookupError:
            pass
    return run


@pytest.fixture
def into(tmp_path: Path) -> Path:
    directory = tmp_path / "replays"
    directory.mkdir()
    return directory


@pytest.fixture
def keep_verb(into: Path) -> Callable[..., int]:
    def run(journal: Path, *arguments: str, code: CoreCode | None = None) -> int:
        return main(["keep", str(journal), "--into", str(into), *arguments], code)

    return run


def test_a_sound_run_is_kept_redacted_and_guards_decisions(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = capture(tmp_path / "journals")

    assert keep_verb(run, "--name", "a_storm", "--shows", "Something.") == EXIT_OK

    (kept,) = kept_in(into)
    assert about(kept).guards is Guards.DECISIONS and about(kept).shows == "Something."
    assert complaint(kept, CODE) is None
    for _, _, records in read_records(open_journal(kept)):
        assert all(record.flags & REDACTED for record in records)
    assert [path.name for path in into.iterdir()] == ["a_storm"]


def test_json_says_what_was_kept(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1])])
    assert keep_verb(run, "--name", "one_token", "--json") == EXIT_OK

    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(into / "one_token")
    assert report["guards"] == "decisions" and report["shows"] == "one token"


def test_a_changed_decision_is_complained_of(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    keep_verb(capture(tmp_path / "journals"), "--name", "a_storm")

    complained = complaint(into / "a_storm", code_of(SlowEngine))

    assert complained is not None and complained.startswith("today's code decides otherwise")


def test_as_it_is_a_journal_is_kept_only_if_asked(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1, 2, 3])], events_per_segment=8)
    keep_verb(run, "--name", "as_it_is", "--no-redact")

    names = sorted(path.name for path in run.iterdir())
    assert sorted(path.name for path in (into / "as_it_is").iterdir()) == [ABOUT, *names]
    assert all((into / "as_it_is" / n).read_bytes() == (run / n).read_bytes() for n in names)


def steps_begun(events: list[RecordedEvent]) -> list[int]:
    return [each.event.step_id for each in events if isinstance(each.event, StepBegan)]


def test_a_part_starts_from_the_state_that_the_run_was_in(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = capture(tmp_path / "journals", events_per_segment=50)

    assert keep_verb(run, "--name", "part", "--from", "step:10", "--until", "step:20") == EXIT_OK

    assert complaint(into / "part", CODE) is None
    part = open_journal(into / "part")
    kept = list(recorded_events(part))
    assert sorted({*steps_begun(kept)}) == list(range(10, 21))
    assert part.segments[0].header.number == 1
    assert not part.has_ended


def test_the_first_part_starts_as_the_run_did(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = capture(tmp_path / "journals")

    assert keep_verb(run, "--name", "part", "--until", "60") == EXIT_OK

    assert complaint(into / "part", CODE) is None
    part = open_journal(into / "part")
    whole = [each.seq for each in recorded_events(open_journal(run)) if each.seq <= 60]
    assert [each.seq for each in recorded_events(part)] == whole
    assert part.segments[0].header.number == 0


def test_the_last_part_ends_as_the_run_did(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = capture(tmp_path / "journals")

    assert keep_verb(run, "--name", "part", "--from", "300") == EXIT_OK

    assert complaint(into / "part", CODE) is None
    assert open_journal(into / "part").has_ended


# From an open bug to a regression test.


def test_a_failure_is_guarded_until_it_is_fixed_and_soundness_from_then_on(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    buggy = code_of(FailingEngine)
    run = recorded_by(FailingEngine, tmp_path / "run")

    assert keep_verb(run, "--name", "seven_tokens", code=buggy) == EXIT_OK
    kept = into / "seven_tokens"
    assert about(kept).guards is Guards.FAILURE
    assert complaint(kept, buggy) is None
    with pytest.raises(CannotKeep, match="LookupError still comes out"):
        fix(kept, buggy)

    complained = complaint(kept, CODE)  # as if it were fixed
    assert complained is not None and "--fixed" in complained
    assert main(["keep", str(kept), "--fixed"]) == EXIT_OK

    assert about(kept).guards is Guards.SOUNDNESS
    assert complaint(kept, CODE) is None
    assert not list(kept.glob("*.tkr"))
    assert "soundness" in capsys.readouterr().out


def test_what_guards_no_open_bug_cannot_be_fixed(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    keep_verb(recorded_by(Engine, tmp_path / "run"), "--name", "sound")

    assert main(["keep", str(into / "sound"), "--fixed"]) == EXIT_USAGE


def test_a_run_of_code_that_decided_otherwise_is_kept_as_a_scenario(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded_by(SlowEngine, tmp_path / "run")

    assert keep_verb(run, "--name", "slow", "--no-redact") == EXIT_USAGE
    assert "--as scenario" in capsys.readouterr().err
    assert keep_verb(run, "--name", "slow", "--as", "scenario") == EXIT_OK

    assert about(into / "slow").guards is Guards.SOUNDNESS
    assert complaint(into / "slow", CODE) is None


def test_a_kept_scenario_holds_the_order_of_priorities_and_not_what_clients_chose(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    chosen = [0, 70_123, -8_123, 5, 70_123]
    asked = [Asked(prompt=[number, 2, 3], priority=p) for number, p in enumerate(chosen)]
    run = converse(tmp_path / "run", asked)

    assert keep_verb(run, "--name", "ranked", "--as", "scenario") == EXIT_OK

    kept = msgspec.json.decode((into / "ranked" / SCENARIO).read_bytes(), type=Scenario)
    assert [request.priority for request in kept.requests] == [0, 2, -1, 1, 2]


def test_a_scenario_that_goes_wrong_is_complained_of(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(config=CONFIG, requests=REQUESTS[:6])
    kept = keep(into, "six", "", CODE, lambda run: write_scenario(run, scenario), 10**6)
    assert about(kept).guards is Guards.SOUNDNESS

    monkeypatch.setattr(Engine, "wants_step", lambda engine: False)

    complained = complaint(kept, CODE)
    assert complained is not None and "stall" in complained
    open_bug = keep(into, "open", "", CODE, lambda run: write_scenario(run, scenario), 10**6)
    assert about(open_bug).guards is Guards.SYMPTOM
    assert complaint(open_bug, CODE) is None
    monkeypatch.undo()
    assert "--fixed" in (complaint(open_bug, CODE) or "")
    fix(open_bug, CODE)
    assert complaint(open_bug, CODE) is None


def test_what_is_shrunk_is_what_goes_wrong(
    tmp_path: Path,
    into: Path,
    keep_verb: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = capture(tmp_path / "journals", scenario=Scenario(config=CONFIG, requests=REQUESTS[:6]))
    assert keep_verb(run, "--name", "nothing", "--shrunk") == EXIT_NO_SYMPTOM
    assert "nothing is wrong" in capsys.readouterr().err

    monkeypatch.setattr(Engine, "wants_step", lambda engine: False)
    assert keep_verb(run, "--name", "stall", "--shrunk") == EXIT_OK

    kept = msgspec.json.decode((into / "stall" / "scenario.json").read_bytes(), type=Scenario)
    assert len(kept.requests) == 1
    assert about(into / "stall").shows.startswith("stall")


# What is refused.


@pytest.mark.parametrize("name", ["../x", "A", "a b", "", "x" * 81, "a/b", ".hidden"])
def test_what_is_no_name_is_refused(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], name: str
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1])])

    assert keep_verb(run, "--name", name) == EXIT_USAGE
    assert not list(into.iterdir())


def test_what_is_kept_already_is_left_alone(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int]
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1])])
    assert keep_verb(run, "--name", "once", "--shows", "first") == EXIT_OK

    assert keep_verb(run, "--name", "once", "--shows", "second") == EXIT_USAGE
    assert about(into / "once").shows == "first"


def test_what_is_too_large_is_refused_with_its_size(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = capture(tmp_path / "journals")

    assert keep_verb(run, "--name", "large", "--max-bytes", "5000") == EXIT_USAGE
    assert "at most 5,000" in capsys.readouterr().err
    assert not list(into.iterdir())


def test_a_journal_that_does_not_verify_is_refused(
    tmp_path: Path, into: Path, keep_verb: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded_by(SlowEngine, tmp_path / "run")

    assert keep_verb(run, "--name", "slow") == EXIT_DIVERGED
    said = capsys.readouterr().err
    assert "does not decide as the journal says" in said
    assert "--as scenario" in said
    assert not list(into.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "fine_name", "--into", "/nowhere"],
        [],
        ["--name", "fine_name", "--from", "step:9", "--until", "step:2"],
        ["--name", "fine_name", "--from", "nonsense"],
    ],
)
def test_a_wrong_command_gets_one_line(
    tmp_path: Path,
    keep_verb: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1])])

    assert keep_verb(run, *arguments) == EXIT_USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_a_directory_that_is_no_kept_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotKeep, match="is no kept run"):
        about(tmp_path)
