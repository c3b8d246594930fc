"""`engine-replay export`: a trace that is whole, and says what the journal says."""

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest
from capturing import CONFIG, REQUESTS
from timed_capturing import capture_timed

from tokenreel.actors.core.scenario import Scenario
from tokenreel.messages.outputs import SequenceFinished, TokensEmitted
from tokenreel.messages.requests import AdmitRequest, RequestAdmitted
from tokenreel.messages.steps import SequencePreempted, StepDecided, StepScheduled
from tokenreel.tools.exit_codes import EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.trace.proto import TraceWriter

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4


class Track:
    """What a reader of the trace finds on a track."""

    def __init__(self, name: str, parent: int) -> None:
        self.name = name
        self.parent = parent
        self.slices: list[tuple[str, int, int]] = []
        self.counts: list[tuple[int, int]] = []
        self.instants: list[tuple[str, int]] = []
        self.arguments: list[dict[str, Any]] = []
        self.last_ns = 0
        self.open: list[tuple[str, int]] = []


class Trace:
    """Reads a trace by the rules of its format, and refuses whatever breaks one."""

    def __init__(self, data: bytes) -> None:
        self.tracks: dict[int, Track] = {}
        self.flows: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for field, packet in fields(data):
            assert field == 1
            self._read(dict(fields(packet)))
        assert not [track.name for track in self.tracks.values() if track.open]

    def named(self, name: str) -> Track:
        (track,) = [track for track in self.tracks.values() if track.name == name]
        return track

    def below(self, name: str) -> list[Track]:
        (uuid,) = [uuid for uuid, track in self.tracks.items() if track.name == name]
        return [track for track in self.tracks.values() if track.parent == uuid]

    def _read(self, packet: dict[int, Any]) -> None:
        assert packet[10] == 1  # one sequence
        if 60 in packet:
            descriptor = dict(fields(packet[60]))
            parent = descriptor.get(5, 0)
            assert descriptor[1] not in self.tracks and (not parent or parent in self.tracks)
            self.tracks[descriptor[1]] = Track(descriptor[2].decode(), parent)
        elif 11 in packet:
            self._read_event(list(fields(packet[11])), packet[8])
        else:
            assert 6 in packet

    def _read_event(self, event: list[tuple[int, Any]], t_ns: int) -> None:
        one = dict(event)
        track = self.tracks[one[11]]
        assert t_ns >= track.last_ns, f"{track.name} goes back in time"
        track.last_ns = t_ns
        name = one.get(23, b"").decode()
        arguments = [dict(fields(value)) for field, value in event if field == 4]
        told = {each[10].decode(): each[6].decode() if 6 in each else each[4] for each in arguments}
        if one[9] == BEGIN:
            track.open.append((name, t_ns))
            track.arguments.append(told)
        elif one[9] == END:
            begun, since_ns = track.open.pop()
            track.slices.append((begun, since_ns, t_ns))
        elif one[9] == COUNTER:
            track.counts.append((t_ns, one[30]))
        else:
            assert one[9] == INSTANT
            track.instants.append((name, t_ns))
        assert name or one[9] in (END, COUNTER)
        for field, value in event:
            if field in (47, 48):
                self.flows[value].append((t_ns, field == 48))


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    offset = 0
    while offset < len(data):
        key, offset = varint(data, offset)
        kind = key & 7
        value: Any
        if kind == 2:
            size, offset = varint(data, offset)
            value, offset = data[offset : offset + size], offset + size
            assert len(value) == size
        elif kind == 1:
            (value,), offset = unpack_from("<Q", data, offset), offset + 8
        else:
            assert kind == 0
            value, offset = varint(data, offset)
        yield key >> 3, value


def varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenario = Scenario(config=CONFIG, requests=REQUESTS)
    return capture_timed(tmp_path_factory.mktemp("journals"), scenario, events_per_segment=90)


@pytest.fixture(scope="module")
def events(run: Path) -> list[RecordedEvent]:
    return list(recorded_events(open_journal(run)))


@pytest.fixture(scope="module")
def trace(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return exported(run, tmp_path_factory.mktemp("traces") / "run.pftrace")


def exported(run: Path, out: Path) -> Trace:
    assert main(["export", str(run), str(out)]) == EXIT_OK
    return Trace(out.read_bytes())


def effects(events: list[RecordedEvent], kind: type) -> list[Any]:
    return [effect for event in events for effect in event.effects if isinstance(effect, kind)]


def test_every_step_is_on_the_worker_with_its_composition(
    trace: Trace, events: list[RecordedEvent]
) -> None:
    worker = trace.named("worker")
    steps, decided = effects(events, StepScheduled), effects(events, StepDecided)
    assert [name for name, _, _ in worker.slices] == [f"step {step.step_id}" for step in steps]
    assert [told["tokens"] for told in worker.arguments] == [
        step.num_batched_tokens for step in decided
    ]
    for told, step in zip(worker.arguments, steps, strict=True):
        names = told["decode"].split() + [each for each in told["prefill"].split(", ") if each]
        assert told["sequences"] == len(step.scheduled)
        assert len(told["decode"].split()) + told["prefill"].count("[") == len(step.scheduled)
        assert names
    num_open = sum(len(track.slices) for track in trace.tracks.values() if "slot" in track.name)
    assert num_open == len(steps)


def test_every_request_has_a_track_with_its_phases(
    trace: Trace, events: list[RecordedEvent]
) -> None:
    admitted = effects(events, RequestAdmitted)
    assert Counter(track.name for track in trace.below("requests")) == Counter(
        f"{each.key.frontend_epoch}.{each.key.number}" for each in admitted
    )
    preempted = Counter(effect.seq_id for effect in effects(events, SequencePreempted))
    tokens = {one.seq_id for each in effects(events, TokensEmitted) for one in each.sequences}
    for each in admitted:
        name = f"{each.key.frontend_epoch}.{each.key.number}"
        for index, seq_id in enumerate(each.seq_ids):
            track = trace.named(f"{name}#{index}" if len(each.seq_ids) > 1 else name)
            phases = Counter(name for name, _, _ in track.slices if not name.startswith("["))
            assert phases["queued"] == phases["delivery"] == 1
            assert phases["preempted"] == preempted[seq_id]
            assert seq_id in tokens
            assert phases["decode"] <= 1 + preempted[seq_id]
    assert any("decode" in {name for name, *_ in t.slices} for t in trace.tracks.values())


def test_a_flow_leads_from_each_arrival_to_the_first_token(
    trace: Trace, events: list[RecordedEvent]
) -> None:
    assert len(trace.flows) == len(effects(events, RequestAdmitted))
    for points in trace.flows.values():
        assert len(points) >= 3
        assert [is_last for _, is_last in sorted(points)].count(True) == 1
        assert max(points)[1]
    firsts = [each for track in trace.tracks.values() for each in track.instants]
    with_first = {
        one.seq_id
        for each in effects(events, TokensEmitted)
        for one in each.sequences
        if one.token_ids and one.first_output_index == 0
    }
    num_first = sum(name == "first token" for name, _ in firsts)
    requests = [set(each.seq_ids) for each in effects(events, RequestAdmitted)]
    assert num_first == sum(bool(each & with_first) for each in requests)


def test_counters_say_what_the_core_was_like(trace: Trace, run: Path) -> None:
    values: dict[str, dict[int, int]] = defaultdict(dict)
    walk = open_index(run, progress=False).walk()
    for event in walk:
        state = walk.engine.statistics()  # type: ignore[attr-defined]
        values["running"][event.t_ns] = state.num_running
        values["waiting"][event.t_ns] = state.num_waiting
        values["blocks free"][event.t_ns] = state.num_free_blocks
        values["blocks evictable"][event.t_ns] = state.num_evictable_blocks
        values["blocks fenced"][event.t_ns] = state.num_fenced_blocks
        held = 16 - state.num_free_blocks - state.num_evictable_blocks - state.num_fenced_blocks
        values["blocks held"][event.t_ns] = held
    for name, expected in values.items():
        changes = []
        for t_ns, value in expected.items():
            if not changes or changes[-1][1] != value:
                changes.append((t_ns, value))
        assert trace.named(name).counts == changes


def test_arrivals_and_ends_are_instants_of_their_actors(
    trace: Trace, events: list[RecordedEvent]
) -> None:
    num_admits = sum(isinstance(event.event, AdmitRequest) for event in events)
    assert len(trace.named("input processor: arrivals").instants) == num_admits
    finished = {effect.seq_id for effect in effects(events, SequenceFinished)}
    delivered = trace.named("detokenizer: deliveries").instants
    assert sum(name.startswith("delivered") for name, _ in delivered) == len(finished)
    assert trace.named("frontend: aborts").instants


def test_a_run_that_stops_half_way_is_cut_there(run: Path, tmp_path: Path) -> None:
    segments = sorted(run.glob("*.tkr"), key=lambda path: int(path.stem.split("-")[2]))
    kept = segments[1:-2]  # neither its start nor its end
    for segment in kept:
        (tmp_path / segment.name).write_bytes(segment.read_bytes())
    trace = exported(tmp_path, tmp_path / "run.pftrace")
    names = {name for track in trace.below("requests") for name, *_ in track.slices}
    assert "since before the journal" in names
    for points in trace.flows.values():
        assert [is_last for _, is_last in points].count(True) == 1


def test_gzip_holds_the_same_bytes(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "a.pftrace")]) == EXIT_OK
    assert main(["export", str(run), str(tmp_path / "a.pftrace.gz")]) == EXIT_OK
    packed = (tmp_path / "a.pftrace.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.pftrace").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pftrace", "a.pftrace.gz"]


def test_a_place_that_cannot_be_written_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "none" / "out")]) == EXIT_USAGE
    assert "cannot write" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path)]) == EXIT_USAGE


def test_numbers_of_every_size_come_back() -> None:
    written: list[bytes] = []
    writer = TraceWriter(written.append)
    track = writer.counter("c", "things", writer.track("group"))
    sizes = [0, 1, 127, 128, 300, 1 << 31, (1 << 63) - 1]
    for number, value in enumerate(sizes):
        writer.count(track, number, value)
    found = Trace(b"".join(written)).named("c")
    assert found.counts == list(enumerate(sizes))
