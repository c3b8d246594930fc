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

    def at(self, t_ns: int) -> int:
        return t_ns - self._base_ns if self._keeps_timing else self._beat_ns

    def tick(self) -> None:
        """An event comes."""
        self._beat_ns += EVENT_NS
