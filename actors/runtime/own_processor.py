"""A processor of its own for a worker that computes by one thread, apart from the engine core.

At the rate of a small model's steps worker and core take turns. Where the system lets both run on
one processor each of them finds its caches full of the other's work, and a step waits until the
core has had its turn: a sixth of one stream's speed. Everybody else may run anywhere.
"""

import contextlib
import os
import socket
from pathlib import Path

CLAIM = "tokenreel/processor"


class OwnProcessor:
    """Held until it is closed, or this process ends; one holder per machine.

    The claim is a socket's name in Linux's abstract namespace: it leaves no file behind.
    """

    def __init__(self, number: int, others: set[int], claim: socket.socket) -> None:
        self.number = number
        self._others = others
        self._claim = claim

    @classmethod
    def claim(cls) -> "OwnProcessor | None":
        """None if this process may use but one, if none is free, or if the system has no way to
        keep threads on processors."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        allowed = os.sched_getaffinity(0)
        # One is left to the others; the first ones have most of the system's own work.
        for number in sorted(allowed, reverse=True)[:-1]:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0{CLAIM}/{number}")
            except OSError:
                claim.close()
                continue
            return cls(number, allowed - {number}, claim)
        return None

    def give_to(self, pid: int) -> None:
        """To the first thread of a process; its others, which carry its messages, keep off."""
        self.keep_off(pid)
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, {self.number})

    def keep_off(self, pid: int) -> None:
        """All threads of a process. One that has ended meanwhile is none."""
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), self._others)

    def close(self) -> None:
        self._claim.close()
