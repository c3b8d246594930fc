"""What every actor process does the same way: come up, take frames, report, and leave.

Light to import: what a shell needs beyond this, such as torch, it imports in `start`. By then the
process is tied to its supervisor and can tell it what goes wrong.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import uvloop

from tokenreel.actors.runtime.channels import DEFAULT_CAPACITY, Frame, Inbox, Outbox, new_context
from tokenreel.actors.runtime.clock import Clock, SystemClock
from tokenreel.actors.runtime.parent import leave_with_parent
from tokenreel.actors.runtime.topology import SUPERVISOR, Topology, identity
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.lifecycle import ActorFailed, ActorReady, Shutdown
from tokenreel.messages.options import EngineOptions

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
MAX_FAILURE_CHARACTERS = 2000
GC_THRESHOLD = 20_000
"""New containers between two looks for cycles. Python's 700 are a few steps of a full batch, whose
messages hold no cycles and are gone before the next."""


class StartError(Exception):
    """An actor cannot come up, for a reason that a person can do something about: one line."""


class Sender(Protocol):
    """What an actor needs of an `Outbox`."""

    def send(self, payload: bytes, attachment: bytes = b"") -> None: ...

    def is_writable(self) -> bool: ...


class Actor(ABC):
    """A shell: turns frames into calls, and what comes out into frames.

    All methods run on the loop's thread. An exception from `start` or `on_frames` ends the process
    (`StartError` quietly, anything else with a traceback), so a shell catches what concerns one
    request only.
    """

    ROLE: ClassVar[str]
    DESTINATIONS: ClassVar[tuple[str, ...]]
    """Roles that this actor sends to, besides the supervisor."""

    def __init__(self, runtime: "ActorRuntime") -> None:
        """Keep `runtime`; nothing that takes time."""
        self.runtime = runtime

    @abstractmethod
    def start(self) -> None:
        """Load what is needed, with the loop running; then, or later, call `runtime.ready`.
        Frames that arrive meanwhile wait."""

    @abstractmethod
    def on_frames(self, frames: list[Frame]) -> None:
        """Never empty. `Shutdown` is not among them: the runtime has seen to it."""

    @abstractmethod
    def close(self) -> None:
        """Give back what `start` took; also called when `start` failed. The loop has stopped but
        is not closed: `runtime.loop.run_until_complete` works."""


class ActorRuntime:
    """What an actor is given. A test makes one with its own loop and recording senders."""

    def __init__(
        self,
        *,
        role: str,
        options: EngineOptions,
        topology: Topology,
        clock: Clock,
        inbox: Inbox | None,
        outboxes: Mapping[str, Sender],
        loop: asyncio.AbstractEventLoop,
        rank: int = 0,
        epoch: int = 1,
        listen_fd: int | None = None,
    ) -> None:
        self.role = role
        self.rank = rank
        self.epoch = epoch
        self.options = options
        self.topology = topology
        self.run_dir = topology.run_dir
        self.clock = clock
        self.outboxes = outboxes
        self.loop = loop
        self.listen_fd = listen_fd
        self.exit_code: int | None = None
        """None until `stop` or `fail` was called."""
        self._inbox = inbox
        self._is_ready = False

    @property
    def inbox(self) -> Inbox:
        if self._inbox is None:
            raise RuntimeError("this runtime was made without an inbox")
        return self._inbox

    def ready(self, detail: str = "", num_threads: int = 0) -> None:
        """Tell the supervisor, once; see `ActorReady`."""
        if self._is_ready:
            return
        self._is_ready = True
        self._tell_supervisor(ActorReady(self.role, self.rank, os.getpid(), detail, num_threads))

    def fail(self, message: str) -> None:
        """Leave with exit code 1, and let the supervisor print `message` (made one line)."""
        if self.exit_code is not None:
            return
        line = " ".join(message.split())[:MAX_FAILURE_CHARACTERS] or "unknown failure"
        with contextlib.suppress(Exception):  # The exit code says it too.
            self._tell_supervisor(ActorFailed(self.role, self.rank, line))
        self.stop(1)

    def fail_with(self, error: BaseException) -> None:
        """As `fail`; unless it is a `StartError`, the traceback goes to stderr."""
        if isinstance(error, StartError):
            self.fail(str(error))
            return
        traceback.print_exception(error)
        self.fail(f"{type(error).__name__}: {error}".removesuffix(": "))

    def stop(self, exit_code: int = 0) -> None:
        """Leave when the current callback returns. The first exit code counts."""
        if self.exit_code is None:
            self.exit_code = exit_code
        self.loop.stop()

    def call_soon(self, callback: Callable[..., object], *args: object) -> asyncio.Handle:
        """As the loop's, but an exception ends the actor."""
        return self.loop.call_soon(self._guarded, callback, *args)

    def call_later(
        self, delay_s: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """As the loop's, but an exception ends the actor."""
        return self.loop.call_later(delay_s, self._guarded, callback, *args)

    def create_task(self, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """As the loop's, but an exception ends the actor. Keep the task."""
        task = self.loop.create_task(coroutine)
        task.add_done_callback(self._task_done)
        return task

    def _guarded(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self.fail_with(error)

    def _task_done(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail_with(error)

    def _tell_supervisor(self, message: ActorReady | ActorFailed) -> None:
        self.outboxes[SUPERVISOR].send(encode(message))


def run_actor(actor_class: type[Actor], arguments: list[str] | None = None) -> int:
    """The whole life of an actor process; returns its exit code. A shell module ends with
    `if __name__ == "__main__": raise SystemExit(run_actor(TheActor))`."""
    options = _parse(arguments)
    leave_with_parent(options.death_fd)
    faulthandler.enable()  # A crash in native code shows where it happened.
    # A terminal sends Ctrl-C to everybody; only the supervisor decides what it means. Until the
    # loop runs, SIGTERM keeps its default action, so that even a long start ends at once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    with _runtime(actor_class, options, loop) as runtime:
        _live(actor_class, runtime)
    asyncio.set_event_loop(None)
    loop.close()
    assert runtime.exit_code is not None
    return runtime.exit_code


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One actor of the engine; engine-up starts it.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--epoch", type=int, default=1, help="differs for every process of a role")
    parser.add_argument("--death-fd", type=int, help="end of file on it means: leave")
    parser.add_argument("--listen-fd", type=int, help="the bound HTTP socket")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _runtime(
    actor_class: type[Actor], arguments: argparse.Namespace, loop: asyncio.AbstractEventLoop
) -> Iterator[ActorRuntime]:
    role, rank, epoch = actor_class.ROLE, arguments.rank, arguments.epoch
    topology = Topology(arguments.run_dir)
    options = topology.read_options()
    capacity = max(DEFAULT_CAPACITY, 4 * (options.max_num_seqs + options.max_num_queued_reqs))
    own_name = identity(role, rank, epoch)
    context = new_context()
    inbox = Inbox(context, topology.address(role, rank), capacity)
    outboxes = {
        destination: Outbox(context, topology.address(destination), own_name, capacity)
        for destination in (*actor_class.DESTINATIONS, SUPERVISOR)
    }
    try:
        yield ActorRuntime(
            role=role,
            rank=rank,
            epoch=epoch,
            options=options,
            topology=topology,
            clock=SystemClock(),
            inbox=inbox,
            outboxes=outboxes,
            loop=loop,
            listen_fd=arguments.listen_fd,
        )
    finally:
        inbox.close()
        for outbox in outboxes.values():
            outbox.close()
        # Waits until the last frames have left, but not longer than an outbox lingers.
        context.term()


def _live(actor_class: type[Actor], runtime: ActorRuntime) -> None:
    loop = runtime.loop
    actor: Actor | None = None

    def begin() -> None:
        nonlocal actor
        try:
            actor = actor_class(runtime)
            actor.start()
        except Exception as error:
            runtime.fail_with(error)
            return
        # What start-up made will stay: spare every later collection from walking over it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        loop.add_signal_handler(signal.SIGTERM, runtime.stop, SIGTERM_EXIT_CODE)
        runtime.inbox.attach(loop, lambda frames: _receive(runtime, actor, frames))

    runtime.inbox.intercept(SUPERVISOR, lambda frame: _obey(runtime, frame))
    loop.set_exception_handler(lambda _, context: _on_loop_error(runtime, context))
    loop.call_soon(begin)
    loop.run_forever()
    runtime.inbox.detach()
    if actor is not None:
        try:
            actor.close()
        except Exception:
            traceback.print_exc()


def _receive(runtime: ActorRuntime, actor: Actor | None, frames: list[Frame]) -> None:
    if runtime.exit_code is not None or actor is None:
        return
    try:
        actor.on_frames(frames)
    except Exception as error:
        runtime.fail_with(error)


def _obey(runtime: ActorRuntime, frame: Frame) -> bool:
    """Leaves if the supervisor says so, whoever drained the inbox."""
    try:
        is_shutdown = isinstance(decode(frame.payload), Shutdown)
    except MalformedMessage:
        return False
    if is_shutdown:
        runtime.stop(0)
    return is_shutdown


def _on_loop_error(runtime: ActorRuntime, context: dict[str, Any]) -> None:
    """What the loop itself met, in a transport or a stray task, harms what waits for it only, such
    as one HTTP connection: say so and go on. An actor's own callbacks go through the runtime."""
    print(f"{runtime.role}: {context.get('message')}", file=sys.stderr)
    error = context.get("exception")
    if isinstance(error, BaseException):
        traceback.print_exception(error)
