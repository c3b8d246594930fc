"""What is lifted from a journal is what the run was: asked, put out, aborted, delivered."""

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, CountingWorker, capture

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.ids import StepId
from tokenreel.messages.journal import CORE_FAILED, EFFECT, INPUT, JournalDamaged
from tokenreel.messages.journal_meta import core_failed, encode_core_failed
from tokenreel.messages.outputs import SequenceFinished, TokensEmitted
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import StepBegan, StepCompleted, StepScheduled
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.writing import RunWriter, run_meta
from tokenreel.tools.replay.recording.recording import lift
from tokenreel.tools.replay.recording.values import Recording

EVENTS_PER_SEGMENT = 60


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("runs"), EVENTS_PER_SEGMENT)


@pytest.fixture(scope="module")
def recording(run_dir: Path) -> Recording:
    return lift(open_journal(run_dir))


def test_every_request_is_there_in_the_order_of_arrival(recording: Recording) -> None:
    assert recording.config == CONFIG
    assert [request.admit.key.number for request in recording.requests] == list(range(40))
    arrivals = [request.arrival_ns for request in recording.requests]
    assert arrivals == sorted(arrivals)
    for asked, request in zip(REQUESTS, recording.requests, strict=True):
        assert len(request.admit.prompt_token_ids) == asked.num_prompt_tokens
        assert request.is_complete and not request.is_inherited


def test_outputs_are_those_that_the_core_emitted_with_their_times(
    recording: Recording, run_dir: Path
) -> None:
    emitted = defaultdict(list)
    ends = {}
    for recorded in recorded_events(open_journal(run_dir)):
        for effect in recorded.effects:
            if isinstance(effect, TokensEmitted):
                for tokens in effect.sequences:
                    emitted[tokens.seq_id] += [(token, recorded.t_ns) for token in tokens.token_ids]
            elif isinstance(effect, SequenceFinished):
                ends[effect.seq_id] = effect
    sequences = [sequence for request in recording.requests for sequence in request.sequences]
    assert len(sequences) == sum(asked.n for asked in REQUESTS)
    for sequence in sequences:
        pairs = list(zip(sequence.outputs, sequence.output_ns, strict=True))
        assert pairs == emitted[sequence.seq_id]
        assert sequence.finish_reason == ends[sequence.seq_id].reason
        assert sequence.num_final_outputs == ends[sequence.seq_id].num_output_tokens
        assert sequence.delivered_ns is not None
        assert sequence.delivered_ns > sequence.finished_ns


def test_stop_strings_and_aborts_are_told_with_their_outputs(recording: Recording) -> None:
    matched = [s for r in recording.requests for s in r.sequences if s.stop_match is not None]
    aborted = [r for r in recording.requests if r.abort is not None]
    assert len(matched) >= 5 and len(aborted) == 5
    for sequence in matched:
        assert sequence.stop_match is not None
        assert sequence.stop_match.num_output_tokens == 3
        assert sequence.stop_match.delay_ns > 0
        assert sequence.finish_reason is FinishReason.STOP and sequence.num_final_outputs == 3
    for request in aborted:
        assert request.abort is not None
        assert len(request.abort.num_outputs) == len(request.sequences)
        if request.abort.ended_something:
            assert FinishReason.ABORT in {s.finish_reason for s in request.sequences}


def test_a_step_is_told_with_its_work_and_its_times(recording: Recording, run_dir: Path) -> None:
    work, times = {}, {}
    for recorded in recorded_events(open_journal(run_dir)):
        if isinstance(recorded.event, StepCompleted):
            times[recorded.event.step_id] = recorded.t_ns
        for effect in recorded.effects:
            if isinstance(effect, StepScheduled):
                work[effect.step_id] = (effect.scheduled, recorded.t_ns)
    assert len(recording.steps) == len(times) > 50
    for step in recording.steps:
        shares, scheduled_ns = work[step.step_id]
        assert (step.scheduled_ns, step.completed_ns) == (scheduled_ns, times[step.step_id])
        assert step.work.num_seqs == len(shares)
        assert step.work.num_tokens == sum(share.num_tokens for share in shares)
        contexts = [range(s.start, s.start + s.num_tokens) for s in shares]
        assert step.work.num_context == sum(positions.stop for positions in contexts)
        assert step.work.num_pairs == sum(p + 1 for positions in contexts for p in positions)


def test_a_run_without_its_first_segments_begins_with_its_snapshot(
    recording: Recording, run_dir: Path, tmp_path: Path
) -> None:
    kept = sorted(run_dir.glob("*.tkr"), key=lambda path: int(path.stem.split("-")[-1]))[2:]
    for path in kept:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    late = lift(open_journal(tmp_path))
    whole = {request.admit.key: request for request in recording.requests}
    inherited = [request for request in late.requests if request.is_inherited]
    assert inherited and inherited == late.requests[: len(inherited)]
    for request in late.requests:
        known = {sequence.seq_id: sequence for sequence in whole[request.admit.key].sequences}
        assert request.is_complete
        assert request.admit.prompt_token_ids == whole[request.admit.key].admit.prompt_token_ids
        for sequence in request.sequences:
            original = known[sequence.seq_id]
            assert sequence.outputs == original.outputs
            assert sequence.finish_reason == original.finish_reason
            assert (
                sequence.output_ns[sequence.num_inherited :]
                == (original.output_ns[sequence.num_inherited :])
            )
    assert any(s.num_inherited for r in inherited for s in r.sequences)
    assert len(late.steps) < len(recording.steps)


def test_a_later_segment_without_its_snapshot_is_refused(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", run_meta(CONFIG)) as writer:
        writer.begin_segment(number=1)
        writer.write(1, StepBegan(StepId(1)), [])
    with pytest.raises(JournalDamaged, match="neither the run's first segment nor a snapshot"):
        lift(open_journal(tmp_path / "run"))


def test_what_was_in_flight_at_the_end_is_not_complete(run_dir: Path, tmp_path: Path) -> None:
    for path in sorted(run_dir.glob("*.tkr"), key=lambda path: path.stem)[:1]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    early = lift(open_journal(tmp_path))
    cut = [request for request in early.requests if not request.is_complete]
    assert cut
    for request in cut:
        assert any(sequence.finish_reason is None for sequence in request.sequences)
        assert all(
            sequence.finished_ns == 0
            for sequence in request.sequences
            if sequence.finish_reason is None
        )


def test_an_abort_that_overtook_its_admit_is_told_with_it(tmp_path: Path) -> None:
    asked = ScenarioRequest(num_prompt_tokens=5, max_tokens=4, arrival=3, abort_turn=0)
    recording = lift(
        open_journal(capture(tmp_path, scenario=Scenario(config=CONFIG, requests=(asked,))))
    )
    (request,) = recording.requests
    assert request.abort is not None and request.abort.at_ns < request.arrival_ns
    assert request.rejected is not None and request.rejected.code == "aborted"
    assert request.is_complete and recording.num_stray_aborts == 0


def test_a_gap_is_bridged_by_the_snapshot_behind_it(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(config=CONFIG, requests=REQUESTS)
    recorder = Recorder.create(tmp_path, describe_run(CONFIG, 1), sync="none", on_error="gap")
    num_events = 0

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    def record(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        nonlocal num_events
        num_events += 1
        recorder.append(tag_of(event), INPUT, encode(event), 1000 * num_events)
        for effect in effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), 1000 * num_events)
        if num_events == 40:
            monkeypatch.setattr("tokenreel.actors.runtime.recorder.os.write", no_room)
        recorder.commit()
        if num_events == 110:
            monkeypatch.undo()
            recorder.rotate(engine.snapshot())

    Player(scenario, CountingWorker(), record).play()
    recorder.close()
    gapped = lift(open_journal(recorder.run_dir))
    whole = {request.admit.key: request for request in recording.requests}
    assert gapped.num_gaps == 1 and len(gapped.steps) < len(recording.steps)
    inherited = [request for request in gapped.requests if request.is_inherited]
    lost = [request for request in gapped.requests if not request.is_complete]
    assert inherited and lost
    for request in gapped.requests:
        if request.is_complete:
            known = {s.seq_id: s for s in whole[request.admit.key].sequences}
            for sequence in request.sequences:
                assert sequence.outputs == known[sequence.seq_id].outputs
                assert len(sequence.output_ns) == len(sequence.outputs)


def test_the_failure_of_the_core_is_told(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, describe_run(CONFIG, 1), sync="none")
    began = StepBegan(StepId(1))
    recorder.append(tag_of(began), INPUT, encode(began), 1)
    failure = core_failed(LookupError("no request 13"), "Traceback ...")
    recorder.append(CORE_FAILED, 0, encode_core_failed(failure), 1)
    recorder.commit()
    recorder.close(tidily=False)
    assert lift(open_journal(recorder.run_dir)).failure == failure


def test_a_refused_request_is_told_with_its_refusal(tmp_path: Path) -> None:
    asked = ScenarioRequest(num_prompt_tokens=50, max_tokens=50)
    recording = lift(
        open_journal(capture(tmp_path, scenario=Scenario(config=CONFIG, requests=(asked,))))
    )
    (request,) = recording.requests
    assert request.rejected is not None and request.rejected.code == "context_length_exceeded"
    assert not request.sequences


def test_a_recording_is_a_value(recording: Recording, run_dir: Path) -> None:
    assert lift(open_journal(run_dir)) == recording
    encoded = msgspec.msgpack.encode(recording)
    assert msgspec.msgpack.decode(encoded, type=Recording) == recording
