"""A place where journal and re-execution disagree, as plain values that can be printed and sent."""

from typing import Any

import msgspec

from tokenreel.tools.replay.difference import Difference, first_difference

MAX_SHOWN_CHARACTERS = 400


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """`seq`, `segment` and `offset` are those of the record that differs, `input` is the event that
    was applied before it. `path` is the effect and the field in it.

    `components` names the parts of the state whose digests differ, if it is a digest. `step` is the
    one in which it happened, as far as the records tell; 0 for none. `last_step_agreed` is the last
    one whose digest came out as recorded; 0 if none did since the replay started.
    """

    seq: int
    segment: str
    offset: int
    step: int
    last_step_agreed: int
    input: str
    path: str
    recorded: str
    replayed: str
    components: tuple[str, ...] = ()


class Diverged(Exception):
    """Raised where the replay meets the difference. `is_at_start` tells that it is the recorded
    snapshot of a segment, from which the replay can go on."""

    def __init__(self, divergence: Divergence, *, is_at_start: bool = False) -> None:
        super().__init__(divergence)
        self.divergence = divergence
        self.is_at_start = is_at_start


def joined(subject: str, path: str) -> str:
    """`path` within `subject`, such as `StepScheduled.scheduled[2].num_tokens`."""
    dot = "." if path and not path.startswith("[") else ""
    return f"{subject}{dot}{path}"


def shown(value: Any) -> str:
    """As text, bounded."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def snapshot_difference(recorded: bytes, replayed: bytes) -> Difference:
    try:
        values = msgspec.msgpack.decode(recorded), msgspec.msgpack.decode(replayed)
        found = first_difference(*values)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    return found or Difference("", f"{len(recorded)} bytes", f"{len(replayed)} other bytes")
