"""`/debug`: the page of `engine-replay view` on this very run, which a process of its own serves.

Here requests are only handed through, within bounds; that process may be slow or gone, and nobody
else notices.
"""

import asyncio
import http.client
import socket
from pathlib import Path
from typing import NamedTuple

from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from tokenreel.frontend.errors import ApiError
from tokenreel.frontend.host_check import HostCheck

PREFIX = "/debug"
TIMEOUT_S = 20.0
"""Between two signs of life of the process that is asked."""
MAX_ANSWER_BYTES = 16 << 20
MAX_TARGET_BYTES = 2048
MAX_QUESTIONS = 16
"""Handed through at a time; one more is refused."""
_OWN_HEADERS = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
"""Concern one connection each."""


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class DebugView:
    """An ASGI application for everything at and below PREFIX."""

    def __init__(self, socket_path: Path, host_check: HostCheck | None) -> None:
        """Without an API key there is a `host_check`: what asks who may read nothing else does."""
        self._socket_path = socket_path
        self._host_check = host_check
        self._num_questions = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._host_check is not None and not self._host_check.allows(scope):
            raise ApiError(421, "this is not a name of this machine", code="wrong_host")
        if scope["path"] == PREFIX:
            response: Response = RedirectResponse(f"{PREFIX}/")
        else:
            response = await self._hand_through(scope)
        await response(scope, receive, send)

    async def _hand_through(self, scope: Scope) -> Response:
        target = scope["raw_path"].removeprefix(PREFIX.encode())
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        if len(target) > MAX_TARGET_BYTES:
            raise ApiError(414, f"the URL is longer than {MAX_TARGET_BYTES} bytes", code="long_url")
        if self._num_questions >= MAX_QUESTIONS:
            message = f"{MAX_QUESTIONS} questions are open already"
            raise ApiError(503, message, code="overloaded")
        self._num_questions += 1
        try:
            answer = await asyncio.to_thread(self._ask, target.decode("ascii", "replace"))
        except TimeoutError:
            message = f"the debug view did not answer within {TIMEOUT_S:g} s"
            raise ApiError(504, message, code="debug_view_slow") from None
        except (OSError, http.client.HTTPException, ValueError):
            message = "the debug view is not there (yet, or any more): see the engine's output"
            raise ApiError(503, message, code="debug_view_gone") from None
        finally:
            self._num_questions -= 1
        return Response(answer.body, answer.status, answer.headers)

    def _ask(self, target: str) -> _Answer:
        connection = _UnixConnection(self._socket_path)
        try:
            connection.request("GET", target, headers={"host": "localhost", "connection": "close"})
            response = connection.getresponse()
            body = response.read(MAX_ANSWER_BYTES + 1)
            if response.length and len(body) <= MAX_ANSWER_BYTES:  # it broke off
                raise http.client.IncompleteRead(body, response.length)
        finally:
            connection.close()
        if len(body) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"more than {MAX_ANSWER_BYTES} bytes")
        headers = {
            name: value for name, value in response.getheaders() if name.lower() not in _OWN_HEADERS
        }
        return _Answer(response.status, headers, body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
