"""What the supervisor prints: its own lines, and those of the actors with their role in front."""

import contextlib
import sys
from typing import TextIO

MAX_LINE_BYTES = 8192
"""A longer line of an actor is printed in pieces."""


class Console:
    """A terminal that has gone away is no reason to stop serving: nothing here raises OSError."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr

    def say(self, line: str) -> None:
        self._print(line, self._out)

    def complain(self, line: str) -> None:
        self._print(f"engine-up: {line}", self._err)

    def relay(self, role: str, line: str) -> None:
        self._print(f"{role:<15} | {line}", self._err)

    def _print(self, line: str, stream: TextIO) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)


class LineSplitter:
    """Bytes in, whole lines out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest[:MAX_LINE_BYTES])
            self._rest = self._rest[MAX_LINE_BYTES:]
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def finish(self) -> list[str]:
        return self.feed(b"\n") if self._rest else []
