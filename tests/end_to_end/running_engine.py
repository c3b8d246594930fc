"""One `engine-up` process as a user starts it, and what can be seen of it from outside."""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import httpx
import openai

from tokenreel.actors.runtime.topology import ENTRY_MODULES

PATIENCE_S = 60.0
"""The bound of every wait. Nothing takes that long; a test that meets it has failed."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
SMALL_ACTORS = ("frontend", "input_processor", "engine_core", "detokenizer")
"""All but the worker, which alone may load torch."""
_READY_LINE = re.compile(r"^  (\w+)\s+pid (\d+)\s")
_ADDRESS_LINE = re.compile(r"^(\S+) is ready at (http://\S+) ")


class RunningEngine:
    """Use as a context manager: nothing of it is left behind, whatever the test did.

    It has a temporary directory and a journal directory of its own.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        # The names of Unix sockets are short: pytest's own directories may be too long.
        self.home = Path(tempfile.mkdtemp(prefix="e2e-"))
        self.temporary = self.home / "tmp"
        self.temporary.mkdir()
        self.journal_dir = self.home / "journals"
        self.lines: list[str] = []
        """What it printed, on both streams, in the order of arrival."""
        self._changed = threading.Condition()
        self._num_open_streams = 2
        outside = {k: v for k, v in os.environ.items() if k != "TOKENREEL_API_KEY"}
        self.process = subprocess.Popen(
            [
                str(SCRIPTS / "engine-up"),
                *("--host", "127.0.0.1", "--port", "0", "--device", "cpu"),
                *("--journal-dir", str(self.journal_dir)),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            process_group=0,
            env={**outside, "TMPDIR": str(self.temporary), **(environment or {})},
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream,))
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "RunningEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # Its children leave with it, also those that are frozen.
        for pid in self.pids.values():
            _kill_if_there(pid, self.temporary)
        self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self.home)

    # What it says.

    def wait_until_ready(self) -> "RunningEngine":
        self.wait_for_line(" is ready at http://")
        self.wait_for_health(200)
        return self

    def wait_for_health(self, status: int) -> None:
        """Ask until it answers so; for the moment between a line and what it tells of."""
        deadline = time.monotonic() + PATIENCE_S
        with self.http() as http:
            while (answer := http.get("/health")).status_code != status:
                assert time.monotonic() < deadline, f"/health is {answer.status_code} for ever"

    def wait_for_line(self, part: str) -> str:
        """The first line with `part` in it. Fails when the engine ends without one."""
        found = self._wait(lambda: next((line for line in self.lines if part in line), None))
        assert found is not None, f"no line with {part!r}:\n{self.output}"
        return found

    def wait_for_exit(self) -> int:
        exit_code = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return exit_code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def complaints(self) -> list[str]:
        """The supervisor's own lines on standard error."""
        return [line for line in self.lines if line.startswith("engine-up: ")]

    # Where it is.

    @property
    def url(self) -> str:
        return self._address()[1]

    @property
    def model(self) -> str:
        return self._address()[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pids(self) -> dict[str, int]:
        """Of the actors, by role; those that are ready."""
        matches = [_READY_LINE.match(line) for line in self.lines]
        return {match[1]: int(match[2]) for match in matches if match}

    @property
    def run_dir(self) -> Path:
        """Where its sockets lie."""
        (path,) = self.temporary.glob("tokenreel-*")
        return path

    @property
    def journal(self) -> Path:
        (path,) = self.journal_dir.iterdir()
        return path

    # How one talks to it.

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=PATIENCE_S
        )

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
        )

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    # What one does to it.

    def signal(self, number: signal.Signals) -> None:
        """SIGINT as a terminal sends it, to the whole foreground group; others as `kill` does."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def freeze(self, role: str) -> None:
        """It goes no further until `thaw`: whatever is asked of the engine stays open."""
        os.kill(self._pid_of(role), signal.SIGSTOP)

    def thaw(self, role: str) -> None:
        os.kill(self._pid_of(role), signal.SIGCONT)

    def kill(self, role: str) -> None:
        os.kill(self.pids[role], signal.SIGKILL)

    def stop(self) -> None:
        """As Ctrl-C does. Fails unless it leaves as it should."""
        self.signal(signal.SIGINT)
        assert self.wait_for_exit() == 0, self.output

    def kill_everything(self) -> None:
        """All at once, as far as that goes: nobody has time to tidy up."""
        for pid in (*self.pids.values(), self.process.pid):
            os.kill(pid, signal.SIGKILL)

    # What is left of it.

    def wait_until_actors_are_gone(self) -> None:
        for role, pid in self.pids.items():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                assert select.select([descriptor], [], [], PATIENCE_S)[0], f"{role} lives on"
            finally:
                os.close(descriptor)

    def left_behind(self) -> list[str]:
        """Processes, files in its temporary directory, shared memory with its name or number."""
        pids = [*map(str, self.pids.values()), str(self.process.pid)]
        processes = [f"process {pid}" for pid in pids if Path("/proc", pid).exists()]
        files = [str(path) for path in self.temporary.rglob("*")]
        shared = [
            str(path)
            for path in Path("/dev/shm").glob("*")
            if any(pid in re.findall(r"\d+", path.name) for pid in pids)
        ]
        return processes + files + shared

    def _pid_of(self, role: str) -> int:
        """Also of an actor that is not ready yet."""
        if role in self.pids:
            return self.pids[role]
        module, home = ENTRY_MODULES[role].encode(), os.fsencode(self.temporary)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if module in line and home in line:
                    return int(path.parent.name)
        raise AssertionError(f"{role} does not run:\n{self.output}")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._num_open_streams -= 1
            self._changed.notify_all()

    def _wait(self, find: Callable[[], str | None]) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: find() or not self._num_open_streams, PATIENCE_S)
            return find()

    def _address(self) -> tuple[str, str]:
        matches = (_ADDRESS_LINE.match(line) for line in self.lines)
        match = next(match for match in matches if match)
        return match[1], match[2]


def verify(journal: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`engine-replay verify`, as a user runs it."""
    return subprocess.run(
        [str(SCRIPTS / "engine-replay"), "verify", str(journal)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def mapped_files(pid: int) -> set[str]:
    """Every file in the address space of a process, libraries among them."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {fields[5] for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6}


def _kill_if_there(pid: int, temporary: Path) -> None:
    """The number may belong to somebody else by now: an actor names its run directory."""
    try:
        if str(temporary).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        pass
