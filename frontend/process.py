"""The frontend's process: HTTP clients on one side, the other actors on the other."""

import asyncio
import resource
import socket

from tokenreel.actors.runtime.actor import Actor, ActorRuntime, StartError, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.topology import SUPERVISOR
from tokenreel.frontend.app import make_app
from tokenreel.frontend.debug_view import DebugView
from tokenreel.frontend.engine_client import EngineClient
from tokenreel.frontend.host_check import HostCheck
from tokenreel.frontend.http_server import HttpServer
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.lifecycle import Drained, Serving, SystemReady
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.requests import AbortRequest, SubmitRequest

NUM_OTHER_FILES = 64
"""File descriptors that are no connection of a client."""


class FrontendActor(Actor):
    ROLE = "frontend"
    DESTINATIONS = ("input_processor", "engine_core")

    def __init__(self, runtime: ActorRuntime) -> None:
        super().__init__(runtime)
        self.num_malformed = 0
        self.engine = EngineClient(
            ActorLink(runtime), runtime.loop, runtime.epoch, on_drained=self._on_drained
        )
        app = make_app(self.engine, runtime.options, runtime.clock, _debug_view(runtime))
        self._server = HttpServer(app, _max_connections(runtime.options), self._tell_when_ready)
        self._serving: asyncio.Task[object] | None = None

    def start(self) -> None:
        listen_fd = self.runtime.listen_fd
        if listen_fd is None:
            raise StartError("the frontend needs --listen-fd, the bound HTTP socket")
        listener = socket.socket(fileno=listen_fd)
        listener.setblocking(False)
        self._serving = self.runtime.create_task(self._server.serve(sockets=[listener]))

    def on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            try:
                message = decode(frame.payload)
            except MalformedMessage:
                self.num_malformed += 1
                continue
            self.engine.on_message(message)
            if isinstance(message, SystemReady):
                self.runtime.outboxes[SUPERVISOR].send(encode(Serving()))
        if self.engine.facts is not None:
            self._tell_when_ready()

    def close(self) -> None:
        self.runtime.loop.run_until_complete(self.stop_serving())

    async def stop_serving(self) -> None:
        """Return when what is being written has been, or did not get away in time."""
        if self._serving is not None and not self._serving.done():
            self.engine.stop()
            self._server.should_exit = True
            await self._serving

    def _tell_when_ready(self) -> None:
        if self._server.started and self.engine.facts is not None:
            self.runtime.ready(f"takes {self.engine.facts.max_in_flight} requests at a time")

    def _on_drained(self, num_cut_short: int) -> None:
        self.runtime.outboxes[SUPERVISOR].send(encode(Drained(num_cut_short)))


class ActorLink:
    """The frontend's links to those who take its requests."""

    def __init__(self, runtime: ActorRuntime) -> None:
        self._input_processor = runtime.outboxes["input_processor"]
        self._engine_core = runtime.outboxes["engine_core"]

    def submit(self, request: SubmitRequest) -> None:
        self._input_processor.send(encode(request))

    def abort(self, request: AbortRequest) -> None:
        self._engine_core.send(encode(request))


def _debug_view(runtime: ActorRuntime) -> DebugView | None:
    options = runtime.options
    if not options.debug_view:
        return None
    host_check = HostCheck([options.host]) if options.api_key is None else None
    return DebugView(runtime.topology.view_socket, host_check)


def _max_connections(options: EngineOptions) -> int:
    """Enough that whoever is one too many for the engine still hears so over HTTP."""
    wanted = 1024 + 4 * (options.max_num_seqs + options.max_num_queued_reqs)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_files = wanted + NUM_OTHER_FILES
    if hard_limit != resource.RLIM_INFINITY:
        num_files = min(num_files, hard_limit)
    if soft_limit != resource.RLIM_INFINITY and soft_limit < num_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, hard_limit))
    return num_files - NUM_OTHER_FILES


if __name__ == "__main__":
    raise SystemExit(run_actor(FrontendActor))
