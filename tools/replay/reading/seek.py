"""Places in a journal as a person names them: `seq:1234`, `step:56`, `12.5s`, a time of day.

1234, seq:1234               the event with this sequence number, or the first behind it
step:56                      the event that composed this step
12.5s, 250ms, 1m30s, 2h      so long after the start of the run
2026-11-21T11:50:00+01:00    at this time; without an offset from UTC it is UTC
"""

import re
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from tokenreel.messages.journal import SegmentHeader
from tokenreel.tools.command import UsageError

PLACE_HELP = "SEQ, step:N, a time since the start (12.5s, 1m30s) or a date with time (ISO 8601)"
"""For `--from` and `--until`."""

_MAX = (1 << 63) - 1
_NAMED = re.compile(r"(?:(seq|step):)?([0-9]{1,19})")
_SPAN = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|min|m|ms|s|us|ns))+")
_SPAN_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|min|ms|m|s|us|ns)")
_UNIT_NS = {
    "h": 3_600_000_000_000,
    "min": 60_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}


class Kind(Enum):
    SEQ = "seq"
    STEP = "step"
    SINCE_START = "time since the start"
    WALL = "time of day"


class Place(NamedTuple):
    """`value` is a sequence number, a step, or nanoseconds: since the start, or since 1970."""

    kind: Kind
    value: int
    text: str

    def clock_ns(self, first: SegmentHeader) -> int:
        """For a time: the same on the clock that records carry. `first` is the header of the
        run's first segment that is left, where its time begins."""
        start = first.monotonic_ns
        return start + self.value - (first.wall_ns if self.kind is Kind.WALL else 0)


def seek(text: str) -> Place:
    """The place that `text` names. Raises UsageError."""
    named = _NAMED.fullmatch(text)
    if named:
        kind = Kind.STEP if named[1] == "step" else Kind.SEQ
        return Place(kind, min(int(named[2]), _MAX), text)
    if _SPAN.fullmatch(text):
        parts = _SPAN_PART.findall(text)
        nanoseconds = sum(round(float(number) * _UNIT_NS[unit]) for number, unit in parts)
        return Place(Kind.SINCE_START, min(nanoseconds, _MAX), text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} names no place in a journal; give {PLACE_HELP}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since_epoch.days * 86_400 + since_epoch.seconds) * 10**6
    return Place(Kind.WALL, (microseconds + since_epoch.microseconds) * 1000, text)
