"""Where actors get the time from: passed in, so that a test or a simulator can replace it."""

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_ns(self) -> int:
        """Nanoseconds that never go backwards, from an arbitrary start."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, as the machine believes."""
        ...

    def thread_cpu_ns(self) -> int:
        """Nanoseconds for which a processor has worked for the thread that asks."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def thread_cpu_ns(self) -> int:
        return time.thread_time_ns()
