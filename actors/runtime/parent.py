"""Leaving with the supervisor: however it ends, no child outlives it.

Two ways, because each has a hole. The kernel's death signal is lost if the supervisor is gone
before it is asked for; the pipe, whose other end only the supervisor holds, works even then, and
on systems without that signal.
"""

import ctypes
import os
import signal
import sys
import threading

ORPHAN_EXIT_CODE = 137
_PR_SET_PDEATHSIG = 1


def leave_with_parent(death_fd: int | None) -> None:
    """Call it before anything heavy is loaded. `death_fd` is the pipe's reading end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if death_fd is not None:
        # A thread, so that a process busy in a long computation leaves as well.
        threading.Thread(target=_leave_at_end_of, args=(death_fd,), daemon=True).start()


def _leave_at_end_of(death_fd: int) -> None:
    while os.read(death_fd, 1):
        pass
    os._exit(ORPHAN_EXIT_CODE)
