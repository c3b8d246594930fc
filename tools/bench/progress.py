"""How far a load has come: tqdm's bar on a terminal, silence elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any

from tokenreel.tools.bench.client.load import Outcome

REDRAW_S = 0.2


class Progress:
    """Use as a context manager, and call it with each outcome."""

    def __init__(self, label: str, total: int, is_wanted: bool = True, unit: str = "req") -> None:
        self._bar: Any = None
        self._num_tokens = 0
        self._num_failed = 0
        self._began = self._told_at = monotonic()
        if is_wanted and sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # No thread of its own beside the load.
            self._bar = tqdm(
                total=total,
                desc=label,
                unit=unit,
                leave=False,
                dynamic_ncols=True,
                mininterval=REDRAW_S,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, outcome: Outcome) -> None:
        if self._bar is None:
            return
        self._num_tokens += outcome.num_output_tokens
        self._num_failed += outcome.failure is not None
        now = monotonic()
        if now - self._told_at >= REDRAW_S:
            self._told_at = now
            rate = self._num_tokens / (now - self._began)
            failed = f", {self._num_failed} failed" if self._num_failed else ""
            self._bar.set_postfix_str(f"{rate:,.0f} tok/s{failed}", refresh=False)
        self._bar.update()

    def advance(self) -> None:
        """For work that is no request."""
        if self._bar is not None:
            self._bar.update()


@contextmanager
def telling(what: str, is_wanted: bool = True) -> Iterator[None]:
    """For a wait of which nobody knows how long it is."""
    is_shown = is_wanted and sys.stderr.isatty()
    if is_shown:
        print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
