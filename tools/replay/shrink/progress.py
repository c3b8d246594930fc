"""How far a search has come, on stderr: requests left, tries, seconds."""

import sys
import time

TELL_EVERY_S = 0.2
TELL_LINES_EVERY_S = 10.0


class Progress:
    """One line on stderr: redrawn on a terminal, else repeated from time to time."""

    def __init__(self, num_requests: int) -> None:
        self._num_requests = num_requests
        self._began = self._told_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def update(self, num_requests: int, num_tries: int) -> None:
        now = time.monotonic()
        if now - self._told_at < (TELL_EVERY_S if self._is_terminal else TELL_LINES_EVERY_S):
            return
        self._told_at = now
        line = (
            f"shrinking: {num_requests:,} of {self._num_requests:,} requests left, "
            f"{num_tries:,} tries, {now - self._began:.0f} s"
        )
        told = f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n"
        print(told, end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
