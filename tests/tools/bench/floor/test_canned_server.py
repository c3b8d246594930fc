"""The HTTP side alone puts out whole streams, a chunk per tick, as the engine would write them."""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from typing import Any, cast

from tokenreel.frontend.http_server import Exchange
from tokenreel.tools.bench.floor.canned_server import CHUNK, READY, Ticks
from tokenreel.tools.bench.processes.child_process import ChildProcess, Line, python_module

PATIENCE_S = 30.0
SERVER = "tokenreel.tools.bench.floor.canned_server"


class SlowClient:
    """Takes a part only at the ticks that are named."""

    def __init__(self, *takes: bool) -> None:
        self.parts: list[bytes] = []
        self.leave: Callable[[], None] | None = None
        self._takes = list(takes)

    @property
    def may_write(self) -> bool:
        return self._takes.pop(0) if self._takes else True

    def write(self, part: bytes) -> None:
        self.parts.append(part)

    def when_left(self, on_left: Callable[[], None] | None) -> None:
        self.leave = on_left


def as_exchange(client: SlowClient) -> Exchange:
    return cast(Exchange, client)


def event(part: bytes) -> Any:
    return json.loads(part.removeprefix(b"data: "))


def url_of(lines: list[Line]) -> str | None:
    told = (line.text for line in lines if line.text.startswith(READY))
    return next((text.removeprefix(READY) for text in told), None)


def test_a_stream_has_as_many_chunks_as_were_asked_for_then_usage_and_done() -> None:
    with ChildProcess("http", python_module(SERVER)) as child:
        url = child.wait_for(url_of, PATIENCE_S)
        body = json.dumps({"prompt": [1, 2], "max_tokens": 3}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            *chunks, last, done, rest = answer.read().split(b"\n\n")
    assert [event(chunk) for chunk in chunks] == [CHUNK] * 3
    assert event(last)["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
    }
    assert (done, rest) == (b"data: [DONE]", b"")


async def test_who_does_not_take_a_chunk_gets_it_later_and_holds_up_nobody() -> None:
    ticks = Ticks()
    slow, quick = SlowClient(False, True, False, False), SlowClient()
    took_longest = asyncio.create_task(ticks.stream(as_exchange(slow), 3))
    await ticks.stream(as_exchange(quick), 3)
    assert len(quick.parts) == 3 and not took_longest.done()
    await took_longest
    assert [event(part) for part in slow.parts] == [CHUNK] * 3


async def test_the_stream_of_a_client_that_left_ends() -> None:
    client = SlowClient()
    stream = asyncio.create_task(Ticks().stream(as_exchange(client), 1 << 40))
    while not client.parts:
        await asyncio.sleep(0)
    assert client.leave is not None
    client.leave()
    await asyncio.wait_for(stream, PATIENCE_S)


async def test_a_client_that_leaves_behind_its_last_chunk_holds_up_nobody() -> None:
    """Its task has not had its turn when the next tick comes."""
    ticks, client = Ticks(), SlowClient()
    stream = asyncio.create_task(ticks.stream(as_exchange(client), 1))
    await asyncio.sleep(0)
    assert client.leave is not None
    ticks._tick()
    client.leave()
    ticks._tick()
    await asyncio.wait_for(stream, PATIENCE_S)
