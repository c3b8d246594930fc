"""A server on a real socket that answers as a test says, byte for byte."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tokenreel.tools.bench.client.address import parse_address
from tokenreel.tools.bench.client.endpoint import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Exchange:
    """One request at the scripted server, and the means to answer it."""

    def __init__(
        self, number: int, head: bytes, body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        """Counts the server's requests from 0."""
        self.head = head
        self.body = body
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        """A piece of a chunked body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def stream(self, *events: bytes) -> None:
        """A whole streamed answer."""
        await self.send(HEAD)
        for event in events:
            await self.chunk(event)
        await self.send(b"0\r\n\r\n")

    async def refuse(self, status: int, body: bytes, headers: bytes = b"") -> None:
        head = b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), headers)
        await self.send(head + body)

    def drop(self) -> None:
        """Close the connection, whatever has been said."""
        self._writer.close()


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedServer:
    def __init__(self, script: Script) -> None:
        self.num_connections = 0
        self.requests: list[dict[str, Any]] = []
        self._script = script
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def endpoint(self) -> Endpoint:
        """A new one each time, without connections."""
        return Endpoint(parse_address(self.url))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [x for x in head.lower().split(b"\r\n") if b"content-length" in x]
                length = int(lengths[0].partition(b":")[2]) if lengths else 0
                body = json.loads(await reader.readexactly(length) or b"{}")
                self.requests.append(body)
                await self._script(Exchange(len(self.requests) - 1, head, body, writer))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def token_event(text: str = "a", **fields: object) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"choices": [choice], **fields}).encode()


def usage_event(num_output_tokens: int, num_cached: int = 0) -> bytes:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }
    return b"data: %b\n\n" % json.dumps({"choices": [], "usage": usage}).encode()


def stream_of(num_tokens: int) -> list[bytes]:
    """A stream of so many tokens, one per event, with its usage and its end."""
    return [*(token_event() for _ in range(num_tokens)), usage_event(num_tokens), DONE]
