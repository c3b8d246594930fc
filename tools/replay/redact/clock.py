"""The times of a redacted journal: how long everything took, but not when it was."""

from tokenreel.tools.replay.reading.writing import EVENT_NS

DAY_NS = 86_400 * 1_000_000_000


class RedactedClock:
    """Times relative to `base_ns`, which is when the journal's first segment began; an even beat
    instead if not `keeps_timing`."""

    def __init__(self, base_ns: int, wall_ns: int, *, keeps_timing: bool, keeps_day: bool) -> None:
        self.wall_ns = wall_ns - wall_ns % DAY_NS if keeps_day else 0
        self._base_ns = base_ns
        self._keeps_timing = keeps_timing
        self._beat_ns = 0
        self._now_ns = base_ns

    def tick(self, t_ns: int) -> None:
        """An event comes, which was recorded at `t_ns`."""
        self._beat_ns += EVENT_NS
        self._now_ns = t_ns

    def at(self, t_ns: int) -> int:
        return t_ns - self._base_ns if self._keeps_timing else self._beat_ns

    def at_worker(self, began_ns: int, ended_ns: int) -> tuple[int, int]:
        """Of a step that is completed now. By a clock that cannot be the core's it began at 0, and
        took as long, if it can have: what lies between two clocks tells when a machine started."""
        if self._keeps_timing and not self._base_ns <= began_ns <= ended_ns <= self._now_ns:
            return 0, max(0, min(ended_ns - began_ns, self._now_ns - self._base_ns))
        return self.at(began_ns), self.at(ended_ns)
