"""The HTTP side alone: what the engine serves with, streaming chunks that nobody computed.

    python -m tokenreel.tools.bench.floor.canned_server

Every tick each open stream gets one chunk, as each running sequence gets one token per step. It is
written as the engine writes its own: straight to the connection, with nothing encoded but its text.
"""

import asyncio
import signal
import socket
from typing import Annotated, Any

import msgspec
import uvloop
from msgspec import Meta
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tokenreel.frontend.http_server import Exchange, HttpServer, exchange_of
from tokenreel.frontend.request_body import read_body
from tokenreel.tools.listener import listen

TICK_S = 0.001
"""The shortest that uvloop's clock knows; under load a tick takes as long as the chunks do."""
MAX_BODY_BYTES = 8 << 20
MAX_CONNECTIONS = 8192
READY = "serves at "
BACKLOG = 2048
TEXT = " word"
CHUNK: dict[str, Any] = {
    "id": "cmpl-1.57-9f0c4e1b7a22d583",
    "created": 1_700_000_000,
    "model": "canned",
    "object": "text_completion",
    "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": None}],
    "usage": None,
}
"""As long as the engine's own."""
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}


class _Body(msgspec.Struct):
    prompt: list[int]
    max_tokens: Annotated[int, Meta(ge=1)]


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Body)
_BEFORE, _, _AFTER = (b"data: %b\n\n" % _encode(CHUNK)).partition(_encode(TEXT))


class _Stream:
    """One answer, of which `num_left` chunks are still to be written."""

    __slots__ = ("exchange", "is_over", "num_left")

    def __init__(self, exchange: Exchange, num_left: int, is_over: asyncio.Future[None]) -> None:
        self.exchange = exchange
        self.num_left = num_left
        self.is_over = is_over


class Ticks:
    """The open streams: at each tick, every one whose client takes it gets a chunk."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: set[_Stream] = set()
        self._loop.call_later(TICK_S, self._tick)

    async def stream(self, exchange: Exchange, num_chunks: int) -> None:
        """Return when all have been written, one at least, or the client has left."""
        stream = _Stream(exchange, num_chunks, self._loop.create_future())
        self._streams.add(stream)

        def leave() -> None:
            stream.num_left = 1

        exchange.when_left(leave)
        try:
            await stream.is_over
        finally:
            self._streams.discard(stream)

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        for stream in self._streams:
            if stream.exchange.may_write:
                stream.exchange.write(b"%b%b%b" % (_BEFORE, _encode(TEXT), _AFTER))
                stream.num_left -= 1
                if not stream.num_left and not stream.is_over.done():
                    stream.is_over.set_result(None)


class CannedCompletions:
    """POST: `max_tokens` chunks, one per tick."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, MAX_BODY_BYTES)
        if body is None:
            return
        fields = _decoder.decode(body)
        await send(_START)
        await self._ticks.stream(exchange_of(scope), fields.max_tokens)
        usage = {
            "prompt_tokens": len(fields.prompt),
            "completion_tokens": fields.max_tokens,
            "total_tokens": len(fields.prompt) + fields.max_tokens,
        }
        last = b"data: %b\n\ndata: [DONE]\n\n" % _encode(CHUNK | {"choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _serve(listener: socket.socket) -> None:
    completions = CannedCompletions(Ticks())
    app = Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
    host, port = listener.getsockname()[:2]

    def tell() -> None:
        print(f"{READY}http://{host}:{port}", flush=True)

    server = HttpServer(app, MAX_CONNECTIONS, tell)

    def stop() -> None:
        server.should_exit = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)
    await server.serve(sockets=[listener])


def main() -> int:
    listener = listen("127.0.0.1", 0, BACKLOG)
    listener.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(listener))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
