"""How much processor time processes have had, to the nanosecond: their POSIX CPU-time clocks."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

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


def spent_s(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Of each process between two times; 0 of one that ended meanwhile, whose clock is gone."""
    return {role: max(0.0, after[role] - before.get(role, 0.0)) for role in after}


def busy_time_s() -> float:
    """Of all cores since the machine started, whoever kept them busy; what a hypervisor took away
    is in it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _clock_of(pid: int) -> int:
    """What clock_getcpuclockid(3) returns on Linux; Python offers it for threads alone."""
    return (~pid << 3) | _SCHEDULED
