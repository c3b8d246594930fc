"""The index tells what a reading from front to back tells, and is never believed when it is not."""

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capturing import CONFIG, REQUESTS, CountingWorker, capture

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.journal_directory import segments_of
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import CORE_FAILED, EFFECT, INPUT
from tokenreel.messages.journal_meta import CoreFailed, encode_core_failed
from tokenreel.messages.outputs import SequenceFinished, TokensEmitted
from tokenreel.messages.requests import AdmitRequest, RequestAdmitted
from tokenreel.messages.steps import StepBegan, StepCompleted, StepScheduled
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.index import indexing_pass, place
from tokenreel.tools.replay.index.index import Index, open_index
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"), events_per_segment=60)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled the moment they are written."""
    monkeypatch.setattr(place, "RACY_NS", 0)


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot before every event."""
    monkeypatch.setattr(indexing_pass, "MAX_REPLAY_S", 0.0)
    monkeypatch.setattr(indexing_pass, "PAUSE_PER_SNAPSHOT", 0)
    monkeypatch.setattr(indexing_pass, "LOOK_EVERY_BYTES", 0)
    monkeypatch.setattr(indexing_pass, "MIN_SNAPSHOT_BYTES", 1 << 30)


def made(path: Path) -> set[str]:
    return set(open_index(path, progress=False).made.values())


def contents(index: Index) -> dict[str, Any]:
    """Everything that an index tells, as values to compare."""
    tables = {"steps": index.steps, "requests": index.requests, "sequences": index.sequences}
    told: dict[str, Any] = {
        f"{name}.{column}": values.tolist()
        for name, table in tables.items()
        for column, values in vars(table).items()
        if isinstance(values, np.ndarray)
    }
    told["notes"] = index.notes
    return told


# What it tells.


def test_steps_are_those_of_the_records(run: Path) -> None:
    events = list(recorded_events(open_journal(run)))
    steps = open_index(run, progress=False).steps
    composed = [
        (event, effect)
        for event in events
        for effect in event.effects
        if isinstance(effect, StepScheduled)
    ]
    completed = {e.event.step_id: e for e in events if isinstance(e.event, StepCompleted)}
    assert len(steps) == len(composed) > 80
    for row, (event, scheduled) in enumerate(composed):
        assert (steps.step_id[row], steps.seq[row]) == (scheduled.step_id, event.seq)
        assert (steps.offset[row], steps.t_ns[row]) == (event.offset, event.t_ns)
        assert steps.num_seqs[row] == len(scheduled.scheduled)
        assert steps.num_tokens[row] == sum(share.num_tokens for share in scheduled.scheduled)
        assert steps.num_cached_tokens[row] == sum(
            len(added.block_ids) * CONFIG.block_size for added in scheduled.added
        )
        end = completed[scheduled.step_id]
        assert steps.completed_seq[row] == end.seq
        assert steps.ended_ns[row] == end.event.ended_ns
        assert steps.row_of(scheduled.step_id) == row
    assert steps.row_of(len(composed) + 1) is None


def test_requests_are_those_of_the_records_across_segments(run: Path) -> None:
    events = list(recorded_events(open_journal(run)))
    requests = open_index(run, progress=False).requests
    outputs: Counter[int] = Counter()
    for event in events:
        for effect in event.effects:
            if isinstance(effect, TokensEmitted):
                for tokens in effect.sequences:
                    if tokens.token_ids:
                        outputs[tokens.seq_id] = tokens.first_output_index + 1
            elif isinstance(effect, SequenceFinished):
                outputs[effect.seq_id] = effect.num_output_tokens
    admits = [event for event in events if isinstance(event.event, AdmitRequest)]
    assert len(requests) == len(admits) == 40
    for row, event in enumerate(admits):
        admit, effect = event.event, event.effects[0]
        assert isinstance(admit, AdmitRequest)
        assert requests.key(row) == admit.key and requests.row_of(admit.key) == row
        assert requests.admit_seq[row] == event.seq
        if isinstance(effect, RequestAdmitted):
            assert tuple(requests.seq_ids(row)) == effect.seq_ids
            assert requests.num_outputs[row] == sum(outputs[each] for each in effect.seq_ids)
            assert requests.delivered_ns[row] >= requests.finished_ns[row] > event.t_ns
        else:
            assert requests.refused_status[row] and not requests.seq_ids(row)
    aborted = requests.aborted_ns != 0
    assert 0 < aborted.sum() < 40


def test_a_run_whose_first_segments_are_gone_knows_who_was_there_when_it_begins(run: Path) -> None:
    whole = open_index(run, progress=False).requests
    segments_of(run)[0].path.unlink()
    requests = open_index(run, progress=False).requests
    inherited = requests.admit_seq == 0
    assert 0 < inherited.sum() < len(requests) < len(whole)
    for row in range(len(requests)):
        before = whole.row_of(requests.key(row))
        assert before is not None
        assert requests.num_prompt_tokens[row] == whole.num_prompt_tokens[before]
        assert requests.finish_reason[row] == whole.finish_reason[before]
        assert requests.num_outputs[row] == whole.num_outputs[before]


# Walks.


def states_of(run: Path) -> dict[int, bytes]:
    """The core's state just before each event, found without any index."""
    journal = open_journal(run)
    engine = Engine(CONFIG)
    states = {}
    for event in recorded_events(journal):
        states[event.seq] = engine.snapshot()
        engine.apply(event.event)
    return states


@pytest.mark.usefixtures("dense")
def test_a_walk_from_any_snapshot_has_the_state_of_a_replay_from_the_start(run: Path) -> None:
    states = states_of(run)
    index = open_index(run, progress=False)
    assert sum(len(part.head.snapshots) for part in index.parts) > len(states)
    for seq in random.Random(1).sample(sorted(states), 60):
        walk = index.walk(seq)
        assert walk.next_seq == seq and walk.engine.snapshot() == states[seq]
    whole = list(index.walk(0))
    assert [event.seq for event in whole] == sorted(states)


def test_a_walk_yields_what_was_recorded(run: Path) -> None:
    index = open_index(run, progress=False)
    walk = index.walk(200)
    recorded = [event for event in recorded_events(index.journal) if event.seq >= 200]
    assert list(walk) == recorded and not walk.divergences


def test_a_walk_to_a_step_stands_behind_the_event_that_composed_it(run: Path) -> None:
    index = open_index(run, progress=False)
    states = states_of(run)
    for step_id in (1, 2, 40, int(index.steps.step_id[-1])):
        walk = index.walk_to_step(step_id)
        assert isinstance(walk.engine, Engine)
        assert walk.engine.open_steps[-1].step_id == step_id
        assert walk.next_seq is not None and walk.engine.snapshot() == states[walk.next_seq]
    with pytest.raises(LookupError, match=r"its steps are 1 to \d+"):
        index.walk_to_step(10_000)


def test_snapshots_of_a_segment_stay_within_their_bound(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing_pass, "MAX_REPLAY_S", 0.0)
    monkeypatch.setattr(indexing_pass, "PAUSE_PER_SNAPSHOT", 0)
    monkeypatch.setattr(indexing_pass, "LOOK_EVERY_BYTES", 0)
    monkeypatch.setattr(indexing_pass, "MIN_SNAPSHOT_BYTES", 4000)
    states = states_of(run)
    index = open_index(run, progress=False)
    for part in index.parts:
        bound = max(4000, part.summary.committed_length // indexing_pass.SNAPSHOT_SHARE)
        assert part.head.snapshots and part.num_snapshot_bytes <= bound
    for seq in list(states)[::17]:
        assert index.walk(seq).engine.snapshot() == states[seq]


# Journals that are not whole.


def test_after_a_gap_a_walk_goes_on_from_the_snapshot(tmp_path: Path) -> None:
    run, lost = gapped_run(tmp_path)
    index = open_index(run, progress=False)
    steps = index.steps.step_id
    assert 0 < len(lost) and not set(lost) & set(steps.tolist())
    events = list(index.walk(0))
    assert events == list(recorded_events(index.journal))
    with pytest.raises(LookupError, match=r"its steps are 1 to \d+, \d+ to \d+"):
        index.walk_to_step(lost[0])


def gapped_run(directory: Path) -> tuple[Path, list[int]]:
    """A run of which events 100 to 140 were never written; and the steps that are in none."""
    meta = describe_run(CONFIG, LOGIC_VERSION)
    recorder = Recorder.create(directory, meta, sync="none", on_error="gap", notify=lambda _: None)
    num_events = 0
    lost: list[int] = []

    def record(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        nonlocal num_events
        num_events += 1
        if num_events == 100:
            recorder._handle_failure(OSError(28, "no space"))
        if num_events == 140:
            recorder.rotate(engine.snapshot())
            return
        if 100 <= num_events < 140 and any(isinstance(e, StepScheduled) for e in effects):
            assert isinstance(event, StepBegan)
            lost.append(event.step_id)
        recorder.append(tag_of(event), INPUT, encode(event), 1000 * num_events)
        for effect in effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), 1000 * num_events)
        recorder.commit()

    Player(Scenario(config=CONFIG, requests=REQUESTS), CountingWorker(), record).play()
    recorder.close()
    return recorder.run_dir, lost


def test_a_torn_tail_is_left_out_and_told(run: Path) -> None:
    last = segments_of(run)[-1].path
    last.write_bytes(last.read_bytes()[:-20])
    index = open_index(run, progress=False)
    assert any("torn tail" in note for note in index.notes)
    assert list(index.walk(0)) == list(recorded_events(index.journal))


def test_a_core_that_failed_fails_again_at_the_end_of_the_walk(
    original: Path, tmp_path: Path
) -> None:
    meta = describe_run(CONFIG, LOGIC_VERSION)
    recorder = Recorder.create(tmp_path, meta, sync="none")
    events = list(recorded_events(open_journal(original)))[:50]
    for event in events:
        recorder.append(tag_of(event.event), INPUT, encode(event.event), event.t_ns)
        for effect in event.effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), event.t_ns)
        recorder.commit()
    recorder.append(tag_of(events[-1].event), INPUT, encode(events[-1].event), events[-1].t_ns)
    failure = CoreFailed("Boom", "as recorded", "")
    recorder.append(CORE_FAILED, 0, encode_core_failed(failure), events[-1].t_ns)
    recorder.commit()
    recorder.close(tidily=False)

    class FailingEngine(Engine):
        num_applied = 0

        def apply(self, event: CoreEvent) -> list[Effect]:
            FailingEngine.num_applied += 1
            if event is not None and FailingEngine.num_applied % 51 == 0:
                raise Boom("as recorded")
            return super().apply(event)

    class Boom(Exception):
        pass

    Boom.__qualname__ = "Boom"
    code = installed_core()._replace(create=FailingEngine)
    index = open_index(recorder.run_dir, progress=False, code=code)
    assert index.parts[-1].head.failure == "Boom: as recorded"
    walked = list(index.walk(0))
    assert len(walked) == 51 and walked[-1].effects == []
