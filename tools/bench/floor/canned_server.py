"""The HTTP side alone: what the engine serves with, streaming chunks that nobody computed.

    python -m tokenreel.tools.bench.floor.canned_server

Every tick each open stream gets one chunk, as each running sequence gets one token per step.
"""

import asyncio
import signal
import socket
from typing import Any

import msgspec
import uvloop
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tokenreel.frontend.http_server import HttpServer
from tokenreel.frontend.request_body import read_body
from tokenreel.tools.listener import listen

TICK_S = 0.001
"""The shortest that uvloop's clock knows; under load a tick takes as long as the chunks do."""
MAX_BODY_BYTES = 8 << 20
MAX_CONNECTIONS = 8192
READY = "serves at "
BACKLOG = 2048
CHUNK: dict[str, Any] = {
    "id": "cmpl-1.57-9f0c4e1b7a22d583",
    "created": 1_700_000_000,
    "model": "canned",
    "object": "text_completion",
    "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}],
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
    max_tokens: int


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Body)


class Ticks:
    """A moment that many wait for, again and again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_later(TICK_S, self._tick)

    async def next(self) -> None:
        await self._next

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        passed, self._next = self._next, self._loop.create_future()
        passed.set_result(None)


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
        for _ in range(fields.max_tokens):
            await self._ticks.next()
            event = b"data: %b\n\n" % _encode(CHUNK)
            await send({"type": "http.response.body", "body": event, "more_body": True})
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
