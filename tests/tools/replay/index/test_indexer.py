"""An index that lies there is used if it fits, brought up to date if it can be, or made anew."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capturing import CONFIG, REQUESTS, CountingWorker, capture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.journal_directory import index_of, make_room, segments_of
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import EFFECT, HEADER_BYTES, INPUT, JournalDamaged
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index import indexer
from tokenreel.tools.replay.index import place as index_place
from tokenreel.tools.replay.index.index import Index, open_index
from tokenreel.tools.replay.index.replica import ReplayDiverged


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in several segments, with its index."""
    run = capture(tmp_path_factory.mktemp("journals"), events_per_segment=60)
    open_index(run, progress=False)
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled the moment they are written."""
    monkeypatch.setattr(index_place, "RACY_NS", 0)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is old enough to be settled, however slow this machine is."""
    monkeypatch.setattr(index_place, "RACY_NS", 1 << 62)


def made(path: Path) -> list[str]:
    return list(open_index(path, progress=False).made.values())


def contents(index: Index) -> dict[str, Any]:
    """Everything that an index tells, as values to compare."""
    tables = {"steps": index.steps, "requests": index.requests, "sequences": index.sequences}
    told: dict[str, Any] = {
        f"{name}.{column}": values.tolist()
        for name, table in tables.items()
        for column, values in vars(table).items()
        if isinstance(values, np.ndarray)
    }
    last = int(index.steps.step_id[-1])
    told["states"] = [index.walk_to_step(step).engine.snapshot() for step in (1, last // 2, last)]
    return told


@pytest.mark.usefixtures("settled")
def test_a_journal_that_is_indexed_is_not_read_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(made(run)) == {"checked"}  # a copy: its files have another time
    read: list[int] = []
    whole = indexer.read_file

    def counting(path: Path, max_bytes: int = 1 << 30) -> bytes:
        read.append(len(data := whole(path, max_bytes)))
        return data

    monkeypatch.setattr(indexer, "read_file", counting)
    assert set(made(run)) == {"reused"}
    assert set(read) == {HEADER_BYTES}


@pytest.mark.usefixtures("fresh")
def test_a_journal_that_changed_a_moment_before_it_was_indexed_is_checked_again(run: Path) -> None:
    open_index(run, progress=False)
    assert set(made(run)) == {"checked"}


@pytest.mark.usefixtures("settled")
def test_a_changed_byte_of_an_indexed_journal_is_found(run: Path) -> None:
    open_index(run, progress=False)
    segment = segments_of(run)[1].path
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(JournalDamaged, match=segment.name):
        open_index(run, progress=False)


def test_the_index_of_another_segment_of_the_same_name_is_not_believed(
    run: Path, tmp_path: Path
) -> None:
    other = capture(tmp_path, events_per_segment=50)
    for segment in segments_of(other):
        mine = index_of(run / segment.path.name)
        if mine.exists():
            shutil.copy(mine, index_of(segment.path))
    assert set(made(other)) == {"built"}


@pytest.mark.usefixtures("fresh")
def test_the_snapshots_of_other_code_are_not_believed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = installed_core()._replace(source_hash=bytes(16))
    monkeypatch.setattr(indexer, "installed_core", lambda: changed)
    index = open_index(run, progress=False, code=changed)
    assert set(index.made.values()) == {"built"}
    assert set(open_index(run, progress=False, code=changed).made.values()) == {"checked"}


def test_an_index_made_with_a_core_under_test_is_not_left_behind(run: Path) -> None:
    class Another(Engine):
        pass

    code = installed_core()._replace(create=Another, restore=Another.restore)
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    index = open_index(run, progress=False, code=code)
    assert set(index.made.values()) == {"built"} and index.kept.startswith("nowhere")
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255), number=st.integers(0, 3))
def test_a_damaged_index_file_changes_nothing(
    original: Path, tmp_path_factory: pytest.TempPathFactory, place: float, flip: int, number: int
) -> None:
    """A flip of 0 cuts the file there."""
    run = tmp_path_factory.mktemp("damaged") / original.name
    shutil.copytree(original, run)
    path = index_of(segments_of(run)[number].path)
    data = bytearray(path.read_bytes())
    offset = int(place * len(data))
    if flip:
        data[offset] ^= flip
    else:
        del data[offset:]
    path.write_bytes(data)
    assert contents(open_index(run, progress=False)) == _contents_of(original)


_known: dict[Path, dict[str, Any]] = {}


def _contents_of(path: Path) -> dict[str, Any]:
    if path not in _known:
        _known[path] = contents(open_index(path, progress=False))
    return _known[path]


# While the run goes on.


class GrowingRun:
    """A run that is written as far as it is asked to be."""

    def __init__(self, directory: Path, events_per_segment: int = 1 << 30) -> None:
        self._events: list[tuple[CoreEvent, list[Effect], bytes]] = []
        Player(Scenario(config=CONFIG, requests=REQUESTS), CountingWorker(), self._note).play()
        self.num_events = len(self._events)
        meta = describe_run(CONFIG, LOGIC_VERSION)
        self.recorder = Recorder.create(directory, meta, sync="none")
        self._events_per_segment = events_per_segment
        self._written = 0

    def _note(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        self._events.append((event, effects, engine.snapshot()))

    def write(self, up_to: int) -> Path:
        while self._written < up_to:
            event, effects, snapshot = self._events[self._written]
            self._written += 1
            self.recorder.append(tag_of(event), INPUT, encode(event), 1000 * self._written)
            for effect in effects:
                self.recorder.append(tag_of(effect), EFFECT, encode(effect), 1000 * self._written)
            self.recorder.commit()
            if self._written % self._events_per_segment == 0:
                self.recorder.rotate(snapshot)
        return self.recorder.run_dir


@pytest.mark.parametrize("events_per_segment", [1 << 30, 70])
def test_the_index_of_a_live_run_is_extended(tmp_path: Path, events_per_segment: int) -> None:
    growing = GrowingRun(tmp_path, events_per_segment)
    made_ways = set()
    for up_to in (3, 50, 51, 120, 121, growing.num_events):
        run = growing.write(up_to)
        index = open_index(run, progress=False)
        made_ways |= set(index.made.values())
        assert index.journal.is_live
        assert sum(part.head.num_events for part in index.parts) == up_to
    growing.recorder.close()
    extended = contents(open_index(run, progress=False))
    assert "extended" in made_ways
    assert extended == contents(open_index(run, progress=False, anew=True))


def test_what_was_written_since_is_all_that_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[CoreEvent] = []
    whole = Engine.apply

    def counting(engine: Engine, event: CoreEvent) -> list[Effect]:
        applied.append(event)
        return whole(engine, event)

    growing = GrowingRun(tmp_path)
    run = growing.write(100)
    open_index(run, progress=False)
    growing.write(103)
    monkeypatch.setattr(Engine, "apply", counting)
    open_index(run, progress=False)
    assert len(applied) == 3
    growing.recorder.close()


# Several at once, and nowhere to write.


def _build(path: Path, barrier: Any, results: Any) -> None:
    barrier.wait()
    results.put(len(open_index(path, progress=False, anew=True).steps))


def test_builders_beside_each_other_leave_one_whole_index(run: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    builders = [context.Process(target=_build, args=(run, barrier, results)) for _ in range(4)]
    for builder in builders:
        builder.start()
    found = {results.get(timeout=60) for _ in builders}
    for builder in builders:
        builder.join()
    assert len(found) == 1
    names = {path.name for path in run.iterdir()}
    parts = {index_of(segment.path).name for segment in segments_of(run)}
    assert names == {segment.path.name for segment in segments_of(run)} | parts | {"lock"}
    assert set(made(run)) <= {"checked", "reused"}


@pytest.mark.usefixtures("fresh")
def test_where_nothing_can_be_written_the_index_is_kept_in_the_cache(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for segment in segments_of(original):
        shutil.copy(segment.path, run)
        index_of(run / segment.path.name).mkdir()  # so that no file can take this name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = open_index(run)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and str(tmp_path / "cache") in told[0] and "cannot write" in told[0]
    assert index.kept.startswith(f"in {tmp_path / 'cache'}")
    assert set(made(run)) == {"checked"}
    assert contents(index) == _contents_of(original)

    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    index = open_index(run)
    assert "the index is not kept" in capsys.readouterr().err
    assert contents(index) == _contents_of(original)


# Retention.


def test_room_is_made_of_a_segment_and_its_index_together(run: Path) -> None:
    journals = run.parent
    (run / "engine-1-0.tki-left-by-a-crash").write_bytes(bytes(100))
    sizes = {path.name: path.stat().st_size for path in run.iterdir()}
    total = sum(sizes.values())
    own = journals / "own"
    first = segments_of(run)[0].path
    remaining = make_room(journals, own, total - 1)
    gone = set(sizes) - {path.name for path in run.iterdir()}
    assert gone >= {first.name, index_of(first).name, "engine-1-0.tki-left-by-a-crash"}
    assert remaining == sum(path.stat().st_size for path in run.iterdir())
    assert make_room(journals, own, 0) == 0
    assert not run.exists()


# Code that decides otherwise.


def diverging_at(step_id: int) -> CoreCode:
    """A core that books one step wrongly."""

    class Diverging(Engine):
        def apply(self, event: CoreEvent) -> list[Effect]:
            effects = super().apply(event)
            if isinstance(event, StepBegan) and event.step_id == step_id:
                self.num_ignored += 1
                effects = super().apply(StepBegan(event.step_id)) or effects[:-1]
            return effects

    return installed_core()._replace(create=Diverging, restore=Diverging.restore)


def test_a_walk_works_up_to_where_the_code_decides_otherwise_and_behind_the_next_snapshot(
    run: Path,
) -> None:
    sound = open_index(run, progress=False)
    second = sound.journal.segments[1]
    steps = [int(each) for each in sound.steps.step_id]
    seqs = {step: sound.seq_of_step(step) for step in steps}
    within = [step for step in steps if seqs[step] < second.header.first_seq]
    wrong = within[len(within) // 2]

    index = open_index(run, progress=False, code=diverging_at(wrong))
    assert [f"seq {seqs[wrong]} (" in note for note in index.notes] == [True]
    before = index.walk_to_step(wrong - 1)
    assert before.engine.snapshot() == sound.walk_to_step(wrong - 1).engine.snapshot()
    for step in (wrong, wrong + 1, within[-1]):
        with pytest.raises(ReplayDiverged, match=f"seq {seqs[wrong]} "):
            index.walk_to_step(step)
    behind = within[-1] + 1
    assert index.walk_to_step(behind).engine.snapshot() == (
        sound.walk_to_step(behind).engine.snapshot()
    )
    walk = index.walk(0)
    walked = [event.seq for event in walk]
    assert [each.seq for each in walk.divergences] == [seqs[wrong]]
    assert set(walked) == {
        event.seq
        for event in sound.walk(0)
        if event.seq < seqs[wrong] or event.seq >= second.header.first_seq
    }
    assert index.steps.step_id.tolist() == steps
