"""Where the code that is asked decides otherwise than the recorded run did, and how.

The index knows the first such place of every segment; here the event is applied once more, to lay
what was recorded beside what comes out now.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import Effect
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.replica import DivergedAt
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.verify.difference import first_difference

MAX_SHOWN_CHARACTERS = 400


class Divergent(NamedTuple):
    """`engine` is the core that is asked, behind the event; None if it raised."""

    engine: Engine | None
    event: RecordedEvent
    effects: list[Effect]
    differences: list[str]


def divergences_of(index: Index) -> list[DivergedAt]:
    return [part.head.divergence for part in index.parts if part.head.divergence]


def divergent_steps(index: Index) -> npt.NDArray[np.int64]:
    """The ids of the steps at which they show: the step that was being composed, else the next."""
    steps = index.steps
    rows = np.searchsorted(steps.seq, [each.seq for each in divergences_of(index)])
    return steps.step_id[np.minimum(rows, len(steps) - 1)] if len(steps) else steps.step_id


def apply_again(index: Index, divergence: DivergedAt) -> Divergent:
    """The event at which the replay leaves the recording, recorded and applied now."""
    engine: Any = index.walk(divergence.seq).engine
    recorded = _recorded_at(index, divergence)
    try:
        effects = engine.apply(recorded.event)
    except Exception as error:
        told = f"the core raises {type(error).__name__}: {error}"
        return Divergent(None, recorded, [], [told])
    return Divergent(engine, recorded, effects, _differences(recorded.effects, effects))


def _recorded_at(index: Index, divergence: DivergedAt) -> RecordedEvent:
    journal = index.journal
    segments = [each for each in journal.segments if each.name == divergence.segment]
    for event in recorded_events(journal._replace(segments=segments)):
        if event.seq == divergence.seq:
            return event
    raise LookupError(f"no input with seq {divergence.seq} in {divergence.segment}")


def _differences(recorded: list[Effect], replayed: list[Effect]) -> list[str]:
    told = []
    if len(recorded) != len(replayed):
        told.append(f"{len(recorded)} effects are recorded, {len(replayed)} come out now")
    for then, now in zip(recorded, replayed, strict=False):
        if type(then) is not type(now):
            told.append(f"{type(then).__name__} is recorded, {type(now).__name__} comes out now")
            continue
        found = first_difference(then, now)
        if found is not None:
            dot = "." if found.path and not found.path.startswith("[") else ""
            told.append(
                f"{type(then).__name__}{dot}{found.path}: recorded {_shown(found.recorded)}, "
                f"now {_shown(found.replayed)}"
            )
    return told


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
