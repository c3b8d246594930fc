"""`engine-up` as a child: started on any free port, asked what it printed, stopped at the end."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenreel.tools.bench.processes.child_process import ChildProcess, Line, python_module
from tokenreel.tools.bench.processes.processor_time import processor_times_s

READY_TIMEOUT_S = 900.0
ENGINE_UP = "tokenreel.tools.up"
SUPERVISOR = "supervisor"
_ACTOR_LINE = re.compile(r"^  (\w+)\s+pid (\d+)\s+([\d.]+) s  ")
_ADDRESS_LINE = re.compile(r"^(.+) is ready at (http://\S+) ")


class Engine:
    """Use as a context manager. Its journals go to a directory that ends with it, unless `flags`
    say otherwise: a bench must not push out the journals that somebody wants to keep."""

    def __init__(
        self,
        model: Path | None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it; raises ChildFailed."""
        self._home = Path(tempfile.mkdtemp(prefix="engine-bench-"))
        own = ["--host", "127.0.0.1", "--port", "0"]
        if not {"--journal-dir", "--no-journal"} & {flag.partition("=")[0] for flag in flags}:
            own += ["--journal-dir", str(self._home)]
        what = [str(model)] if model is not None else []
        self.flags = list(flags)
        try:
            self._child = ChildProcess(
                "engine-up", python_module(ENGINE_UP, *what, *own, *flags), environment
            )
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._child.stop()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """Return its URL. Raises ChildFailed."""
        return self._child.wait_for(_url, timeout_s)

    @property
    def last_words(self) -> str | None:
        """None while it runs."""
        return self._child.last_words

    @property
    def model_name(self) -> str:
        """Once it is ready."""
        return next(m[1] for line in self._child.lines if (m := _ADDRESS_LINE.match(line.text)))

    @property
    def started_s(self) -> float:
        """`perf_counter` at the command."""
        return self._child.started_s

    @property
    def ready_s(self) -> float:
        """From the command to the line that says so."""
        lines = self._child.lines
        ready = next(line for line in lines if _ADDRESS_LINE.match(line.text))
        return ready.at_s - self._child.started_s

    @property
    def actors_ready_s(self) -> dict[str, float]:
        """From each actor's own start until it was ready, in the order in which they were."""
        return {m[1]: float(m[3]) for m in self._actor_lines()}

    def processor_times_s(self) -> dict[str, float]:
        """Of each actor so far, by name, and of the supervisor."""
        pids = dict(sorted((m[1], int(m[2])) for m in self._actor_lines()))
        return processor_times_s({**pids, SUPERVISOR: self._child.process.pid})

    def _actor_lines(self) -> list[re.Match[str]]:
        found = [_ACTOR_LINE.match(line.text) for line in self._child.lines]
        return [match for match in found if match]


def _url(lines: list[Line]) -> str | None:
    found = (_ADDRESS_LINE.match(line.text) for line in lines)
    return next((match[2] for match in found if match), None)
