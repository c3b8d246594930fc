"""Places as people write them come out as what they mean."""

import pytest

from tokenreel.messages.journal import SegmentHeader
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.reading.seek import Kind, seek

WALL_NS = 1_700_000_000_000_000_000


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


@pytest.mark.parametrize("text", ["60us", "2023-11-14T22:13:20.000060Z"])
def test_a_time_is_told_on_the_clock_that_records_carry(text: str) -> None:
    """Of a run that began at 500 ns of that clock."""
    first = SegmentHeader(
        run_id="run", epoch=1, number=0, first_seq=1, wall_ns=WALL_NS, monotonic_ns=500, salt=0
    )
    assert seek(text).clock_ns(first) == 60_500
