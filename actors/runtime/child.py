"""One child process of the supervisor: how it is started, watched, heard and ended."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tokenreel.actors.runtime.console import Console, LineSplitter
from tokenreel.actors.runtime.topology import ROLES, entry_module
from tokenreel.messages.options import EngineOptions

API_KEY_VARIABLE = "TOKENREEL_API_KEY"
READ_BYTES = 1 << 16


class ChildPlan(msgspec.Struct, frozen=True):
    """Who runs what: `command` gets the run directory and the descriptors appended.

    A companion is no actor: it gets the death pipe's descriptor alone, nobody sends it anything,
    and the engine neither waits for it nor ends with it. SIGTERM asks it to leave.
    """

    role: str
    command: tuple[str, ...]
    rank: int = 0
    epoch: int = 1
    is_companion: bool = False


def plan_engine(options: EngineOptions) -> tuple[ChildPlan, ...]:
    """Every actor of an engine. `-P` keeps the working directory off the import path."""
    python = (sys.executable, "-P", "-m")
    return tuple(ChildPlan(role, (*python, entry_module(role, options))) for role in ROLES)


class Child:
    """Runs in a process session of its own, so that a terminal's Ctrl-C does not reach it, and
    with its output going through the console."""

    def __init__(
        self,
        plan: ChildPlan,
        run_dir: Path,
        *,
        death_fd: int,
        listen_fd: int | None,
        console: Console,
        on_exit: Callable[["Child"], None],
    ) -> None:
        """Starts the process; raises OSError. Needs a running loop."""
        self.role = plan.role
        self.rank = plan.rank
        self.is_companion = plan.is_companion
        self.started_ns = time.monotonic_ns()
        self.exit_code: int | None = None
        """None while it runs; -N if signal N ended it."""
        self._console = console
        self._on_exit = on_exit
        self._lines = LineSplitter()
        self._loop = asyncio.get_running_loop()
        command = [*plan.command]
        if not plan.is_companion:
            command += [str(run_dir), "--rank", str(plan.rank), "--epoch", str(plan.epoch)]
        command += ["--death-fd", str(death_fd)]
        if listen_fd is not None:
            command += ["--listen-fd", str(listen_fd)]
        # The key travels in options.json; an environment can be read by more people.
        environment = {k: v for k, v in os.environ.items() if k != API_KEY_VARIABLE}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[fd for fd in (death_fd, listen_fd) if fd is not None],
            env=environment,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        self._loop.add_reader(self._output_fd, self._relay_output)
        self._pidfd = -1
        self._watch()

    def terminate(self) -> None:
        """SIGTERM: leave now."""
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and whatever it started."""
        if self.exit_code is None:
            self._kill_session()

    def describe_exit(self) -> str:
        """What a person makes of the exit code."""
        if self.exit_code is None:
            return "is still running"
        if self.exit_code == -signal.SIGKILL:
            return "was killed (SIGKILL): if it was not you, memory may have run out; see dmesg"
        if self.exit_code < 0:
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        if self.exit_code == 128 + signal.SIGTERM:
            return "was ended by SIGTERM"
        return f"ended with exit code {self.exit_code} and gave no reason; see its output above"

    def _watch(self) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._reap)
            return

        def wait() -> None:
            # Does not reap: until `_reap` the process id cannot be given to another.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._reap)

        threading.Thread(target=wait, daemon=True).start()

    def _reap(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        # Its process id is still its own, so this can only hit what it left behind.
        self._kill_session()
        self.exit_code = self._process.wait()
        self._relay_output()
        self._close_output()
        self._on_exit(self)

    def _kill_session(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _relay_output(self) -> None:
        if self._output_fd < 0:
            return
        try:
            data = os.read(self._output_fd, READ_BYTES)
        except BlockingIOError:
            return
        for line in self._lines.feed(data):
            self._console.relay(self.role, line)
        if not data:
            self._close_output()

    def _close_output(self) -> None:
        if self._output_fd < 0:
            return
        for line in self._lines.finish():
            self._console.relay(self.role, line)
        self._loop.remove_reader(self._output_fd)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._output_fd = -1
