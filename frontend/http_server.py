"""uvicorn, as this project runs it: inside an actor's loop, with bounds on what clients may hold.

uvicorn itself bounds neither a request's head, nor the number of idle connections, nor the time
that a client may take; and once a client has sent a second request ahead of time, the application
does not learn that it left. Here these hold.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tokenreel.frontend.errors import ApiError

MAX_HEAD_BYTES = 64 << 10
MAX_WAITING_BYTES = 64 << 10
"""Of requests that a client sends before the one ahead of them is answered."""
MAX_DISCARDED_BYTES = 64 << 20
"""Of a body that nobody reads, because its request has been answered."""
STALL_TIMEOUT_S = 60
"""A connection is cut when nothing moved on it for so long while it was the client's turn."""
KEEP_ALIVE_S = 60
STOP_TIMEOUT_S = 2
"""For what is still being written when the server stops."""
_TICKS_PER_S = 10
_EXCHANGE = "exchange"


class HttpServer(Server):
    """Serves `app` on a bound socket; `on_started` is called when it listens. To stop, set
    `should_exit`. Signals are left to the actor."""

    def __init__(
        self, app: ASGIApp, max_connections: int, on_started: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(_Config(app, max_connections))
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        if counter % (STALL_TIMEOUT_S * _TICKS_PER_S) == 0:
            self.cut_stalled_connections()
        return await super().on_tick(counter)

    def cut_stalled_connections(self) -> None:
        """Cut those on which nothing has moved since this was called last."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.cut_if_stalled()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Config(Config):
    def __init__(self, app: ASGIApp, max_connections: int) -> None:
        super().__init__(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            loop="none",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        self.max_connections = max_connections
        self.writing_turn = _WritingTurn()


class Exchange:
    """One request and its answer: what the application may know and do beyond ASGI, without a
    coroutine or a task for it.

    ASGI's `send` can wait, so it costs a coroutine per part of a streamed body and per layer around
    the application; whoever may not write here right now does not wait, but sends that part with
    `send`. Parts written in one turn of the loop leave as one chunk, before anything that is sent
    after them."""

    __slots__ = ("_cycle", "_flow", "_on_left", "_parts", "_turn")

    def __init__(self, cycle: RequestResponseCycle, turn: "_WritingTurn") -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._turn = turn
        self._parts: list[bytes] = []
        self._on_left: Callable[[], None] | None = None

    @property
    def has_whole_body(self) -> bool:
        """Whether the request's body has come to its end: `receive` does not wait for it."""
        return not self._cycle.more_body

    def when_left(self, on_left: Callable[[], None] | None) -> None:
        """Calls it when the client leaves, at once if it has; None: nobody wants to know."""
        self._on_left = on_left
        # uvicorn stops reading in the middle of a large body; then nobody would notice.
        self._flow.resume_reading()
        if self._cycle.disconnected:
            self.leave()

    def leave(self) -> None:
        """The client has left."""
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left()

    @property
    def may_write(self) -> bool:
        """Whether the client takes what is written, and no more waits for it than should. The
        answer's start must have been sent."""
        return not self._flow.write_paused

    def write(self, part: bytes) -> None:
        """A part of the body, which is not empty."""
        if not self._parts:
            self._turn.join(self)
        self._parts.append(part)

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        if not self._cycle.disconnected:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def cut(self) -> None:
        """End the connection: its answer has a hole."""
        self._cycle.transport.abort()


def exchange_of(scope: Mapping[str, Any]) -> Exchange:
    """That of the request which `scope` describes."""
    exchange = scope["state"][_EXCHANGE]
    assert isinstance(exchange, Exchange)
    return exchange


class _WritingTurn:
    """Who has written in this turn of the loop."""

    def __init__(self) -> None:
        self._writers: list[Exchange] = []

    def join(self, writer: Exchange) -> None:
        if not self._writers:
            asyncio.get_running_loop().call_soon(self._end)
        self._writers.append(writer)

    def _end(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            try:
                writer.flush()
            except Exception as error:
                # It harms that connection; what others have written is not lost with it.
                message = "a part of an answer cannot be written"
                loop = asyncio.get_running_loop()
                loop.call_exception_handler({"message": message, "exception": error})
                writer.cut()


class Connection(HttpToolsProtocol):
    """One client's connection, within bounds."""

    config: _Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cycles: list[RequestResponseCycle] = []
        self._is_in_head = False
        self._num_head_bytes = 0
        self._num_waiting_bytes = 0
        self._num_discarded_bytes = 0
        self._num_received = 0
        self._num_answered = 0
        self._last_progress: tuple[int, ...] = ()
        limit = self.config.max_connections
        if len(self.connections) > limit:
            message = f"more than {limit} connections are open"
            self._refuse(ApiError(503, message, code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells the newest request only; the one being answered may be an older one.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                exchange_of(cycle.scope).leave()
        self._cycles.clear()

    def data_received(self, data: bytes) -> None:
        self._num_received += 1
        super().data_received(data)
        if not self.transport.is_closing():
            self._check_bounds(len(data))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_in_head = False
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)
        turn = self.config.writing_turn
        self.cycle.scope["state"][_EXCHANGE] = Exchange(self.cycle, turn)

    def on_response_complete(self) -> None:
        self._num_answered += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg, code="invalid_http"))

    def cut_if_stalled(self) -> None:
        buffered = self.transport.get_write_buffer_size()
        progress = (self._num_received, self._num_answered, buffered)
        if progress == self._last_progress and self._is_clients_turn():
            self.transport.abort()
        self._last_progress = progress

    def _is_clients_turn(self) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return True
        return self.flow.write_paused

    def _check_bounds(self, num_bytes: int) -> None:
        if not self._is_in_head:
            self._num_head_bytes = 0
        else:
            self._num_head_bytes += num_bytes
            if self._num_head_bytes > MAX_HEAD_BYTES:
                message = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes"
                self._refuse(ApiError(431, message, code="head_too_large"))
                return
        if not self.pipeline:
            self._num_waiting_bytes = 0
        else:
            self._num_waiting_bytes += num_bytes
            if self._num_waiting_bytes > MAX_WAITING_BYTES:
                self.transport.abort()
                return
            # uvicorn stops reading here, but then nobody would notice that the client left.
            self.flow.resume_reading()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self._num_discarded_bytes += num_bytes
            if self._num_discarded_bytes > MAX_DISCARDED_BYTES:
                self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close."""
        if any(cycle.response_started and not cycle.response_complete for cycle in self._cycles):
            # Nothing may be put into the answer that is being written.
            self.transport.abort()
            return
        headers = error.headers | {
            "content-type": "application/json",
            "content-length": str(len(error.body)),
            "connection": "close",
        }
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + error.body)
        self.transport.close()
