"""States at steps, without replaying the same stretch twice: walks that stand where somebody looked
last, and the states that were shown."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tokenreel.messages.steps import StepBegan, StepScheduled
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.replica import ReplayDiverged
from tokenreel.tools.replay.index.walk import Walk
from tokenreel.tools.replay.reading.events import RecordedEvent

MAX_STATES = 512
MAX_WALKS = 4
"""Each holds an engine."""
MAX_STEPS_AHEAD = 300
"""A walk goes on so far by itself; beyond, a snapshot of the index is nearer."""
STEPS_BEHIND = 32
"""Whoever goes back step by step finds so many states made in one go."""

Render = Callable[[Any, RecordedEvent], bytes]


class Lost(Exception):
    """The code that is asked has left the recorded run before this step."""


class StepCache:
    def __init__(self, index: Index, render: Render) -> None:
        """`render(engine, event)` makes what is kept of the state behind `event`."""
        self._index = index
        self._render = render
        self._states: OrderedDict[int, bytes] = OrderedDict()
        self._walks: list[tuple[int, Walk]] = []
        """With the row of the step that each has composed last; the latest used comes last."""

    def renew(self, index: Index) -> None:
        """The journal has grown. What was shown stays true; the walks know of the old end."""
        self._index = index
        self._walks.clear()

    def state(self, row: int) -> bytes:
        """At the `row`-th step of the journal. Raises Lost."""
        step_id = int(self._index.steps.step_id[row])
        found = self._states.get(step_id)
        if found is None:
            self._make(row)
            found = self._states.get(step_id)
        if found is None:
            raise Lost
        self._states.move_to_end(step_id)
        return found

    def _make(self, row: int) -> None:
        steps = self._index.steps
        first = row
        walk = self._walk_before(row)
        if walk is None:
            if row + 1 < len(steps) and int(steps.step_id[row + 1]) in self._states:
                first = max(0, row - STEPS_BEHIND)
            try:
                walk = self._index.walk(int(steps.seq[first]))
            except ReplayDiverged:
                raise Lost from None
        self._go(walk, int(steps.step_id[first]), int(steps.step_id[row]), int(steps.seq[row]))
        self._walks.append((row, walk))
        del self._walks[:-MAX_WALKS]

    def _walk_before(self, row: int) -> Walk | None:
        near = [each for each in self._walks if 0 < row - each[0] <= MAX_STEPS_AHEAD]
        if not near:
            return None
        nearest = max(near, key=lambda each: each[0])
        self._walks.remove(nearest)
        return nearest[1]

    def _go(self, walk: Walk, first: int, last: int, last_seq: int) -> None:
        """Keeps the states of steps `first` to `last`. `last_seq` is where the last one is: a walk
        that has lost the recorded run goes past it."""
        for event in walk:
            if isinstance(event.event, StepBegan) and first <= event.event.step_id <= last:
                if any(isinstance(effect, StepScheduled) for effect in event.effects):
                    self._keep(event.event.step_id, self._render(walk.engine, event))
            if event.seq >= last_seq:
                return

    def _keep(self, step_id: int, state: bytes) -> None:
        self._states[step_id] = state
        if len(self._states) > MAX_STATES:
            self._states.popitem(last=False)
