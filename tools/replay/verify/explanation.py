"""What a person needs to know beside the place of a divergence: the state, the events since the
last agreement, the life of the request concerned."""

from collections import deque

import msgspec

from tokenreel.messages.codec import Message, decode
from tokenreel.messages.journal import INPUT, JournalDamaged, Record
from tokenreel.messages.outputs import SequenceFinished
from tokenreel.messages.steps import SequencePreempted, StepDecided
from tokenreel.tools.replay.core_code import Core
from tokenreel.tools.replay.reading.journal import Journal, read_records
from tokenreel.tools.replay.verify.aftermath import Follower
from tokenreel.tools.replay.verify.component_state import states_of
from tokenreel.tools.replay.verify.divergence import Diverged, Divergence, InputLine, shown
from tokenreel.tools.replay.verify.history import History, history_of
from tokenreel.tools.replay.verify.subject import Subject, named_by, subjects_of

MAX_INPUTS = 50
MAX_REQUESTS = 2

_STEP_DECIDED = StepDecided.__struct_config__.tag
_TELLING = {message.__struct_config__.tag for message in (SequencePreempted, SequenceFinished)}
"""Effects that say whose state changed."""


def explain(diverged: Diverged, core: Core | None, journal: Journal, index: int) -> Divergence:
    """The divergence, which happened in segment `index`, with all of that. `core` is worth nothing
    afterwards: it is asked what it does with the events behind the divergence."""
    divergence = diverged.divergence
    is_digest = bool(divergence.components)
    state = _state(core, divergence.components)
    subjects = subjects_of(divergence.path, diverged.messages, diverged.event)
    inputs: list[InputLine] = []
    num_omitted = 0
    if is_digest:  # says nothing about whose state it is
        inputs, num_omitted, subjects = _since_agreement(journal, index, divergence)
    aftermath = None
    if core is not None and not diverged.is_at_start:
        follower = Follower(core, journal, index, diverged)
        aftermath = follower.follow()
        if is_digest:
            subjects = subjects or follower.subjects
    return msgspec.structs.replace(
        divergence,
        replayed_state=state,
        inputs=inputs,
        num_inputs_omitted=num_omitted,
        requests=_histories(journal, index, divergence.seq, subjects[:MAX_REQUESTS]),
        aftermath=aftermath,
    )


def _state(core: Core | None, components: tuple[str, ...]) -> dict[str, dict[str, object]]:
    if core is None or not components:
        return {}
    try:
        return states_of(core.snapshot(), components)
    except Exception:  # the core under test may be at fault here too
        return {}


def _since_agreement(
    journal: Journal, index: int, divergence: Divergence
) -> tuple[list[InputLine], int, list[Subject]]:
    """The events since the last step whose digest agreed, within the segment; how many of them are
    left out; and the requests that they or their effects name, if these are few."""
    segment = journal.segments[index]
    _, _, records = next(read_records(journal._replace(segments=[segment])))
    kept: deque[Record] = deque(maxlen=MAX_INPUTS)
    telling: deque[Record] = deque(maxlen=MAX_INPUTS)
    num_inputs = 0
    for record in records:
        if record.seq >= divergence.seq:
            break
        if record.type == _STEP_DECIDED:
            kept.clear()
            telling.clear()
            num_inputs = 0
        elif record.flags & INPUT:
            kept.append(record)
            num_inputs += 1
        elif record.type in _TELLING:
            telling.append(record)
    lines = [InputLine(record.seq, record.offset, shown(_event(record))) for record in kept]
    named: dict[Subject, None] = {}
    for record in (*kept, *telling):
        named.update(dict.fromkeys(named_by(_event(record))))
    return lines, num_inputs - len(kept), list(named) if len(named) <= MAX_REQUESTS else []


def _event(record: Record) -> Message:
    return decode(record.payload)  # it was replayed: it decodes


def _histories(
    journal: Journal, index: int, until_seq: int, subjects: list[Subject]
) -> list[History]:
    found: list[History] = []
    for subject in subjects:
        if any(subject.seq_id in history.seq_ids for history in found):
            continue
        try:
            history = history_of(journal, index, until_seq, key=subject.key, seq_id=subject.seq_id)
        except JournalDamaged:  # in a segment before those that were replayed
            continue
        if history is not None:
            found.append(history)
    return found
