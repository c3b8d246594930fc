"""A program that is measured: started, heard line by line, interrupted when done."""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, perf_counter
from typing import NamedTuple, TypeVar

from tokenreel.tools.bench.problem import Unavailable

STOP_TIMEOUT_S = 45.0
"""Longer than engine-up needs to drain what may be in flight."""
MAX_LINES = 10_000
"""That are kept of what it prints; of later ones the last few."""
TAIL_LINES = 15
TAIL_TIMEOUT_S = 1.0
"""For what it said last to arrive; a grandchild may keep the pipe open."""
_INTERRUPTED_AT_END_OF_PARENT = """\
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Said by the child itself: what runs between fork and exec may hang a process with threads."""
FoundT = TypeVar("FoundT")


class ChildFailed(Unavailable):
    """It ended, or did not say in time what it should; with the end of what it printed."""


class Line(NamedTuple):
    at_s: float
    """`perf_counter` when it was read."""
    text: str


def python_module(module: str, *arguments: str) -> list[str]:
    """`python -m module`, of the installation that this process runs in; it is interrupted when
    this process ends, however that ends."""
    return [sys.executable, "-P", "-c", _INTERRUPTED_AT_END_OF_PARENT, module, *arguments]


class ChildProcess:
    """Use as a context manager: it ends with the block.

    It is in a session of its own, so that a terminal's Ctrl-C reaches it only through `stop`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it. Raises ChildFailed if there is no such program."""
        self.name = name
        self.lines: list[Line] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._changed = threading.Condition()
        self._is_silent = False
        self.started_s = perf_counter()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise ChildFailed(f"{command[0]} cannot be started: {error.strerror}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, find: Callable[[list[Line]], FoundT | None], timeout_s: float) -> FoundT:
        """What `find` makes of the lines, as soon as it is not None. Raises ChildFailed."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while True:
                found = find(self.lines)
                if found is not None:
                    return found
                if self._is_silent:
                    raise ChildFailed(self._say("ended"))
                if not self._changed.wait(max(0.0, deadline - monotonic())):
                    raise ChildFailed(self._say(f"was not ready after {timeout_s:g} s"))

    @property
    def last_words(self) -> str | None:
        """What it said before it ended by itself; None while it runs."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self._reader.join(TAIL_TIMEOUT_S)
        return self._say(f"ended with exit code {exit_code}")

    def stop(self) -> int:
        """Interrupt it, kill it if it does not leave; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        exit_code = self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)
        # A grandchild may keep the pipe open; closing it would wait for who is reading it.
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        return exit_code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            with self._changed:
                line = Line(perf_counter(), text.rstrip("\n"))
                self._tail.append(line.text)
                if len(self.lines) < MAX_LINES:
                    self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._is_silent = True
            self._changed.notify_all()

    def _say(self, what: str) -> str:
        return "\n".join([f"{self.name} {what}", *(f"  | {text}" for text in list(self._tail))])
