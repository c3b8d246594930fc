"""Follows a core behind the place where it diverged: does the state part, or only one effect?"""

from itertools import zip_longest
from typing import Any

import msgspec

from tokenreel.messages.codec import Effect
from tokenreel.messages.journal import AFTER_GAP, SNAPSHOT, JournalDamaged, join_snapshot
from tokenreel.messages.steps import StepBegan, StepCompleted, StepDecided
from tokenreel.tools.replay.core_code import Core
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.verify.difference import ABSENT, Difference, first_difference
from tokenreel.tools.replay.verify.divergence import (
    Aftermath,
    Diverged,
    EffectDifference,
    joined,
    shown,
    snapshot_difference,
)
from tokenreel.tools.replay.verify.subject import Subject, subjects_of

MAX_EVENTS = 20_000


class Follower:
    """Goes on with `core` from where it diverged, in segment `index`, to that segment's end or
    MAX_EVENTS further. `subjects` are the requests that the first further difference is about."""

    def __init__(self, core: Core, journal: Journal, index: int, diverged: Diverged) -> None:
        self.subjects: list[Subject] = []
        self._core = core
        self._journal = journal
        self._index = index
        self._diverged = diverged
        self._found = Aftermath()
        self._step = diverged.divergence.step

    def follow(self) -> Aftermath:
        try:
            self._follow()
        except JournalDamaged:
            pass  # whoever replays that far says so
        return self._found

    def _follow(self) -> None:
        segment = self._journal.segments[self._index]
        for recorded in recorded_events(self._journal._replace(segments=[segment])):
            if recorded.seq < self._diverged.divergence.input_seq:
                continue
            if recorded.seq == self._diverged.divergence.input_seq:
                effects = self._diverged.effects
            elif self._found.num_events == MAX_EVENTS:
                return
            else:
                self._found.num_events += 1
                if isinstance(recorded.event, StepBegan | StepCompleted):
                    self._step = recorded.event.step_id
                try:
                    effects = self._core.apply(recorded.event)
                except Exception as error:
                    self._found.raised = f"{type(error).__qualname__}: {error}"
                    return
            self._compare(recorded, effects)
        if self._found.first_effect is None:
            self._compare_snapshot()

    def _compare(self, recorded: RecordedEvent, effects: list[Effect]) -> None:
        pairs = list(zip_longest(recorded.effects, effects))
        for one, other in pairs:
            if isinstance(one, StepDecided) and isinstance(other, StepDecided):
                self._found.num_steps += 1
                self._found.num_steps_agreed += one.digest == other.digest
        is_behind = recorded.seq > self._diverged.divergence.input_seq
        if self._found.first_effect is None and (is_behind or self._diverged.divergence.components):
            for one, other in pairs:
                found = _difference(one, other)
                if found is not None:
                    self._note(recorded, one, other, found)
                    return

    def _note(self, recorded: RecordedEvent, one: Any, other: Any, found: Difference) -> None:
        path = joined(type(one if one is not None else other).__name__, found.path)
        self._found.first_effect = EffectDifference(
            recorded.seq,
            recorded.segment,
            recorded.offset,
            self._step,
            path,
            shown(found.recorded),
            shown(found.replayed),
        )
        self.subjects = subjects_of(path, (one, other), recorded.event)

    def _compare_snapshot(self) -> None:
        """The state at the segment's end is the one with which the next one starts."""
        if self._index + 1 == len(self._journal.segments):
            return
        segment = self._journal.segments[self._index + 1]
        if segment.header.flags & AFTER_GAP:
            return
        _, name, records = next(read_records(self._journal._replace(segments=[segment])))
        first = None
        parts: list[bytes] = []
        for record in records:
            if record.type == SNAPSHOT:
                first = first or record
                parts.append(record.payload)
            elif parts:
                break
        recorded = join_snapshot(parts)
        if recorded is None or first is None:
            return
        replayed = self._core.snapshot()
        if replayed == recorded:
            return
        found = snapshot_difference(recorded, replayed)
        self._found.state = EffectDifference(
            first.seq,
            name,
            first.offset,
            self._step,
            joined("snapshot", found.path),
            shown(found.recorded),
            shown(found.replayed),
        )
        both = msgspec.msgpack.decode(recorded), msgspec.msgpack.decode(replayed)
        self.subjects = subjects_of(self._found.state.path, both, None)


def _difference(recorded: Effect | None, replayed: Effect | None) -> Difference | None:
    """Digests aside: they are compared by themselves."""
    if recorded is None or replayed is None:
        one = ABSENT if recorded is None else recorded
        return Difference("", one, ABSENT if replayed is None else replayed)
    if isinstance(recorded, StepDecided) and isinstance(replayed, StepDecided):
        recorded = msgspec.structs.replace(recorded, digest=replayed.digest)
    return first_difference(recorded, replayed)
