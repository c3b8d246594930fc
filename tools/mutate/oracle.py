"""Two cores in lock step over a journal's inputs: where do they first decide differently?

An oracle for `verify`, and nothing of it is used here: both cores are alive at once, effects are
compared as values and states as structures, not through bytes and digests.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from tokenreel.messages.codec import decode
from tokenreel.messages.journal import EFFECT, INPUT, META, SNAPSHOT, join_snapshot
from tokenreel.messages.journal_meta import decode_meta
from tokenreel.messages.steps import StepBegan, StepCompleted, StepDecided
from tokenreel.tools.mutate.state import difference, digested, everything, recorded
from tokenreel.tools.replay.reading.journal import Journal, read_records


class Sighting(NamedTuple):
    """`seq` is that of the record that shows it: an effect's, or the input's if more effects came
    than are recorded. `step` is the one in which it happened."""

    seq: int
    step: int
    what: str


class Findings(NamedTuple):
    """`decision`: the first effect that differs. `state`: the first step after which the state
    differs that its digest stands for, or the first snapshot that differs, if this is earlier.
    `hidden`: the first step after which anything of the state differs."""

    decision: Sighting | None
    state: Sighting | None
    hidden: Sighting | None

    @property
    def first(self) -> Sighting | None:
        """What the journal shows first."""
        sightings = [found for found in (self.decision, self.state) if found is not None]
        return min(sightings, default=None)


class Turn(NamedTuple):
    """A recorded input and the places of its recorded effects."""

    seq: int
    event: Any
    effect_seqs: list[int]


class SnapshotTaken(NamedTuple):
    seq: int
    snapshot: bytes


class LockStep:
    """The original and the mutant, each an `engine` module."""

    def __init__(self, original: ModuleType, mutant: ModuleType) -> None:
        self._modules = original, mutant
        self._step = 0
        self.seq = 0
        """Of the input that both were given last."""

    def findings(self, journal: Journal) -> Findings:
        state: Sighting | None = None
        hidden: Sighting | None = None
        configuration = _configuration(journal)
        one, other = [self._create(module, configuration) for module in self._modules]
        for entry in _entries(journal):
            if isinstance(entry, SnapshotTaken):
                if not self.seq:  # the journal starts here
                    one, other = [
                        self._restore(module, configuration, entry.snapshot)
                        for module in self._modules
                    ]
                elif state is None and (what := difference(recorded(one), recorded(other))):
                    state = Sighting(entry.seq, self._step, f"snapshot: {what}")
                continue
            effects, decision = self._apply(one, other, entry)
            if decision is not None:
                return Findings(decision, state, hidden)
            if not effects or not isinstance(effects[-1], StepDecided):
                continue
            seq = entry.effect_seqs[-1]
            if hidden is None and (what := difference(everything(one), everything(other))):
                hidden = Sighting(seq, self._step, what)
            if state is None and (what := difference(digested(one), digested(other))):
                state = Sighting(seq, self._step, f"state: {what}")
        return Findings(None, state, hidden)

    def _apply(self, one: Any, other: Any, turn: Turn) -> tuple[list[Any], Sighting | None]:
        self.seq = turn.seq
        if isinstance(turn.event, StepBegan | StepCompleted):
            self._step = turn.event.step_id
        expected = one.apply(turn.event)
        assert len(expected) == len(turn.effect_seqs), "the original no longer decides as recorded"
        try:
            found = other.apply(turn.event)
        except Exception as error:
            seq = turn.effect_seqs[0] if expected else turn.seq
            return expected, Sighting(seq, self._step, f"raises {type(error).__name__}")
        for seq, effect, instead in zip(turn.effect_seqs, expected, found, strict=False):
            if _decision(effect) != _decision(instead):
                return expected, Sighting(seq, self._step, _told(effect, instead))
        if len(found) > len(expected):
            surplus = type(found[len(expected)]).__name__
            return expected, Sighting(turn.seq, self._step, f"{surplus} too much")
        if len(found) < len(expected):
            seq, missing = turn.effect_seqs[len(found)], type(expected[len(found)]).__name__
            return expected, Sighting(seq, self._step, f"{missing} is missing")
        return expected, None

    def _create(self, module: ModuleType, configuration: Any) -> Any:
        return module.Engine(msgspec.convert(configuration, module.CoreConfig))

    def _restore(self, module: ModuleType, configuration: Any, snapshot: bytes) -> Any:
        return module.Engine.restore(msgspec.convert(configuration, module.CoreConfig), snapshot)


def _decision(effect: Any) -> Any:
    return msgspec.structs.replace(effect, digest=()) if isinstance(effect, StepDecided) else effect


def _told(effect: Any, instead: Any) -> str:
    name = type(effect).__name__
    if type(effect) is not type(instead):
        return f"{type(instead).__name__} for {name}"
    fields = [
        field
        for field in effect.__struct_fields__
        if field != "digest" and getattr(effect, field) != getattr(instead, field)
    ]
    return f"{name}.{', '.join(fields)}"


def _configuration(journal: Journal) -> Any:
    for _, _, records in read_records(journal):
        for record in records:
            if record.type == META:
                return decode_meta(record.payload).configuration
    raise AssertionError("a journal without META")


def _entries(journal: Journal) -> Iterator[Turn | SnapshotTaken]:
    turn: Turn | None = None
    parts: list[bytes] = []
    for _, _, records in read_records(journal):
        for record in records:
            if record.flags & EFFECT:
                assert turn is not None
                turn.effect_seqs.append(record.seq)
                continue
            if turn is not None:
                yield turn
                turn = None
            if record.flags & INPUT:
                turn = Turn(record.seq, decode(record.payload), [])
            elif record.type == SNAPSHOT:
                parts.append(record.payload)
                snapshot = join_snapshot(parts)
                if snapshot is not None:
                    parts = []
                    yield SnapshotTaken(record.seq, snapshot)
    if turn is not None:
        yield turn
