"""The first difference between a journal and its re-execution is found, named and placed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.journal_directory import segments_of
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.ids import RequestKey, Row, SeqId, StepId
from tokenreel.messages.journal import (
    CORE_FAILED,
    EFFECT,
    HEADER_BYTES,
    IGNORABLE,
    INPUT,
    LOGPROBS,
    JournalDamaged,
    Record,
)
from tokenreel.messages.journal_meta import core_failed, encode_core_failed
from tokenreel.messages.journal_reader import SegmentReader
from tokenreel.messages.outputs import SequenceTokens, TokensEmitted
from tokenreel.messages.requests import AbortRequest, RequestFinished
from tokenreel.messages.steps import (
    SampledTokens,
    ScheduledSequence,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.exit_codes import EXIT_DAMAGED, EXIT_DIVERGED, EXIT_OK
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.verify.report import as_text
from tokenreel.tools.replay.verify.verify import Verdict, verify


class Configuration(msgspec.Struct, frozen=True):
    tokens_per_step: int


class SmallCore:
    """Schedules one sequence per step and remembers a sum; an abort of key 13 is beyond it."""

    def __init__(self, configuration: Configuration, total: int = 0) -> None:
        self.configuration = configuration
        self.total = total

    def apply(self, event: CoreEvent) -> list[Effect]:
        match event:
            case StepBegan(step_id=step_id):
                self.total += step_id
                return [self.schedule(step_id), self.decide(step_id)]
            case StepCompleted(outputs=outputs):
                tokens = [SequenceTokens(o.seq_id, 0, o.token_ids) for o in outputs]
                return [TokensEmitted(tokens)]
            case AbortRequest(key=key) if key.number == 13:
                raise LookupError(f"no request {key.number}")
            case _:
                return []

    def schedule(self, step_id: StepId) -> StepScheduled:
        share = ScheduledSequence(SeqId(1), Row(0), 0, self.configuration.tokens_per_step, 1, [])
        return StepScheduled(step_id, [], [], [share])

    def decide(self, step_id: StepId) -> StepDecided:
        digest = (self.total, step_id, 7)
        return StepDecided(step_id, digest, 1, 1, 0, 5, Unscheduled.NOTHING, SeqId(0), 0)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode({"total": self.total})

    @classmethod
    def restore(cls, configuration: Configuration, snapshot: bytes) -> "SmallCore":
        return cls(configuration, msgspec.msgpack.decode(snapshot)["total"])


def code_of(core: type[SmallCore], source_hash: bytes = b"now") -> CoreCode:
    return CoreCode(Configuration, core, core.restore, ("sum", "steps", "constant"), 1, source_hash)


class Capture:
    """A shell in miniature: applies, records, commits."""

    def __init__(self, directory: Path, core: type[SmallCore] = SmallCore) -> None:
        configuration = Configuration(4)
        self.core = core(configuration)
        meta = describe_run(configuration, 1)
        self.recorder = Recorder.create(directory, meta, sync="none", on_error="gap")
        self.now_ns = 0
        self.step_id = 0

    def turn(self, *events: CoreEvent) -> None:
        self.now_ns += 1_000_000
        for event in events:
            self.recorder.append(tag_of(event), INPUT, encode(event), self.now_ns)
            try:
                effects = self.core.apply(event)
            except Exception as error:
                failure = encode_core_failed(core_failed(error, "Traceback: as then"))
                self.recorder.append(CORE_FAILED, 0, failure, self.now_ns)
                break
            for effect in effects:
                self.recorder.append(tag_of(effect), EFFECT, encode(effect), self.now_ns)
        self.recorder.commit()

    def step(self, num_tokens: int = 2) -> None:
        self.step_id += 1
        self.turn(StepBegan(StepId(self.step_id)))
        self.recorder.append(LOGPROBS, IGNORABLE, b"\xff whatever", self.now_ns)
        outputs = [SampledTokens(SeqId(1), list(range(num_tokens)))]
        self.turn(StepCompleted(StepId(self.step_id), outputs, 0, 0))

    def close(self) -> Path:
        self.recorder.close()
        return self.recorder.run_dir


def captured(directory: Path, num_steps: int = 5, rotate_at: tuple[int, ...] = ()) -> Path:
    capture = Capture(directory)
    for number in range(num_steps):
        if number in rotate_at:
            capture.recorder.rotate(capture.core.snapshot())
        capture.step()
    return capture.close()


def verdict_on(run: Path, core: type[SmallCore] = SmallCore) -> Verdict:
    return verify(open_journal(run), code_of(core))


def records_of(run: Path) -> list[Record]:
    return [
        record
        for segment in segments_of(run)
        for record in SegmentReader(segment.path.read_bytes(), segment.path.name)
    ]


def test_the_same_code_finds_no_difference_and_counts_what_it_saw(tmp_path: Path) -> None:
    run = captured(tmp_path, num_steps=5, rotate_at=(2, 4))
    verdict = verdict_on(run)
    assert verdict.divergence is None and verdict.reproduced is None
    totals = verdict.totals
    assert (totals.num_segments, totals.num_events, totals.num_effects) == (3, 10, 15)
    assert (totals.num_steps, totals.num_tokens, totals.num_gaps) == (5, 10, 0)


def test_replay_starts_from_the_snapshot_when_older_segments_are_gone(tmp_path: Path) -> None:
    run = captured(tmp_path, num_steps=5, rotate_at=(2, 4))
    (run / "engine-1-0.tkr").unlink()
    verdict = verdict_on(run)
    assert verdict.divergence is None
    assert verdict.totals.num_steps == 3
    assert any("starts at segment 1" in note for note in open_journal(run).notes)
    assert verdict_on(run / "engine-1-2.tkr").totals.num_steps == 1


class OneTokenMore(SmallCore):
    def schedule(self, step_id: StepId) -> StepScheduled:
        scheduled = super().schedule(step_id)
        if step_id < 3:
            return scheduled
        share = msgspec.structs.replace(scheduled.scheduled[0], num_tokens=9)
        return msgspec.structs.replace(scheduled, scheduled=[share])


def test_a_differing_effect_is_named_to_the_field_and_placed_to_the_byte(tmp_path: Path) -> None:
    run = captured(tmp_path, num_steps=5, rotate_at=(1,))
    found = verdict_on(run, OneTokenMore).divergence
    assert found is not None
    assert found.path == "StepScheduled.scheduled[0].num_tokens"
    assert (found.recorded, found.replayed) == ("4", "9")
    assert (found.step, found.last_step_agreed) == (3, 2)
    assert found.input == "StepBegan(step_id=3)"
    [record] = [record for record in records_of(run) if record.seq == found.seq]
    assert record.type == 35
    assert (found.segment, found.offset) == ("engine-1-1.tkr", record.offset)


class AnotherSum(SmallCore):
    def decide(self, step_id: StepId) -> StepDecided:
        self.total += step_id == 4
        decided = super().decide(step_id)
        sum_, steps, constant = decided.digest
        return msgspec.structs.replace(decided, digest=(sum_, steps, constant + (step_id == 4)))


def test_a_differing_digest_is_named_by_its_components(tmp_path: Path) -> None:
    found = verdict_on(captured(tmp_path), AnotherSum).divergence
    assert found is not None
    assert found.path == "StepDecided.digest[0]"
    assert found.components == ("sum", "constant")
    assert (found.step, found.last_step_agreed) == (4, 3)


class OneEffectMore(SmallCore):
    def apply(self, event: CoreEvent) -> list[Effect]:
        more = isinstance(event, StepCompleted) and event.step_id == 2
        return super().apply(event) + ([RequestFinished(RequestKey(1, 5))] if more else [])


class OneEffectLess(SmallCore):
    def apply(self, event: CoreEvent) -> list[Effect]:
        less = isinstance(event, StepBegan) and event.step_id == 2
        return super().apply(event)[: -1 if less else None]


class OtherEffect(SmallCore):
    def apply(self, event: CoreEvent) -> list[Effect]:
        other = isinstance(event, StepCompleted) and event.step_id == 2
        return [RequestFinished(RequestKey(1, 5))] if other else super().apply(event)


class Raises(SmallCore):
    def schedule(self, step_id: StepId) -> StepScheduled:
        if step_id == 2:
            raise IndexError("pop from an empty deque")
        return super().schedule(step_id)


@pytest.mark.parametrize(
    ("core", "path", "recorded", "replayed"),
    [
        (OneEffectMore, "RequestFinished", "(nothing)", "RequestFinished(key="),
        (OneEffectLess, "StepDecided", "StepDecided(step_id=2", "(nothing)"),
        (OtherEffect, "TokensEmitted", "TokensEmitted(", "RequestFinished("),
        (Raises, "StepScheduled", "StepScheduled(", "raised IndexError: pop from an empty deque"),
    ],
)
def test_effects_that_are_missing_added_or_others_are_told(
    tmp_path: Path, core: type[SmallCore], path: str, recorded: str, replayed: str
) -> None:
    found = verdict_on(captured(tmp_path, rotate_at=(2,)), core).divergence
    assert found is not None
    assert found.path == path
    assert found.recorded.startswith(recorded) and found.replayed.startswith(replayed)
    assert (found.step, found.segment) == (2, "engine-1-0.tkr")


class OtherState(SmallCore):
    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode({"total": self.total + 1})


def test_a_state_that_differs_from_the_snapshot_is_a_divergence(tmp_path: Path) -> None:
    found = verdict_on(captured(tmp_path, rotate_at=(3,)), OtherState).divergence
    assert found is not None
    assert (found.path, found.recorded, found.replayed) == ("snapshot['total']", "6", "7")
    assert found.segment == "engine-1-1.tkr"


def failed_run(directory: Path) -> Path:
    capture = Capture(directory)
    capture.step()
    capture.turn(AbortRequest(RequestKey(1, 13)))
    return capture.close()


def test_a_recorded_failure_of_the_core_is_reproduced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = failed_run(tmp_path)
    verdict = verdict_on(run)
    assert verdict.divergence is None
    assert verdict.reproduced is not None
    assert main(["verify", str(run)], code_of(SmallCore)) == EXIT_OK
    output = capsys.readouterr().out
    assert output.startswith("reproduced CoreFailed: LookupError: no request 13\n")
    assert "Traceback: as then" in output


class Forgiving(SmallCore):
    def apply(self, event: CoreEvent) -> list[Effect]:
        return [] if isinstance(event, AbortRequest) else super().apply(event)


class OtherWords(SmallCore):
    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, AbortRequest):
            raise LookupError("who?")
        return super().apply(event)


@pytest.mark.parametrize(
    ("core", "replayed"), [(Forgiving, "raised nothing"), (OtherWords, "LookupError: who?")]
)
def test_a_failure_that_does_not_come_out_again_is_a_divergence(
    tmp_path: Path, core: type[SmallCore], replayed: str
) -> None:
    run = failed_run(tmp_path)
    found = verdict_on(run, core).divergence
    assert found is not None
    assert (found.path, found.recorded) == ("CoreFailed", "LookupError: no request 13")
    assert found.replayed == replayed
    assert main(["verify", str(run)], code_of(core)) == EXIT_DIVERGED


def test_a_failure_whose_record_was_lost_is_told_as_the_input_that_raises(tmp_path: Path) -> None:
    run = failed_run(tmp_path)
    path = run / "engine-1-0.tkr"
    data = path.read_bytes()
    reader = SegmentReader(data, "s")
    failure = next(record for record in reader if record.type == CORE_FAILED)
    capture = Capture(tmp_path / "again", Forgiving)
    capture.step()
    capture.turn(AbortRequest(RequestKey(1, 13)))
    found = verdict_on(capture.close()).divergence
    assert found is not None
    assert found.path == "raised" and found.replayed == "LookupError: no request 13"
    assert found.seq == failure.seq - 1


def test_after_a_gap_the_replay_goes_on_from_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(tmp_path)
    capture.step()

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokenreel.actors.runtime.recorder.os.write", no_room)
    capture.step()
    monkeypatch.undo()
    capture.recorder.rotate(capture.core.snapshot())
    capture.step()
    verdict = verdict_on(capture.close())
    assert verdict.divergence is None
    assert (verdict.totals.num_gaps, verdict.totals.num_records_lost) == (1, 6)
    assert verdict.totals.num_steps == 2
    journal = open_journal(capture.recorder.run_dir)
    assert "1 gap: 6 records never written" in as_text(journal, verdict, None)


def test_the_report_names_both_versions_of_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = captured(tmp_path)
    assert main(["verify", str(run)], code_of(OneTokenMore)) == EXIT_DIVERGED
    text = capsys.readouterr().out
    assert text.startswith("DIVERGED")
    assert re.search(r"at +seq \d+, engine-1-0.tkr, offset \d+", text)
    assert re.search(r"step +3 \(the last one that agreed: 2\)", text)
    assert re.search("cause +code change: its source has changed since", text)
    assert f"(now {b'now'.hex()})" in text
    assert "tokens_per_step=4" in text

    other_logic = code_of(OneTokenMore)._replace(logic_version=2)
    main(["verify", str(run)], other_logic)
    assert "code change: another logic version: 1 then, 2 now" in capsys.readouterr().out


def test_json_tells_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = captured(tmp_path)
    assert main(["verify", "--json", str(run)], code_of(SmallCore)) == EXIT_OK
    equal = json.loads(capsys.readouterr().out)
    assert (equal["outcome"], equal["divergence"], equal["has_ended"]) == ("equal", None, True)
    assert equal["totals"]["num_steps"] == 5
    assert main(["verify", "--json", str(run)], code_of(AnotherSum)) == EXIT_DIVERGED
    diverged = json.loads(capsys.readouterr().out)
    assert diverged["outcome"] == "diverged"
    assert diverged["divergence"]["components"] == ["sum", "constant"]
    assert diverged["configuration"] == {"tokens_per_step": 4}


def test_a_torn_tail_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = captured(tmp_path)
    path = run / "engine-1-0.tkr"
    data = path.read_bytes()
    begins = records_of(run)[-4].offset
    for length in range(begins, len(data)):
        path.write_bytes(data[:length])
        assert main(["verify", str(run)], code_of(SmallCore)) == EXIT_OK
        text = capsys.readouterr().out
        assert "did not end tidily" in text
    path.write_bytes(data[:-1])
    main(["verify", str(run)], code_of(SmallCore))
    assert (
        f"engine-1-0.tkr ends in a torn tail: {39 - 8} bytes from offset" in capsys.readouterr().out
    )


def test_a_segment_that_was_only_begun_is_left_out_and_said(tmp_path: Path) -> None:
    run = captured(tmp_path, rotate_at=(3,))
    path = run / "engine-1-1.tkr"
    begun = path.read_bytes()[: HEADER_BYTES + 50]
    for length in range(len(begun) + 1):
        path.write_bytes(begun[:length])
        journal = open_journal(run)
        assert len(journal.segments) == 1
        assert any("engine-1-1.tkr ends in a torn tail" in note for note in journal.notes)
        assert verify(journal, code_of(SmallCore)).totals.num_steps == 3


def rewritten(run: Path, change: Callable[[list[tuple[int, int, bytes]]], None]) -> Path:
    """The run recorded anew, whole, with other records."""
    records = [(r.type, r.flags & 7, r.payload) for r in records_of(run)[1:-1]]
    change(records)
    meta = records_of(run)[0].payload
    recorder = Recorder.create(run.parent / "rewritten", meta, sync="none")
    for record_type, flags, payload in records:
        recorder.append(record_type, flags, payload, 0)
    recorder.close()
    return recorder.run_dir


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ((4, INPUT, b"\xc1"), "no message of this code"),
        ((5, INPUT, encode(StepBegan(StepId(1)))), "StepBegan in a record of type 5"),
        ((34, INPUT, encode(RequestFinished(RequestKey(1, 1)))), "RequestFinished in a record"),
        ((4, EFFECT, encode(StepBegan(StepId(1)))), "StepBegan in a record of type 4"),
        ((200, 0, b""), "has type 200, which is unknown here and may not be ignored"),
        ((97, 0, b"part"), "parts are mixed up"),
        ((97, 0, b"\0\0\0\0\2\0\0\0"), "parts of a snapshot are missing"),
        ((98, 0, b"\xc1"), "CORE_FAILED"),
        ((96, 0, b"\xc1"), "META does not fit this code"),
    ],
)
def test_whole_records_that_make_no_sense_are_refused_with_their_place(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record: tuple[int, int, bytes],
    reason: str,
) -> None:
    run = rewritten(captured(tmp_path), lambda records: records.append(record))
    with pytest.raises(JournalDamaged, match=reason) as refusal:
        verdict_on(run)
    assert refusal.value.segment == "engine-1-0.tkr"
    assert refusal.value.offset >= HEADER_BYTES
    assert main(["verify", str(run)], code_of(SmallCore)) == EXIT_DAMAGED
    assert reason in capsys.readouterr().err


def test_unknown_records_that_may_be_ignored_are_skipped(tmp_path: Path) -> None:
    later = (210, IGNORABLE, b"from a later version")
    run = rewritten(captured(tmp_path), lambda records: records.insert(1, later))
    assert verdict_on(run).divergence is None


def test_an_effect_before_any_input_is_refused(tmp_path: Path) -> None:
    run = rewritten(captured(tmp_path), lambda records: records.pop(0) and None)
    with pytest.raises(JournalDamaged, match="an effect without an input"):
        verdict_on(run)


def test_fields_appended_since_do_not_count_as_a_difference(tmp_path: Path) -> None:
    """A record of an older version lacks them; they have their default then."""

    def shorten(records: list[tuple[int, int, bytes]]) -> None:
        for index, (record_type, flags, payload) in enumerate(records):
            if record_type == 38:  # TokensEmitted: drop what SequenceTokens has defaults for
                tag, [sequence] = msgspec.msgpack.decode(payload)
                payload = msgspec.msgpack.encode([tag, [sequence[:3]]])
                records[index] = (record_type, flags, payload)

    run = rewritten(captured(tmp_path), shorten)
    assert verdict_on(run).divergence is None


def test_a_configuration_that_the_core_refuses_is_told(tmp_path: Path) -> None:
    class Refusing(SmallCore):
        def __init__(self, configuration: Configuration, total: int = 0) -> None:
            raise ValueError("tokens_per_step is 4; it must be at most 3")

    with pytest.raises(JournalDamaged, match="cannot start from this .ValueError: tokens_per_step"):
        verdict_on(captured(tmp_path), Refusing)
