"""Places as people write them come out as the event they mean."""

from datetime import UTC, datetime, timedelta

import pytest
from capturing import CONFIG, capture

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import encode, tag_of
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.tools.replay.cli import UsageError
from tokenreel.tools.replay.index.index import Index, open_index
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.seek import Kind, seek, seq_at

WALL_NS = 1_700_000_000_000_000_000


class RunClock(SystemClock):
    """The run begins at 500 ns of the clock that its records carry."""

    now_ns = 500

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return WALL_NS


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Of a run whose events come a microsecond apart, in two segments."""
    captured = capture(tmp_path_factory.mktemp("journals"))
    meta = describe_run(CONFIG, LOGIC_VERSION)
    directory = tmp_path_factory.mktemp("journals")
    clock = RunClock()
    recorder = Recorder.create(directory, meta, sync="none", clock=clock)
    engine = Engine(CONFIG)
    for number, event in enumerate(recorded_events(open_journal(captured))):
        clock.now_ns = event.t_ns
        recorder.append(tag_of(event.event), INPUT, encode(event.event), event.t_ns)
        for effect in engine.apply(event.event):
            recorder.append(tag_of(effect), EFFECT, encode(effect), event.t_ns)
        recorder.commit()
        if number == 100:
            recorder.rotate(engine.snapshot())
    recorder.close()
    return open_index(recorder.run_dir, progress=False)


@pytest.fixture(scope="module")
def events(index: Index) -> list[RecordedEvent]:
    return list(recorded_events(index.journal))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("17", Kind.SEQ, 17),
        ("seq:17", Kind.SEQ, 17),
        ("step:3", Kind.STEP, 3),
        ("12.5s", Kind.SINCE_START, 12_500_000_000),
        ("250ms", Kind.SINCE_START, 250_000_000),
        ("1m30s", Kind.SINCE_START, 90_000_000_000),
        ("2h5min", Kind.SINCE_START, 7_500_000_000_000),
        ("7us", Kind.SINCE_START, 7_000),
        ("0s", Kind.SINCE_START, 0),
        ("1970-01-02T00:00:00Z", Kind.WALL, 86_400_000_000_000),
        ("1970-01-02T01:00:00.000001+01:00", Kind.WALL, 86_400_000_001_000),
        ("1970-01-02 00:00:00", Kind.WALL, 86_400_000_000_000),
        ("1970-01-02", Kind.WALL, 86_400_000_000_000),
    ],
)
def test_every_form_is_understood(text: str, kind: Kind, value: int) -> None:
    place = seek(text)
    assert (place.kind, place.value, place.text) == (kind, value, text)


@pytest.mark.parametrize(
    "text", ["", "-3", "step:", "step:x", "seq:-1", "s", "12.5", "1x", "2026-13-01", "1e9s"]
)
def test_what_names_no_place_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match="step:N"):
        seek(text)


def test_a_step_is_the_event_that_composed_it(index: Index) -> None:
    for row in (0, 10, len(index.steps) - 1):
        step_id, seq = int(index.steps.step_id[row]), int(index.steps.seq[row])
        assert seq_at(index, seek(f"step:{step_id}")) == seq
    with pytest.raises(UsageError, match=r"step:99999: .* its steps are 1 to"):
        seq_at(index, seek("step:99999"))


def test_a_time_is_the_first_event_at_or_behind_it(
    index: Index, events: list[RecordedEvent]
) -> None:
    assert events[150].t_ns - events[149].t_ns == 1000
    for number in (0, 1, 55, 100, 101, 102, 180, len(events) - 1):
        event = events[number]
        assert seq_at(index, seek(f"{event.t_ns - 500}ns")) == event.seq
        assert seq_at(index, seek(f"{max(0, event.t_ns - 1400)}ns")) == event.seq
    assert seq_at(index, seek("9999h")) == index.journal.segments[-1].next_seq
    moment = datetime.fromtimestamp(WALL_NS / 1e9, UTC) + timedelta(microseconds=60)
    expected = next(event.seq for event in events if event.t_ns >= 60_500)
    assert seq_at(index, seek(moment.isoformat())) == expected
