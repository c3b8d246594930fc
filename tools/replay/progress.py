"""How far a long piece of work has come, told on stderr: a bar on a terminal, else a few lines."""

import sys
import time
from typing import TextIO

BAR_WIDTH = 30
SILENT_S = 0.5
"""What takes no longer is not worth a line."""
REDRAW_S = 0.1
LINE_EVERY_S = 10.0


class Progress:
    """Of work that is measured in bytes, of which `total` lie ahead."""

    def __init__(
        self, label: str, total: int = 0, enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        self.total = total
        self._label = label
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._is_terminal = self._stream.isatty()
        self._done = 0
        self._began = time.monotonic()
        self._told_at = self._began
        self._has_told = False

    def advance(self, num_bytes: int) -> None:
        """A piece of the work is done."""
        self._done += num_bytes

    def update(self, num_bytes: int) -> None:
        """Of the piece that is being worked on, so much is done."""
        if not self._enabled:
            return
        now = time.monotonic()
        if now - self._told_at >= (REDRAW_S if self._is_terminal else LINE_EVERY_S):
            if now - self._began >= SILENT_S:
                self._told_at, self._has_told = now, True
                self._tell(self._done + num_bytes, now - self._began)

    def finish(self) -> None:
        """Takes the bar away."""
        if self._enabled and self._has_told and self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _tell(self, done: int, elapsed: float) -> None:
        share = min(1.0, done / max(1, self.total))
        left = elapsed * (1 - share) / share if share else 0
        numbers = f"{share:4.0%} of {self.total / 1e6:,.0f} MB, {left:,.0f} s left"
        if self._is_terminal:
            filled = round(share * BAR_WIDTH)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            self._stream.write(f"\r{self._label} {bar} {numbers}\x1b[K")
        else:
            self._stream.write(f"{self._label} {numbers}\n")
        self._stream.flush()
