"""A place where journal and re-execution disagree, as plain values that can be printed and sent."""

from typing import Any

import msgspec

from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.tools.replay.verify.difference import Difference, first_difference
from tokenreel.tools.replay.verify.history import History

MAX_SHOWN_CHARACTERS = 2_000
MAX_SHOWN_ITEMS = 12


class EffectDifference(msgspec.Struct, frozen=True):
    """A further difference, at the record of the event that caused it, or of the snapshot that it
    is in."""

    seq: int
    segment: str
    offset: int
    step: int
    path: str
    recorded: str
    replayed: str


class Aftermath(msgspec.Struct):
    """What the core under test does with the events behind a divergence, as they were recorded.

    Of the steps that both runs composed, from the divergence on to the end of the segment or a
    limit, `num_steps_agreed` have the same digest. `first_effect` is the first effect behind the
    divergence that differs, digests aside; `state` is the first difference to the recorded
    snapshot, if the core came to the next one without such an effect.
    """

    num_events: int = 0
    num_steps: int = 0
    num_steps_agreed: int = 0
    first_effect: EffectDifference | None = None
    state: EffectDifference | None = None
    raised: str = ""


class InputLine(msgspec.Struct, frozen=True):
    """An event that reached the core."""

    seq: int
    offset: int
    text: str


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """`seq`, `segment` and `offset` are those of the record that differs, `input` is the event that
    was applied before it. `path` is the effect and the field in it.

    `components` names the parts of the state whose digests differ, if it is a digest. `step` is the
    one in which it happened, as far as the records tell; 0 for none. `last_step_agreed` is the last
    one whose digest came out as recorded; 0 if none did since the replay started.

    What follows `components` is there only if it was asked for: the replayed state of the differing
    components, the events since the last step that agreed (the first `num_inputs_omitted` are left
    out), the life of each request concerned, and what came after.
    """

    seq: int
    segment: str
    offset: int
    step: int
    last_step_agreed: int
    input_seq: int
    input: str
    path: str
    recorded: str
    replayed: str
    components: tuple[str, ...] = ()
    replayed_state: dict[str, dict[str, Any]] = {}
    inputs: list[InputLine] = []
    num_inputs_omitted: int = 0
    requests: list[History] = []
    aftermath: Aftermath | None = None


class Diverged(Exception):
    """Raised where the replay meets the difference, with the recorded and the replayed message in
    which it is, the event and what it caused. `is_at_start` tells that the message is the snapshot
    of a segment, from which the replay can go on."""

    def __init__(
        self,
        divergence: Divergence,
        messages: tuple[Any, ...],
        event: CoreEvent | None,
        effects: list[Effect],
        *,
        is_at_start: bool = False,
    ) -> None:
        super().__init__(divergence)
        self.divergence = divergence
        self.messages = messages
        self.event = event
        self.effects = effects
        self.is_at_start = is_at_start


def joined(subject: str, path: str) -> str:
    """`path` within `subject`, such as `StepScheduled.scheduled[2].num_tokens`."""
    dot = "." if path and not path.startswith("[") else ""
    return f"{subject}{dot}{path}"


def shown(value: Any) -> str:
    """As text, bounded: of a long list its start and its length."""
    text = value if isinstance(value, str) else _brief(value)
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def _brief(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        fields = (f"{name}={_brief(getattr(value, name))}" for name in value.__struct_fields__)
        return f"{type(value).__name__}({', '.join(fields)})"
    if type(value) in (list, tuple):
        items = [_brief(item) for item in value[:MAX_SHOWN_ITEMS]]
        if len(value) > MAX_SHOWN_ITEMS:
            items.append(f"... {len(value):,} in all")
        left, right = "[]" if isinstance(value, list) else "()"
        return f"{left}{', '.join(items)}{right}"
    return repr(value)


def snapshot_difference(recorded: bytes, replayed: bytes) -> Difference:
    try:
        values = msgspec.msgpack.decode(recorded), msgspec.msgpack.decode(replayed)
        found = first_difference(*values)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = None
    return found or Difference("", f"{len(recorded)} bytes", f"{len(replayed)} other bytes")
