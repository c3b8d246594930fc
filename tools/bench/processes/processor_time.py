"""How much processor time processes have had, to the nanosecond: their POSIX CPU-time clocks."""

import time
from collections.abc import Mapping

_SCHEDULED = 2
"""Of the kernel's three CPU-time clocks the one that counts what the scheduler gave, exactly;
/proc/PID/stat counts in hundredths of a second."""


def processor_time_s(pid: int) -> float:
    """User and system time so far of a process, all its threads together, also those that have
    ended; 0 of one that is gone."""
    try:
        return time.clock_gettime(_clock_of(pid))
    except OSError:
        return 0.0


def processor_times_s(pids: Mapping[str, int]) -> dict[str, float]:
    return {role: processor_time_s(pid) for role, pid in pids.items()}


def _clock_of(pid: int) -> int:
    """What clock_getcpuclockid(3) returns on Linux; Python offers it for threads alone."""
    return (~pid << 3) | _SCHEDULED
