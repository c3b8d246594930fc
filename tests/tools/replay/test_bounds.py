"""`--from` starts at the snapshot before a place, `--until` ends with the event at one."""

import pytest
from capturing import capture

from tokenreel.messages.steps import StepBegan
from tokenreel.tools.replay.bounds import range_of
from tokenreel.tools.replay.cli import UsageError
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.journal import Journal, open_journal
from tokenreel.tools.replay.seek import seek
from tokenreel.tools.replay.verify import END, Range, verify


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
