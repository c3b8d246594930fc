"""Process lifetime: starts the actors, says when they are ready, drains, stops, sets the exit code.

It has no torch and no policy, and touches no request. Every wait has a bound.

    start --all ready--> serve --signal--> drain --> stop

Trouble, an actor that ends or says that it failed, leads from every stage to stop. The first signal
asks for a tidy end; the second one, at whatever stage, ends everything at once. A companion, which
is no actor, may end at any time.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from tokenreel.actors.runtime.channels import Frame, Inbox, Outbox, new_context
from tokenreel.actors.runtime.child import Child, ChildPlan
from tokenreel.actors.runtime.console import Console
from tokenreel.actors.runtime.own_processor import OwnProcessor
from tokenreel.actors.runtime.topology import SUPERVISOR, Topology, identity, role_of
from tokenreel.messages.codec import MalformedMessage, Message, decode, encode
from tokenreel.messages.lifecycle import (
    ActorDied,
    ActorFailed,
    ActorReady,
    Drained,
    DrainRequested,
    Serving,
    Shutdown,
    SystemReady,
)

DEFAULT_START_TIMEOUT_S = 600.0
DRAIN_MARGIN_S = 2.0
"""Beyond the drain's own bound: for the frontend to say that it has passed."""
END_STREAMS_S = 2.0
"""For the frontend to tell its clients that an actor died."""
LAST_WORDS_S = 0.5
"""For the reason of an actor that has ended to arrive."""
SERVING_S = 5.0
"""For the frontend to take notice that everybody is ready."""
SHUTDOWN_S = 5.0
"""For an actor to leave by itself; then it is killed."""
KILLED_S = 5.0
"""For the kernel to end what was killed."""
FRONTEND = "frontend"
WORKER = "worker"
ENGINE_CORE = "engine_core"


class SupervisorLimits(msgspec.Struct, frozen=True, kw_only=True):
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    drain_timeout_s: float = 30.0
    shutdown_s: float = SHUTDOWN_S


class Supervisor:
    """One engine. `run` may be called once."""

    def __init__(
        self,
        *,
        topology: Topology,
        plans: Sequence[ChildPlan],
        listener: socket.socket | None,
        console: Console,
        announcement: Sequence[str],
        limits: SupervisorLimits,
        pins_worker: bool,
    ) -> None:
        """`listener` is handed to the frontend and closed here; `announcement` is said when all
        actors are ready. pins_worker: see `own_processor`."""
        self._topology = topology
        self._plans = plans
        self._listener = listener
        self._console = console
        self._announcement = announcement
        self._limits = limits
        self._pins_worker = pins_worker
        self._own_processor: OwnProcessor | None = None
        self._children: dict[str, Child] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._ready: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._trouble: str | None = None
        """The first role that failed or ended while it should not."""
        self._is_serving = False
        self._drained: Drained | None = None
        self._signals: list[signal.Signals] = []
        self._is_late = False
        self._is_stopping = False
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """The exit code; when it returns no child runs any more. Prints what happens."""
        self._watch_signals()
        death_fd, own_fd = os.pipe()  # Children see the end of it when this process ends.
        try:
            self._spawn(death_fd)
        except OSError as error:
            self._console.complain(f"cannot start a process: {error}")
            await self._kill()
            return 1
        finally:
            os.close(death_fd)
            if self._listener is not None:
                self._listener.close()
        try:
            with contextlib.ExitStack() as channels:
                self._open_channels(channels)
                return await self._live()
        finally:
            await self._kill()
            os.close(own_fd)
            if self._own_processor is not None:
                self._own_processor.close()

    # Stages.

    async def _live(self) -> int:
        is_up = await self._start()
        if is_up:
            await self._serve()
        elif self._trouble is None and not self._signals:
            self._complain_late()
        await self._tell_trouble(has_streams=is_up)
        await self._stop()
        return self._exit_code()

    async def _start(self) -> bool:
        everyone = {role for role, child in self._children.items() if not child.is_companion}
        await self._until(
            lambda: self._ready == everyone or self._is_disturbed(), self._limits.start_timeout_s
        )
        return self._ready == everyone and not self._is_disturbed()

    async def _serve(self) -> None:
        self._tell(FRONTEND, SystemReady())
        # Nobody is told that it serves before it does.
        await self._until(lambda: self._is_serving or self._is_disturbed(), SERVING_S)
        for line in self._announcement:
            self._console.say(line)
        await self._until(self._is_disturbed)
        if self._trouble is None:
            await self._drain()

    async def _drain(self) -> None:
        timeout_s = self._limits.drain_timeout_s
        self._console.say(
            f"{self._signals[0].name}: running requests have {timeout_s:g} s to finish; "
            "once more to stop at once"
        )
        self._tell(FRONTEND, DrainRequested(timeout_s))
        await self._until(
            lambda: self._drained is not None or self._trouble is not None or self._is_hurried(),
            timeout_s + DRAIN_MARGIN_S,
        )
        if self._drained is not None and self._drained.num_cut_short:
            self._console.complain(f"{self._drained.num_cut_short} requests were cut short")

    async def _tell_trouble(self, has_streams: bool) -> None:
        role = self._trouble
        if role is None:
            return
        child = self._children[role]
        await self._until(lambda: role in self._reasons or self._is_hurried(), LAST_WORDS_S)
        told = self._reasons.get(role)
        reason = f"failed: {told}" if told else child.describe_exit()
        self._console.complain(f"{role} {reason}")
        if has_streams:
            self._tell(FRONTEND, ActorDied(role, child.rank, reason))
            await self._until(
                lambda: self._drained is not None or not self._runs(FRONTEND) or self._is_hurried(),
                END_STREAMS_S,
            )

    async def _stop(self) -> None:
        self._is_stopping = True
        if not self._is_hurried():
            self._ask_to_leave()
        await self._until(lambda: self._all_ended() or self._is_hurried(), self._limits.shutdown_s)
        await self._kill()

    def _ask_to_leave(self) -> None:
        for role, child in self._children.items():
            # One that is still loading does not look at its inbox.
            if role in self._ready:
                self._tell(role, Shutdown())
            else:
                child.terminate()

    async def _kill(self) -> None:
        for role, child in self._children.items():
            if child.exit_code is None:
                if not self._is_hurried():
                    self._console.complain(f"{role} did not leave in time and is killed")
                child.kill()
        await self._until(self._all_ended, KILLED_S)

    def _exit_code(self) -> int:
        if self._is_hurried():
            return 128 + int(self._signals[1])
        return 1 if self._is_late or self._trouble is not None or self._reasons else 0

    def _complain_late(self) -> None:
        self._is_late = True
        missing = ", ".join(
            role
            for role, child in self._children.items()
            if role not in self._ready and not child.is_companion
        )
        self._console.complain(
            f"not ready after {self._limits.start_timeout_s:g} s: {missing}; a large model may "
            "need a longer --start-timeout"
        )

    # What the stages wait for.

    async def _until(self, is_met: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Whether it was met in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_met():
                    self._changed.clear()
                    await self._changed.wait()
        return bool(is_met())

    def _is_disturbed(self) -> bool:
        return self._trouble is not None or bool(self._signals)

    def _is_hurried(self) -> bool:
        return len(self._signals) > 1

    def _all_ended(self) -> bool:
        return all(child.exit_code is not None for child in self._children.values())

    def _runs(self, role: str) -> bool:
        child = self._children.get(role)
        return child is not None and child.exit_code is None

    # What they hear.

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup the end of the terminal means nothing.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._is_hurried():
            self._signals.append(number)
        self._changed.set()

    def _on_exit(self, child: Child) -> None:
        if child.is_companion and not self._is_stopping:
            self._console.complain(f"{child.role} {child.describe_exit()}; the engine goes on")
        elif not self._is_stopping and self._trouble is None:
            self._trouble = child.role
        self._changed.set()

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            with contextlib.suppress(MalformedMessage):
                self._on_message(role_of(frame.sender), decode(frame.payload))
        self._changed.set()

    def _on_message(self, role: str, message: Message) -> None:
        if role not in self._children:
            return
        match message:
            case ActorReady(detail=detail, num_threads=num_threads) if role not in self._ready:
                self._ready.add(role)
                if self._pins_worker and role == WORKER and num_threads == 1:
                    detail += self._pin_worker()
                self._say_ready(self._children[role], detail)
            case ActorFailed(message=reason) if role not in self._reasons:
                self._reasons[role] = reason
                if self._is_stopping:
                    self._console.complain(f"{role} failed while it was leaving: {reason}")
                elif self._trouble is None:
                    self._trouble = role
            case Serving() if role == FRONTEND:
                self._is_serving = True
            case Drained() if role == FRONTEND:
                self._drained = message

    def _say_ready(self, child: Child, detail: str) -> None:
        seconds = (time.monotonic_ns() - child.started_ns) / 1e9
        self._console.say(f"  {child.role:<16} pid {child.pid:<8} {seconds:6.2f} s  {detail}")

    def _pin_worker(self) -> str:
        """What there is to say of it: nothing if the system does not let it. An engine works
        without."""
        pid = self._children[WORKER].pid
        with contextlib.suppress(OSError):
            processor = OwnProcessor.claim(pid)
            if processor is None:
                return ""
            if not processor.separate(pid, self._children[ENGINE_CORE].pid):
                processor.close()
                return ""
            self._own_processor = processor
            return f", processor {processor.number} to itself"
        return ""

    # Processes and links.

    def _spawn(self, death_fd: int) -> None:
        for plan in self._plans:
            listener = self._listener if plan.role == FRONTEND else None
            self._children[plan.role] = Child(
                plan,
                self._topology.run_dir,
                death_fd=death_fd,
                listen_fd=None if listener is None else listener.fileno(),
                console=self._console,
                on_exit=self._on_exit,
            )

    def _open_channels(self, channels: contextlib.ExitStack) -> None:
        context = new_context()
        channels.callback(context.term)
        inbox = Inbox(context, self._topology.address(SUPERVISOR))
        channels.callback(inbox.close)
        for role, child in self._children.items():
            if child.is_companion:
                continue
            address = self._topology.address(role, child.rank)
            outbox = Outbox(context, address, identity(SUPERVISOR, 0, 1))
            channels.callback(outbox.close)
            self._outboxes[role] = outbox
        inbox.attach(asyncio.get_running_loop(), self._on_frames)

    def _tell(self, role: str, message: Message) -> None:
        if self._runs(role):
            self._outboxes[role].send(encode(message))
