"""`--from` starts at the snapshot before a place, `--until` ends with the event at one."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from capturing import capture
from mutants import lying_at

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.journal_reader import SegmentSummary
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.index.part import StoredSnapshot
from tokenreel.tools.replay.index.place import IndexPlace
from tokenreel.tools.replay.index.replica import DivergedAt
from tokenreel.tools.replay.reading.committed import Position
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import Journal, open_journal
from tokenreel.tools.replay.reading.seek import seek
from tokenreel.tools.replay.verify.bounds import range_of
from tokenreel.tools.replay.verify.verify import END, Range, verify


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return open_journal(capture(tmp_path_factory.mktemp("journals"), events_per_segment=40))


@pytest.fixture(scope="module")
def events(journal: Journal) -> list[RecordedEvent]:
    return list(recorded_events(journal))


def within(journal: Journal, begin: str | None = None, until: str | None = None) -> Range:
    places = [None if text is None else seek(text) for text in (begin, until)]
    return range_of(journal, *places)


def num_events(journal: Journal, begin: str | None = None, until: str | None = None) -> int:
    verdict = verify(journal, installed_core(), within=within(journal, begin, until))
    assert verdict.divergence is None
    return verdict.totals.num_events


def test_without_bounds_it_is_all_of_it(journal: Journal) -> None:
    assert within(journal) == Range(0, len(journal.segments), END)


def test_every_event_is_a_place_to_end(journal: Journal, events: list[RecordedEvent]) -> None:
    for number in (0, 1, 39, 40, 41, 100, len(events) - 1):
        assert num_events(journal, until=str(events[number].seq)) == number + 1
        behind = events[number + 1].seq - 1 if number + 1 < len(events) else 10**9
        assert num_events(journal, until=f"seq:{behind}") == number + 1


def test_every_step_is_a_place_to_end_and_to_begin(
    journal: Journal, events: list[RecordedEvent]
) -> None:
    for number, event in enumerate(events):
        if not isinstance(event.event, StepBegan) or not event.effects or number % 7:
            continue
        step = f"step:{event.event.step_id}"
        assert num_events(journal, until=step) == number + 1
        found = within(journal, begin=step)
        assert journal.segments[found.first].name == event.segment
        assert num_events(journal, begin=step, until=step) == number + 1 - number // 40 * 40


def test_times_are_places(journal: Journal, events: list[RecordedEvent]) -> None:
    """`capture` stamps its events with 1, 2, 3 ... us: its clock is made to start there."""
    first = journal.segments[0]
    early = first._replace(header=first.header._replace(monotonic_ns=0, wall_ns=10**18))
    shifted = journal._replace(segments=[early, *journal.segments[1:]])
    for number in (5, 60, 222):
        place = f"{number + 1}us"
        assert num_events(shifted, until=place) == number + 1
        found = within(shifted, begin=place)
        assert journal.segments[found.first].name == events[number].segment
    assert num_events(shifted, until="2001-09-09T01:46:40.000061Z") == 61


@pytest.mark.parametrize(
    ("begin", "until", "reason"),
    [
        ("seq:500", "seq:400", "--until lies before --from"),
        ("seq:1000000", None, "--from lies behind the end of the journal"),
        ("step:100000", None, "step:100000: the journal has no such step"),
        (None, "step:0", "the journal has no such step"),
        ("yesterday", None, "names no place in a journal"),
    ],
)
def test_bounds_without_anything_between_them_are_refused(
    journal: Journal, begin: str | None, until: str | None, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        within(journal, begin, until)


class StoredPart:
    """As an index keeps it, with one snapshot."""

    def __init__(self, summary: SegmentSummary, code: CoreCode, stored: StoredSnapshot) -> None:
        self.summary = summary
        self.head = SimpleNamespace(
            source_hash=code.source_hash, divergence=None, snapshots=[stored]
        )
        self.taken = b""

    def snapshot(self, stored: StoredSnapshot) -> bytes:
        return self.taken


@pytest.fixture
def indexed(
    journal: Journal, events: list[RecordedEvent], monkeypatch: pytest.MonkeyPatch
) -> StoredPart:
    """The index of segment 2, with a snapshot before its tenth event."""
    configuration = verify(journal, installed_core()).configuration
    assert isinstance(configuration, CoreConfig)
    engine = Engine(configuration)
    for event in events[:90]:
        engine.apply(event.event)
    position = Position(events[90].offset, events[90].seq)
    stored = StoredSnapshot(position, engine.next_step_id - 1, 0, 0, 0)
    part = StoredPart(journal.segments[2], installed_core(), stored)
    part.taken = engine.snapshot()

    def find(place: IndexPlace, path: Path) -> StoredPart | None:
        return part if path.name == journal.segments[2].name else None

    monkeypatch.setattr(IndexPlace, "find", find)
    return part


def test_an_index_gives_a_later_place_to_start_from(
    journal: Journal, events: list[RecordedEvent], indexed: StoredPart
) -> None:
    code = installed_core()
    begin, until = seek(f"seq:{events[100].seq}"), seek(f"seq:{events[130].seq}")
    found = range_of(journal, begin, until, code)
    assert found.first == 2 and found.start is not None
    assert found.start.position == Position(events[90].offset, events[90].seq)
    for jobs in (1, 2):
        verdict = verify(journal, code, within=found, jobs=jobs)
        assert verdict.divergence is None
        assert verdict.totals.num_events == 131 - 90
    before = seek(f"seq:{events[85].seq}")
    assert range_of(journal, before, None, code).start is None


def test_an_index_is_not_believed_if_other_code_made_it_or_it_lost_the_record(
    journal: Journal, events: list[RecordedEvent], indexed: StoredPart
) -> None:
    begin, code = seek(f"seq:{events[100].seq}"), installed_core()
    assert range_of(journal, begin, None, lying_at(1)).start is None
    lost = DivergedAt(1, "s", 0, 0, "an effect differs")
    for name, value in (("source_hash", b"other"), ("divergence", lost)):
        kept = getattr(indexed.head, name)
        setattr(indexed.head, name, value)
        assert range_of(journal, begin, None, code).start is None
        setattr(indexed.head, name, kept)
    assert range_of(journal, begin, None, code).start is not None
    indexed.summary = indexed.summary._replace(last_crc=1)
    assert range_of(journal, begin, None, code).start is None


def test_a_difference_behind_a_snapshot_of_an_index_is_looked_for_from_the_recorded_one(
    journal: Journal,
    events: list[RecordedEvent],
    indexed: StoredPart,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the index says may be wrong itself: here, one event is missing in its state."""
    state = msgspec.msgpack.decode(indexed.taken)
    state["tombstones"].append([9, 9])
    indexed.taken = msgspec.msgpack.encode(state)
    begin = f"seq:{events[100].seq}"
    assert main(["verify", "--json", "--from", begin, str(journal.path)]) == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    assert report["totals"]["num_events"] == len(events) - 80
