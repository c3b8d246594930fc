"""An actor process: it says that it is ready or why it failed, and leaves when it should."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tokenreel.actors.runtime.actor import ActorRuntime, StartError
from tokenreel.actors.runtime.channels import Inbox, Outbox, new_context
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.runtime.topology import Topology
from tokenreel.messages.codec import Message, decode, encode
from tokenreel.messages.lifecycle import ActorFailed, ActorReady, Shutdown, SystemReady
from tokenreel.messages.options import EngineOptions

PATIENCE_S = 60.0
OPTIONS = EngineOptions(model="/model", served_model_name="model")

SCRIPT = """
import sys
from tokenreel.actors.runtime.actor import Actor, StartError, run_actor

class Script(Actor):
    ROLE = "worker"
    DESTINATIONS = ("engine_core",)

    def start(self):
        {start}

    def on_frames(self, frames):
        {on_frames}

    def close(self):
        print("closed", file=sys.stderr)

raise SystemExit(run_actor(Script))
"""
READY = "self.runtime.ready('up')"


class Harness:
    """Plays the supervisor to one actor process."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="actor-"))
        self.topology = Topology(self.run_dir)
        self.topology.write_options(OPTIONS)
        self.context = new_context()
        self.inbox = Inbox(self.context, self.topology.address("supervisor"))
        self.outbox = Outbox(self.context, self.topology.address("worker"), "supervisor.0.1")
        self.death_fd, self.own_fd = os.pipe()
        self.process: subprocess.Popen[str] | None = None

    def start(self, start: str = READY, on_frames: str = "pass") -> subprocess.Popen[str]:
        script = self.run_dir / "script.py"
        script.write_text(SCRIPT.format(start=start, on_frames=on_frames))
        arguments = [str(self.run_dir), "--death-fd", str(self.death_fd)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), *arguments],
            stderr=subprocess.PIPE,
            pass_fds=[self.death_fd],
            text=True,
        )
        return self.process

    def hear(self) -> tuple[str, Message]:
        assert self.inbox.poll(PATIENCE_S), "the actor said nothing"
        (frame,) = self.inbox.drain(1)
        return frame.sender, decode(frame.payload)

    def wait_until_ready(self) -> None:
        assert isinstance(self.hear()[1], ActorReady)

    def tell(self, message: Message) -> None:
        self.outbox.send(encode(message))

    def end(self) -> tuple[int, str]:
        """Exit code and standard error, once it has ended."""
        assert self.process is not None
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self.death_fd)
        if self.own_fd >= 0:
            os.close(self.own_fd)
        self.inbox.close()
        self.outbox.close()
        self.context.destroy(linger=0)
        shutil.rmtree(self.run_dir)


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.close()


def test_it_says_that_it_is_ready_and_leaves_when_told(harness: Harness) -> None:
    process = harness.start()
    assert harness.hear() == ("worker.0.1", ActorReady("worker", 0, process.pid, "up"))
    harness.tell(Shutdown())
    assert harness.end() == (0, "closed\n")


def test_it_is_ready_once_only(harness: Harness) -> None:
    harness.start(start=f"{READY}; {READY}; raise StartError('then')")
    assert isinstance(harness.hear()[1], ActorReady)
    assert isinstance(harness.hear()[1], ActorFailed)


def test_a_start_error_is_told_in_one_line_without_a_traceback(harness: Harness) -> None:
    harness.start(start="raise StartError('no model:\\n fetch one')")
    assert harness.hear()[1] == ActorFailed("worker", 0, "no model: fetch one")
    assert harness.end() == (1, "closed\n")


def test_another_exception_at_the_start_is_told_with_its_traceback(harness: Harness) -> None:
    harness.start(start="1 / 0")
    assert harness.hear()[1] == ActorFailed("worker", 0, "ZeroDivisionError: division by zero")
    exit_code, errors = harness.end()
    assert exit_code == 1
    assert "Traceback" in errors and "1 / 0" in errors


def test_an_exception_over_a_frame_ends_the_process(harness: Harness) -> None:
    harness.start(on_frames="raise KeyError('lost')")
    harness.wait_until_ready()
    harness.tell(SystemReady())
    assert harness.hear()[1] == ActorFailed("worker", 0, "KeyError: 'lost'")
    exit_code, errors = harness.end()
    assert exit_code == 1
    assert "Traceback" in errors


@pytest.mark.parametrize(
    "start",
    [
        "self.runtime.call_soon(lambda: 1 / 0)",
        "self.runtime.call_later(0, lambda: 1 / 0)",
    ],
)
def test_an_exception_in_a_callback_ends_the_process(harness: Harness, start: str) -> None:
    harness.start(start=start)
    assert isinstance(harness.hear()[1], ActorFailed)
    assert harness.end()[0] == 1


def test_an_exception_in_a_task_of_the_runtime_ends_the_process(harness: Harness) -> None:
    harness.start(
        start="async def task(): raise ValueError('no')\n"
        "        self.task = self.runtime.create_task(task())"
    )
    assert harness.hear()[1] == ActorFailed("worker", 0, "ValueError: no")
    assert harness.end()[0] == 1


def test_an_error_in_one_connection_or_stray_task_is_shown_and_survived(harness: Harness) -> None:
    harness.start(
        start="self.runtime.loop.call_soon(lambda: 1 / 0)\n"
        f"        self.runtime.loop.call_soon(lambda: {READY})"
    )
    harness.wait_until_ready()
    harness.tell(Shutdown())
    exit_code, errors = harness.end()
    assert exit_code == 0
    assert "ZeroDivisionError" in errors


def test_ctrl_c_is_the_supervisors_business(harness: Harness) -> None:
    process = harness.start(on_frames="self.runtime.stop(7)")
    harness.wait_until_ready()
    process.send_signal(signal.SIGINT)
    harness.tell(SystemReady())
    assert harness.end()[0] == 7


def test_sigterm_means_leave_now(harness: Harness) -> None:
    process = harness.start(start=f"self.runtime.loop.call_soon(lambda: {READY})")
    harness.wait_until_ready()
    process.terminate()
    assert harness.end() == (143, "closed\n")


def test_sigterm_ends_even_a_long_start(harness: Harness) -> None:
    process = harness.start(start=f"{READY}; import time; time.sleep({PATIENCE_S})")
    harness.wait_until_ready()
    process.terminate()
    assert harness.end()[0] == -signal.SIGTERM


def test_frames_wait_until_the_start_is_over(harness: Harness) -> None:
    harness.start(
        start="self.is_started = False; self.runtime.call_later(0, self.later)\n"
        f"        self.is_started = True\n    def later(self): {READY}",
        on_frames="self.runtime.stop(5 if self.is_started else 6)",
    )
    harness.tell(SystemReady())
    assert harness.end()[0] == 5


def test_bytes_from_the_supervisor_that_are_no_message_are_passed_on(harness: Harness) -> None:
    harness.start(on_frames="self.runtime.stop(9 if frames[0].payload == b'garbage' else 8)")
    harness.wait_until_ready()
    harness.outbox.send(b"garbage")
    assert harness.end()[0] == 9


def test_a_shutdown_counts_even_if_the_actor_drains_its_inbox_itself(harness: Harness) -> None:
    harness.start(
        on_frames="self.runtime.ready('up')\n"
        "        while self.runtime.exit_code is None:\n"
        "            self.runtime.inbox.poll(1)\n"
        "            assert not self.runtime.inbox.drain()",
        start="pass",
    )
    harness.tell(SystemReady())
    harness.wait_until_ready()
    harness.tell(Shutdown())
    assert harness.end() == (0, "closed\n")


def test_only_the_supervisor_can_shut_it_down(harness: Harness) -> None:
    harness.start(on_frames="self.runtime.stop(4)")
    harness.wait_until_ready()
    stranger = Outbox(harness.context, harness.topology.address("worker"), "frontend.0.1")
    stranger.send(encode(Shutdown()))
    assert harness.end()[0] == 4
    stranger.close()


@pytest.mark.parametrize("busy", ["pass", f"import time; time.sleep({PATIENCE_S})"])
def test_it_leaves_at_the_end_of_the_death_pipe(harness: Harness, busy: str) -> None:
    harness.start(start=f"{READY}; {busy}")
    harness.wait_until_ready()
    os.close(harness.own_fd)
    harness.own_fd = -1
    assert harness.end()[0] == 137


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True,
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
CHILD = """
import time
from tokenreel.actors.runtime.parent import leave_with_parent
leave_with_parent(None)
print("armed", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_it_dies_with_a_parent_that_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child_fd = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    assert select.select([child_fd], [], [], PATIENCE_S)[0] == [child_fd]
    os.close(child_fd)


class Recorder:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, payload: bytes, attachment: bytes = b"") -> None:
        self.messages.append(decode(payload))

    def is_writable(self) -> bool:
        return True


def test_a_runtime_made_by_a_test_needs_neither_process_nor_socket(tmp_path: Path) -> None:
    loop = uvloop.new_event_loop()
    supervisor = Recorder()
    runtime = ActorRuntime(
        role="worker",
        options=OPTIONS,
        topology=Topology(tmp_path),
        clock=SystemClock(),
        inbox=None,
        outboxes={"supervisor": supervisor},
        loop=loop,
    )
    runtime.ready("up")
    runtime.call_soon(runtime.fail_with, StartError("first"))
    runtime.call_soon(runtime.fail_with, StartError("second"))
    loop.run_forever()
    loop.close()
    assert supervisor.messages == [
        ActorReady("worker", 0, os.getpid(), "up"),
        ActorFailed("worker", 0, "first"),
    ]
    assert runtime.exit_code == 1
    with pytest.raises(RuntimeError, match="without an inbox"):
        _ = runtime.inbox


def test_the_system_clock_goes_forward_and_knows_the_year() -> None:
    clock = SystemClock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert abs(clock.wall_ns() - time.time_ns()) < 3600e9
