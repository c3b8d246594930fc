"""A real frontend on a real port, and behind real links a scripted peer that plays the engine."""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from tokenreel.actors.runtime.actor import ActorRuntime
from tokenreel.actors.runtime.channels import Frame, Inbox, Outbox, new_context
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.runtime.topology import Topology, identity
from tokenreel.frontend.process import FrontendActor
from tokenreel.messages.codec import Message, decode, encode
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.lifecycle import (
    ActorFailed,
    ActorReady,
    Drained,
    EngineFacts,
    Serving,
    SystemReady,
)
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.outputs import TextChunk, TextEmitted, TokenLogprob
from tokenreel.messages.requests import (
    AbortRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
    SubmitRequest,
)
from tokenreel.messages.sampling import FinishReason, TextParams

MODEL = "demo"
MAX_IN_FLIGHT = 8
FACTS = EngineFacts(
    max_model_len=2048,
    max_num_seqs=4,
    max_in_flight=MAX_IN_FLIGHT,
    num_blocks=100,
    block_size=16,
    vocab_size=1000,
    model_hash=b"\0" * 16,
)
NUM_PROMPT_TOKENS = 5
WORDS = ["Hel", "lo ", "w\N{LATIN SMALL LETTER O WITH DIAERESIS}rld", "!"]
TEXT = "".join(WORDS)
WAIT_S = 20.0


class ScriptedEngine:
    """Plays every other actor. Records what the frontend sends; says what a test tells it to, or
    answers each request by itself while `answers` is set."""

    STOP = FinishReason.STOP
    LENGTH = FinishReason.LENGTH
    ABORT = FinishReason.ABORT
    ERROR = FinishReason.ERROR

    def __init__(self, topology: Topology) -> None:
        self.reset()
        self.context = new_context()
        roles = ("input_processor", "engine_core", "supervisor")
        self.inboxes = [Inbox(self.context, topology.address(role)) for role in roles]
        self.outboxes = {
            role: Outbox(self.context, topology.address("frontend"), identity(role, 0, 1))
            for role in (*roles, "detokenizer")
        }
        loop = asyncio.get_running_loop()
        for inbox in self.inboxes:
            inbox.attach(loop, self._on_frames)

    def reset(self) -> None:
        """Forget what was; answer by itself again."""
        self.submitted: asyncio.Queue[SubmitRequest] = asyncio.Queue()
        self.aborted: asyncio.Queue[RequestKey] = asyncio.Queue()
        self._known: set[RequestKey] = set()
        self.drained: asyncio.Queue[int] = asyncio.Queue()
        self.ready: asyncio.Queue[ActorReady] = asyncio.Queue()
        self.serving: asyncio.Queue[Serving] = asyncio.Queue()
        self.failed: asyncio.Queue[ActorFailed] = asyncio.Queue()
        self.answers: Callable[[SubmitRequest], None] | None = self.complete
        self._progress: dict[tuple[RequestKey, int], list[int]] = {}

    def close(self) -> None:
        for channel in (*self.inboxes, *self.outboxes.values()):
            channel.close()
        self.context.term()

    async def turn(self) -> None:
        """Let the loop do what is due."""
        await asyncio.sleep(0)

    async def next_submit(self) -> SubmitRequest:
        return await asyncio.wait_for(self.submitted.get(), WAIT_S)

    async def next_abort(self) -> RequestKey:
        return await asyncio.wait_for(self.aborted.get(), WAIT_S)

    async def next_drained(self) -> int:
        return await asyncio.wait_for(self.drained.get(), WAIT_S)

    def send(self, role: str, message: Message) -> None:
        self.outboxes[role].send(encode(message))

    def admit(self, request: SubmitRequest) -> None:
        seq_ids = tuple(SeqId(i + 1) for i in range(request.options.n))
        admitted = RequestAdmitted(request.key, seq_ids, NUM_PROMPT_TOKENS, TextParams())
        self.send("engine_core", admitted)

    def reject(self, key: RequestKey, status: int, code: str, param: str | None = None) -> None:
        rejected = RequestRejected(key, status, code, f"rejected: {code}", param)
        self.send("input_processor", rejected)

    def text(
        self, key: RequestKey, text: str, choice: int = 0, num_tokens: int = 1, **fields: Any
    ) -> None:
        progress = self._progress.setdefault((key, choice), [0, 0])
        char_offset, progress[0] = progress[0], progress[0] + len(text)
        progress[1] += num_tokens
        chunk = TextChunk(key, choice, char_offset, text, progress[1], **fields)
        self.send("detokenizer", TextEmitted([chunk]))

    @staticmethod
    def logprob(token: str, logprob: float) -> TokenLogprob:
        return TokenLogprob(token, logprob, token.encode(), [])

    def finish(self, key: RequestKey) -> None:
        self.send("engine_core", RequestFinished(key))

    def complete(self, request: SubmitRequest) -> None:
        """Answer with TEXT, one token per word, as every choice."""
        self.admit(request)
        for choice in range(request.options.n):
            for i, word in enumerate(WORDS):
                is_last = i == len(WORDS) - 1
                self.text(
                    request.key,
                    word,
                    choice,
                    finish_reason=FinishReason.STOP if is_last else None,
                    num_cached_tokens=3 if i == 0 else 0,
                    logprobs=_logprobs(word, request.options.num_logprobs),
                )
        self.finish(request.key)

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            match decode(frame.payload):
                case SubmitRequest() as request:
                    self._known.add(request.key)
                    self.submitted.put_nowait(request)
                    if self.answers is not None:
                        self.answers(request)
                case AbortRequest(key):
                    if key in self._known:  # not one that the test before has left behind
                        self.aborted.put_nowait(key)
                    self.finish(key)
                case Drained(num_cut_short):
                    self.drained.put_nowait(num_cut_short)
                case ActorReady() as ready:
                    self.ready.put_nowait(ready)
                case Serving() as serving:
                    self.serving.put_nowait(serving)
                case ActorFailed() as failed:
                    self.failed.put_nowait(failed)
                case message:
                    raise AssertionError(f"the frontend sent {message}")


def _logprobs(word: str, num_logprobs: int) -> list[TokenLogprob] | None:
    if num_logprobs < 0:
        return None
    top = [(f"{word}{i}", -0.5 - i, f"{word}{i}".encode()) for i in range(num_logprobs)]
    return [TokenLogprob(word, -0.25, word.encode(), top)]


class RemoteFrontend:
    """A frontend at work somewhere: its address and its engine."""

    def __init__(self, engine: ScriptedEngine, port: int) -> None:
        self.engine = engine
        self.clients: list[RawClient] = []
        self.run_dir: str | None = None
        self.listener: socket.socket | None = None
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def close_clients(self) -> None:
        while self.clients:
            await self.clients.pop().cut()

    async def announce(self) -> None:
        """Say that everybody is there."""
        self.engine.send("engine_core", FACTS)
        self.engine.send("supervisor", SystemReady())

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx.AsyncClient(base_url=self.url, timeout=WAIT_S) as client:
            return await client.post(path, content=content, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=WAIT_S) as client:
            return await client.get(path, **options)

    async def connect(self) -> "RawClient":
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def open(self, path: str, body: Any) -> "RawClient":
        """Send a POST over a bare socket and read nothing yet."""
        client = await self.connect()
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
        client.writer.write(head.encode() + payload)
        await client.writer.drain()
        return client


class RunningFrontend(RemoteFrontend):
    """A frontend in this process, which can be asked about itself."""

    def __init__(self, actor: FrontendActor, engine: ScriptedEngine, port: int) -> None:
        super().__init__(engine, port)
        self.actor = actor
        self.client = actor.engine

    @property
    def server(self) -> Any:
        return self.actor._server

    async def become_ready(self) -> None:
        await self.announce()
        await asyncio.wait_for(self.engine.ready.get(), WAIT_S)
        await self.state("ready")
        await asyncio.wait_for(self.engine.serving.get(), WAIT_S)

    async def state(self, state: str) -> None:
        """Wait until the frontend is in `state`."""
        async with asyncio.timeout(WAIT_S):
            while self.client.statistics().state != state:
                await asyncio.sleep(0)

    async def in_flight(self, num_requests: int) -> None:
        """Wait until this many credits are out."""
        async with asyncio.timeout(WAIT_S):
            while self.client.statistics().num_in_flight != num_requests:
                await asyncio.sleep(0)

    async def idle(self) -> None:
        """Wait until nothing is open and every credit is back."""
        async with asyncio.timeout(WAIT_S):
            while (state := self.client.statistics()).num_open_calls or state.num_in_flight:
                await asyncio.sleep(0)


class RawClient:
    """A client that can stop reading, or leave, whenever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._unread = b""

    async def read_until(self, text: bytes) -> bytes:
        """What comes up to the end of `text`."""
        async with asyncio.timeout(WAIT_S):
            while text not in self._unread:
                data = await self.reader.read(1 << 16)
                assert data, f"the server closed after {self._unread[-1000:]!r}"
                self._unread += data
        end = self._unread.index(text) + len(text)
        taken, self._unread = self._unread[:end], self._unread[end:]
        return taken

    async def read_all(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), WAIT_S)

    async def cut(self) -> None:
        """Leave a connection that the server may have cut already."""
        with contextlib.suppress(OSError):
            await self.leave()

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in the real process: the transports of uvloop are not asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def remote() -> AsyncIterator[RemoteFrontend]:
    """The engine's other actors, a run directory, and a port: all but the frontend itself."""
    with tempfile.TemporaryDirectory(prefix="tr-") as run_dir:
        topology = Topology(Path(run_dir))
        topology.write_options(EngineOptions(model=MODEL, served_model_name=MODEL))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            engine = ScriptedEngine(topology)
            frontend = RemoteFrontend(engine, listener.getsockname()[1])
            frontend.run_dir, frontend.listener = run_dir, listener
            yield frontend
            await frontend.close_clients()
            engine.close()


@contextlib.asynccontextmanager
async def running_frontend(**options: Any) -> AsyncIterator[RunningFrontend]:
    # Not tmp_path: the name of a socket may not be long.
    with tempfile.TemporaryDirectory(prefix="tr-") as run_dir, contextlib.ExitStack() as channels:
        topology = Topology(Path(run_dir))
        engine = ScriptedEngine(topology)
        channels.callback(engine.close)
        context = new_context()
        channels.callback(context.term)
        inbox = Inbox(context, topology.address("frontend"))
        channels.callback(inbox.close)
        own_name = identity("frontend", 0, 1)
        outboxes = {
            role: Outbox(context, topology.address(role), own_name)
            for role in ("input_processor", "engine_core", "supervisor")
        }
        for outbox in outboxes.values():
            channels.callback(outbox.close)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        runtime = ActorRuntime(
            role="frontend",
            options=EngineOptions(model=MODEL, served_model_name=MODEL, **options),
            topology=topology,
            clock=SystemClock(),
            inbox=inbox,
            outboxes=outboxes,
            loop=loop,
            listen_fd=listener.detach(),
        )
        actor = FrontendActor(runtime)
        actor.start()
        inbox.attach(loop, actor.on_frames)
        running = RunningFrontend(actor, engine, port)
        yield running
        await running.close_clients()
        await actor.stop_serving()


@pytest.fixture
async def start_frontend() -> AsyncIterator[Any]:
    """Start a frontend with these options; it has not heard from anybody yet."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options: Any) -> RunningFrontend:
            return await stack.enter_async_context(running_frontend(**options))

        yield start


@pytest.fixture
def start_ready(start_frontend: Any) -> Any:
    """As `start_frontend`, and wait until it is ready."""

    async def start(*, max_pending_chunks: int | None = None, **options: Any) -> RunningFrontend:
        running: RunningFrontend = await start_frontend(**options)
        if max_pending_chunks is not None:
            running.client._max_pending_chunks = max_pending_chunks
        await running.become_ready()
        return running

    return start


@pytest.fixture(scope="module")
async def shared_frontend() -> AsyncIterator[RunningFrontend]:
    async with running_frontend() as running:
        await running.become_ready()
        yield running


@pytest.fixture
async def frontend(shared_frontend: RunningFrontend) -> AsyncIterator[RunningFrontend]:
    """A frontend that is ready. At the end nothing may be open and every credit must be back."""
    shared_frontend.engine.reset()
    yield shared_frontend
    await shared_frontend.close_clients()
    await shared_frontend.idle()
