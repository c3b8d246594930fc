"""Which entries of a journal are wanted, and which part of them: what concerns one request."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import SeqId
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
    StopStringMatched,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
)
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.reading.entries import Entry, Mark
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import RequestName
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.show.text import MARK_TYPES, TYPES, type_of

StepRange = tuple[int, int]


class Filter(NamedTuple):
    """What must hold of an entry to be shown; None asks nothing."""

    request: RequestName | None = None
    steps: list[StepRange] | None = None
    types: frozenset[str] | None = None

    def narrow(self, entry: Entry, roster: Roster) -> Entry | None:
        """The entry, or its part about the request; None if it is not wanted."""
        if self.steps is not None and not self._has_step(entry):
            return None
        if self.request is not None:
            if isinstance(entry, Mark):
                return entry if type_of(entry) == "failed" else None
            about = _about(entry, self.request, roster)
            if about is None:
                return None
            entry = about
        if self.types is not None and not self._has_type(entry):
            return None
        return entry

    def _has_step(self, entry: Entry) -> bool:
        step = step_of(entry)
        assert self.steps is not None
        return step is not None and any(first <= step <= last for first, last in self.steps)

    def _has_type(self, entry: Entry) -> bool:
        assert self.types is not None
        if isinstance(entry, Mark):
            return type_of(entry) in self.types
        return type_of(entry.event) in self.types or any(
            type_of(effect) in self.types for effect in entry.effects
        )


def step_of(entry: Entry) -> int | None:
    """The step that an entry belongs to, if to any."""
    if isinstance(entry, RecordedEvent) and isinstance(entry.event, StepBegan | StepCompleted):
        return entry.event.step_id
    return None


def parse_steps(text: str) -> list[StepRange]:
    """`7`, `120-188`, `120-`, and several of them with commas between. Raises UsageError."""
    ranges: list[StepRange] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise UsageError(f"--step {text!r}: say a step such as 7, or a range such as 120-188")
        end = int(last) if last else (1 << 63 if dash else int(first))
        if end < int(first):
            raise UsageError(f"--step {text!r}: the range {part} ends before it begins")
        ranges.append((int(first), end))
    return ranges


def parse_types(text: str) -> frozenset[str]:
    """Short names and names of messages, in any case, with commas between. Raises UsageError."""
    known = {name.lower(): short for name, short in TYPES.items()}
    known |= {short: short for short in [*TYPES.values(), *MARK_TYPES.values()]}
    wanted = [word.strip().lower() for word in text.split(",")]
    for word in wanted:
        if word not in known:
            raise UsageError(f"--type {word!r} is none of {', '.join(sorted(set(known.values())))}")
    return frozenset(known[word] for word in wanted)


def _about(entry: RecordedEvent, name: RequestName, roster: Roster) -> RecordedEvent | None:
    """The part of an event and of its effects that concerns the request; None if none does."""
    seq_ids = roster.seq_ids_of(name)
    key = name.key
    if key is None and (member := roster.members.get(seq_ids[0])) is not None:
        key = member.key
    is_it: Callable[[SeqId], bool] = frozenset(seq_ids).__contains__
    effects = [part for e in entry.effects if (part := _part_of(e, is_it, key)) is not None]
    event = entry.event
    match event:
        case AdmitRequest() | AbortRequest():
            is_named = event.key == key
        case StopStringMatched(seq_id=seq_id):
            is_named = is_it(seq_id)
        case OutputDelivered(seq_ids=delivered):
            event = OutputDelivered(tuple(seq_id for seq_id in delivered if is_it(seq_id)))
            is_named = bool(event.seq_ids)
        case StepCompleted():
            event = msgspec.structs.replace(
                event,
                outputs=[output for output in event.outputs if is_it(output.seq_id)],
                failures=[failure for failure in event.failures if is_it(failure.seq_id)],
            )
            is_named = bool(event.outputs or event.failures)
        case _:
            is_named = False
    if not is_named and not effects:
        return None
    return entry._replace(event=event, effects=effects)


def _part_of(effect: Effect, is_it: Callable[[SeqId], bool], key: object) -> Effect | None:
    match effect:
        case RequestAdmitted() | RequestRejected() | RequestFinished():
            return effect if effect.key == key else None
        case StepScheduled():
            scheduled = [share for share in effect.scheduled if is_it(share.seq_id)]
            added = [one for one in effect.added if is_it(one.seq_id)]
            if not scheduled:
                return None
            return StepScheduled(effect.step_id, added, effect.removed_rows, scheduled)
        case StepDecided(seq_id=seq_id) | SequenceFinished(seq_id=seq_id):
            return effect if is_it(seq_id) else None
        case SequencePreempted():
            return effect if is_it(effect.seq_id) or is_it(effect.for_seq_id) else None
        case TokensEmitted():
            tokens = [one for one in effect.sequences if is_it(one.seq_id)]
            return TokensEmitted(tokens) if tokens else None
