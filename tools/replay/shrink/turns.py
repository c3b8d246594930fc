"""Where in a run something happened, in turns of a scenario: how many steps had completed, and
whether another was under way."""

from bisect import bisect_left, bisect_right

from tokenreel.messages.steps import StepCompleted, StepScheduled
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import Journal

TURNS_PER_STEP = 2
"""One before the next step is composed, one while steps are under way. With one turn to a step the
two are one."""


class TurnClock:
    """Turn 2k lies behind the k-th completed step, before a further one is composed; turn 2k + 1
    lasts from there to the next completion."""

    def __init__(self, journal: Journal) -> None:
        self._completed_ns: list[int] = []
        self._scheduled_ns: list[int] = []
        for record in recorded_events(journal):
            if isinstance(record.event, StepCompleted):
                self._completed_ns.append(record.t_ns)
            elif any(isinstance(effect, StepScheduled) for effect in record.effects):
                self._scheduled_ns.append(record.t_ns)

    @property
    def num_completed(self) -> int:
        return len(self._completed_ns)

    def turn_at(self, t_ns: int) -> int:
        """Of what reached the core at this time."""
        num_completed = bisect_left(self._completed_ns, t_ns)
        since = self._completed_ns[num_completed - 1] if num_completed else -1
        num_scheduled = bisect_left(self._scheduled_ns, t_ns)
        is_under_way = num_scheduled > 0 and self._scheduled_ns[num_scheduled - 1] > since
        return TURNS_PER_STEP * num_completed + is_under_way

    def turn_after(self, t_ns: int) -> int:
        """The first turn behind the step that had completed by then."""
        return TURNS_PER_STEP * bisect_right(self._completed_ns, t_ns)
