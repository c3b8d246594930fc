"""The scheduler's whole state at one step of a journal, found by replay. Formats nothing."""

from typing import NamedTuple

import msgspec

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Sequence, Status
from tokenreel.actors.core.snapshot import Snapshot, take
from tokenreel.messages.ids import BlockId, RequestKey, SeqId, StepId
from tokenreel.messages.steps import SequencePreempted, StepDecided, StepScheduled
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.rows import Step
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import RequestName, show_key
from tokenreel.tools.replay.why.watch import PassedOver, Watch

_decoder = msgspec.msgpack.Decoder(Snapshot)


class StepState(NamedTuple):
    """`row` and `event` tell the step, `snapshot` the state: just behind the event that composed
    it, or just before it if `is_before`. `passed_over` says for whoever is not in the step why."""

    row: Step
    event: RecordedEvent
    snapshot: Snapshot
    is_before: bool
    passed_over: dict[SeqId, PassedOver]

    @property
    def scheduled(self) -> StepScheduled:
        return next(e for e in self.event.effects if isinstance(e, StepScheduled))

    @property
    def decided(self) -> StepDecided:
        return next(e for e in self.event.effects if isinstance(e, StepDecided))

    @property
    def preempted(self) -> list[SequencePreempted]:
        return [e for e in self.event.effects if isinstance(e, SequencePreempted)]

    def queue(self, status: Status) -> list[Sequence]:
        """The sequences that are there, in the order in which they are served."""
        found = [each for each in self.snapshot.sequences if each.status is status]
        return sorted(found, key=lambda sequence: sequence.order)

    def holders(self) -> dict[BlockId, list[SeqId]]:
        """Whose block table names a block, by block."""
        found: dict[BlockId, list[SeqId]] = {}
        for sequence in self.snapshot.sequences:
            for block in sequence.block_table:
                found.setdefault(block, []).append(sequence.seq_id)
        return found

    def names(self) -> dict[SeqId, str]:
        """Sequences as people name them: their request's key, and which of several it is."""
        named = {}
        for sequence in self.snapshot.sequences:
            named[sequence.seq_id] = show_key(sequence.key)
        for request in self.snapshot.requests:
            if len(request.seq_ids) > 1:
                for index, seq_id in enumerate(request.seq_ids):
                    named[seq_id] = f"{show_key(request.key)}#{index}"
        return named


def state_at(index: Index, step_id: int, is_before: bool = False) -> StepState:
    """Raises UsageError, which names the steps there are, and ReplayDiverged."""
    try:
        row = index.step(step_id)
    except LookupError as error:
        raise UsageError(str(error.args[0])) from None
    walk = index.walk(row.seq)
    engine = walk.engine
    before = _decoder.decode(engine.snapshot()) if is_before else None
    if not isinstance(engine, Engine):  # a core that nobody here can look into
        event = walk.advance_past(row.seq)
        after = _decoder.decode(engine.snapshot())
        return StepState(row, event, before or after, is_before, {})
    watch = Watch()
    watch.attach(engine)
    event = walk.advance_past(row.seq)
    passed_over = {}
    for seq_id in engine.sequences:
        found = watch.passed_over(seq_id, StepId(row.step_id))
        if found is not None:
            passed_over[seq_id] = found
    return StepState(row, event, before or take(engine), is_before, passed_over)


def sequences_of(state: StepState, name: RequestName) -> list[Sequence]:
    """Raises UsageError if the core does not hold the request at this step."""
    key: RequestKey | None = name.key
    found = [
        sequence
        for sequence in state.snapshot.sequences
        if sequence.key == key or sequence.seq_id == name.seq_id
    ]
    if not found:
        when = "before" if state.is_before else "at"
        raise UsageError(f"the core does not hold {name} {when} step {state.row.step_id}")
    return found
