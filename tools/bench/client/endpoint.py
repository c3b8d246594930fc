"""A server as the bench sees it: how requests to it are written, and what it says of itself."""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

import msgspec

from tokenreel.tools.bench.client.address import Address
from tokenreel.tools.bench.client.answers import WholeAnswer
from tokenreel.tools.bench.client.connection import ConnectionFailed, Connections
from tokenreel.tools.bench.problem import Unavailable

NOT_READY_STATUSES = (502, 503, 504)
"""The server's own, and those of a proxy whose server has not come up."""
POLL_S = 0.1
ANSWER_TIMEOUT_S = 10.0


class NotServed(Unavailable):
    """There is no server there, or none that serves: one line for the user."""


class NotReady(NotServed):
    """It may be there, or serve, a little later."""


class Endpoint:
    def __init__(self, address: Address, headers: Mapping[str, str] | None = None) -> None:
        self.connections = Connections(address)
        self._address = address
        lines = [f"Host: {address.host_header}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._headers = "".join(f"{line}\r\n" for line in lines).encode()
        self._post = (
            f"POST {address.prefix}/v1/completions HTTP/1.1\r\n".encode()
            + self._headers
            + b"Content-Type: application/json\r\nContent-Length: "
        )

    def request(self, body: Mapping[str, Any]) -> bytes:
        """A whole POST, ready to be sent."""
        content = msgspec.json.encode(body)
        return b"%b%d\r\n\r\n%b" % (self._post, len(content), content)

    async def wait_until_ready(self, timeout_s: float, model: str | None = None) -> str:
        """Return the name of the first model that is served, or `model`. A refusal is not waited
        out. Raises NotServed."""
        deadline = monotonic() + timeout_s
        while True:
            try:
                await self._get("/health")  # Not everybody has it.
                return model or await self._first_model()
            except NotReady:
                if monotonic() >= deadline:
                    raise
            await asyncio.sleep(POLL_S)

    async def _first_model(self) -> str:
        answer = await self._get("/v1/models")
        if answer.status != 200:
            raise NotServed(f"/v1/models says: {answer.finish().failure}")
        try:
            return str(msgspec.json.decode(answer.body)["data"][0]["id"])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError):
            raise NotServed("/v1/models names no model; name it: --served-model-name") from None

    async def _get(self, path: str) -> WholeAnswer:
        answer = WholeAnswer()
        head = f"GET {self._address.prefix}{path} HTTP/1.1\r\n".encode()
        where = f"{self._address.host}:{self._address.port}"
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self.connections.ask(head + self._headers + b"\r\n", answer)
        except TimeoutError:
            raise NotReady(f"{where} did not answer within {ANSWER_TIMEOUT_S:g} s") from None
        except ConnectionFailed as failure:
            raise NotReady(f"{where}: {failure}") from None
        if answer.status in NOT_READY_STATUSES:
            raise NotReady(f"{path} says {answer.status}: it is not ready")
        return answer
