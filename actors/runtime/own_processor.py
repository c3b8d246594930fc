"""A processor of its own for a worker that computes by one thread, apart from the engine core.

At the rate of a small model's steps worker and core take turns. Where the system lets both run on
one processor each of them finds its caches full of the other's work, and a step waits until the
core has had its turn: a sixth of one stream's speed. Everybody else may run anywhere.
"""

import contextlib
import os
import socket
from pathlib import Path

from tokenreel.actors.runtime.processors import siblings_of

CLAIM = "tokenreel/processor"


class OwnProcessor:
    """Held until it is closed, or this process ends.

    The claim is a socket's name in Linux's abstract namespace: it leaves no file behind, and is
    seen by whoever shares the network namespace, so not from one container to another.
    """

    def __init__(self, number: int, others: set[int], claim: socket.socket) -> None:
        self.number = number
        self._others = others
        self._claim = claim

    @classmethod
    def claim(cls, pid: int) -> "OwnProcessor | None":
        """For that process. None if this one may use but one, if none is free, or if the system has
        no way to keep threads on processors. Raises OSError."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        allowed = os.sched_getaffinity(0)
        for number in _in_order_of_choice(allowed, pid):
            with contextlib.ExitStack() as undone:
                claim = undone.enter_context(socket.socket(socket.AF_UNIX))
                with contextlib.suppress(OSError):
                    claim.bind(f"\0{CLAIM}/{number}")
                    undone.pop_all()
                    others = allowed - siblings_of(number) or allowed - {number}
                    return cls(number, others, claim)
        return None

    def separate(self, worker_pid: int, core_pid: int) -> bool:
        """Ties the worker's first thread to it, and its other threads, which carry its messages,
        and the core's to others. False if the system does not let it: then they run anywhere."""
        try:
            os.sched_setaffinity(worker_pid, {self.number})
            for thread in _threads_of(worker_pid) - {worker_pid} | _threads_of(core_pid):
                with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
                    os.sched_setaffinity(thread, self._others)
        except OSError:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(worker_pid, self._others | {self.number})
            return False
        return True

    def close(self) -> None:
        self._claim.close()


def _threads_of(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}


def _in_order_of_choice(allowed: set[int], pid: int) -> list[int]:
    """Where the process has just run first: the system has put it there, and its memory is near.
    The lowest, which has most of the system's own work, is left to the others."""
    last, highest_first = _last_processor(pid), sorted(allowed, reverse=True)[:-1]
    return sorted(highest_first, key=lambda number: number != last)


def _last_processor(pid: int) -> int:
    """See proc_pid_stat(5), field 39; the second one, a name, may hold anything."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[36])
