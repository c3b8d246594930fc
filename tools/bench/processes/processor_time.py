"""How much processor time processes have had: Linux's /proc, all threads of each together."""

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processor_time_s(pid: int) -> float:
    """User and system time of a process so far; 0 of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # proc(5): utime and stime are the fields 14 and 15; the state, number 3, is the first here.
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def processor_times_s(pids: Mapping[str, int]) -> dict[str, float]:
    return {role: processor_time_s(pid) for role, pid in pids.items()}
