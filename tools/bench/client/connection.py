"""One HTTP/1.1 connection: sends a request, hands the pieces of the answer on as they come.

Nothing is decoded here, and nothing is kept: at tens of thousands of tokens per second every
microsecond that a token costs the client is one that the server beside it does not have.
"""

import asyncio
import ssl
from time import perf_counter
from typing import Protocol, cast

import httptools

from tokenreel.tools.bench.client.address import Address

MAX_ANSWER_BYTES = 1 << 30
"""Head and body: whoever sends more would fill this machine's memory."""


class ConnectionFailed(Exception):
    """The answer did not come to its end; the message is one of few, so that it can be counted.

    `is_stale`: nothing came, on a connection that had served before. The server may have closed it
    for being idle, so the request may be sent once more.
    """

    def __init__(self, reason: str, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.is_stale = is_stale


class Answer(Protocol):
    """Whoever reads a body."""

    status: int

    def feed(self, body: bytes, at_s: float) -> None:
        """A piece of the body, and when it arrived."""


class Connection(asyncio.Protocol):
    """Serves one request at a time. `is_open` says whether it may serve another."""

    def __init__(self) -> None:
        self.is_open = False
        self._num_served = 0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._ended: asyncio.Future[None] | None = None
        self._num_bytes = 0
        self._at_s = 0.0

    async def ask(self, request: bytes, answer: Answer) -> None:
        """Return when the answer is complete. Raises ConnectionFailed."""
        if self._transport is None or not self.is_open:
            raise ConnectionFailed("the server closed the connection", self._num_served > 0)
        self._answer, self._num_bytes = answer, 0
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._ended
            self._num_served += 1
        except asyncio.CancelledError:
            self.close()  # What comes now would belong to nobody.
            raise
        finally:
            self._answer = self._ended = None

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._at_s = perf_counter()
        self._num_bytes += len(data)
        if self._num_bytes > MAX_ANSWER_BYTES:
            self._fail(ConnectionFailed(f"the answer is larger than {MAX_ANSWER_BYTES} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(ConnectionFailed("the answer is not HTTP"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        is_stale = self._num_served > 0 and self._num_bytes == 0
        self._fail(ConnectionFailed("the server closed the connection", is_stale))

    # From the parser.

    def on_headers_complete(self) -> None:
        if self._answer is not None:
            self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(body, self._at_s)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, failure: ConnectionFailed) -> None:
        self.close()
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(failure)


class Connections:
    """Those to one server that are open and idle; the one that served last serves next."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls = ssl.create_default_context() if address.is_tls else None
        self._idle: list[Connection] = []

    async def ask(self, request: bytes, answer: Answer) -> None:
        """Raises ConnectionFailed."""
        while True:
            connection = await self._take()
            try:
                await connection.ask(request, answer)
            except ConnectionFailed as failure:
                if failure.is_stale:
                    continue
                raise
            if connection.is_open:
                self._idle.append(connection)
            return

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        host, port = self._address.host, self._address.port
        try:
            _, connection = await loop.create_connection(Connection, host, port, ssl=self._tls)
        except OSError as error:
            raise ConnectionFailed(_why_not(error)) from None
        return connection


def _why_not(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection: {error.strerror or type(error).__name__}"
