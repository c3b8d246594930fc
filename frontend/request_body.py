"""Reading a request's body, no further than its limit."""

import asyncio
from contextlib import nullcontext

from starlette.types import Receive, Scope

from tokenreel.frontend.errors import ApiError, bad_request
from tokenreel.frontend.http_server import exchange_of

BODY_TIMEOUT_S = 60.0
"""From the end of the head to the end of the body."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None if the client left before its end. Raises `ApiError` 413 as soon as it
    is known to be too large, and 408 if it takes too long."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > max_bytes:
            raise _too_large(max_bytes)
    try:
        # Most bodies are here with their head: a timer for them would cost more than reading them.
        is_here = exchange_of(scope).has_whole_body
        deadline = nullcontext() if is_here else asyncio.timeout(BODY_TIMEOUT_S)
        async with deadline:
            body = await _read_parts(receive, max_bytes)
    except TimeoutError:
        message = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise ApiError(
            408, message, code="request_timeout", headers={"connection": "close"}
        ) from None

    if body == b"":
        raise _empty(scope)
    return body


async def _read_parts(receive: Receive, max_bytes: int) -> bytes | None:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts += message.get("body", b"")
        if len(parts) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(parts)


def _too_large(max_bytes: int) -> ApiError:
    message = f"the body is larger than {max_bytes} bytes"
    return ApiError(413, message, code="body_too_large")


def _empty(scope: Scope) -> ApiError:
    message = "the body is empty"
    if any(name == b"upgrade" for name, _ in scope["headers"]):
        # The parser takes what follows for another protocol. Java's HttpClient asks for h2c so.
        message += ": this server speaks HTTP/1.1 only, send no Upgrade header"
    return bad_request(message, code="empty_body")
