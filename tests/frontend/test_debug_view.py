"""/debug hands questions through to the process that can answer them, within bounds, and shows it
to nobody who may not use the API."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tokenreel.frontend import debug_view

KEY = "a-key"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\nx-own: 1\r\ncontent-length: 5\r\n\r\nhello"


class View:
    """The other process, as far as the frontend can tell."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heard: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        await self.may_answer.wait()
        writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def viewing(frontend: Any, answer: bytes = ANSWER) -> AsyncIterator[View]:
    view = View(answer)
    path: Path = frontend.actor.runtime.topology.view_socket
    async with await asyncio.start_unix_server(view.talk, path):
        yield view


async def test_without_the_flag_there_is_no_debug_view(frontend: Any) -> None:
    for path in ("/debug", "/debug/", "/debug/api/run"):
        assert (await frontend.get(path)).status_code == 404


async def test_a_question_is_handed_through_and_so_is_the_answer(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        answer = await frontend.get("/debug/api/steps?from=1&until=%3C2", headers={"x-mine": "1"})
    assert (answer.status_code, answer.text) == (200, "hello")
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("text/x", "1")
    (request,) = view.heard
    assert request.startswith(b"GET /api/steps?from=1&until=%3C2 HTTP/1.1\r\n")
    assert b"x-mine" not in request and b"authorization" not in request.lower()


async def test_the_page_lies_below_a_slash(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        answer = await frontend.get("/debug", follow_redirects=True)
    assert answer.url.path == "/debug/" and answer.text == "hello"
    assert view.heard[0].startswith(b"GET / HTTP/1.1\r\n")


async def test_only_reading_is_handed_through(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        assert (await frontend.post("/debug/api/run", {})).status_code == 405
    assert view.heard == []


async def test_nobody_there_is_a_503_and_the_rest_goes_on(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    answer = await frontend.get("/debug/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "debug_view_gone")
    assert (await frontend.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "nonsense", [b"", b"\0\1\2\3", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"]
)
async def test_nonsense_is_a_503(start_ready: Any, nonsense: bytes) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend, nonsense):
        assert (await frontend.get("/debug/")).status_code == 503


async def test_an_endless_answer_is_cut(start_ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_view, "MAX_ANSWER_BYTES", 1000)
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000)):
        assert (await frontend.get("/debug/")).status_code == 503


async def test_a_silent_view_is_given_up(start_ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_view, "TIMEOUT_S", 0.05)
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        view.may_answer.clear()
        assert (await frontend.get("/debug/")).status_code == 504
        view.may_answer.set()


async def test_a_long_url_is_refused(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        assert (await frontend.get("/debug/?" + "a" * 3000)).status_code == 414
    assert view.heard == []


async def test_more_questions_than_may_be_open_are_refused(
    start_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_view, "MAX_QUESTIONS", 2)
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        view.may_answer.clear()
        asked = [asyncio.create_task(frontend.get("/debug/")) for _ in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status_code for task in done] == [503]
        view.may_answer.set()
        assert sorted([(await task).status_code for task in asked]) == [200, 200, 503]


async def test_another_name_in_the_host_is_refused_without_a_key(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view:
        answer = await frontend.get("/debug/", headers={"host": "evil.example"})
        assert (answer.status_code, view.heard) == (421, [])
        assert (await frontend.get("/debug/", headers={"host": "localhost"})).status_code == 200


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        (basic("", KEY), 200),
        (basic("anybody", KEY), 200),
        (basic(KEY, ""), 401),
        (basic("", KEY + "x"), 401),
        ({"authorization": "Basic !!"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
    ],
)
async def test_with_a_key_the_debug_view_asks_for_it(
    start_ready: Any, headers: dict[str, str], status: int
) -> None:
    frontend = await start_ready(debug_view=True, api_key=KEY)
    async with viewing(frontend) as view:
        for path in ("/debug", "/debug/", "/debug/api/run"):
            answer = await frontend.get(path, headers=headers, follow_redirects=True)
            assert answer.status_code == status
            if status == 401:
                assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert (view.heard == []) is (status == 401)


async def test_a_password_is_no_key_for_the_api_itself(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True, api_key=KEY)
    answer = await frontend.get("/v1/models", headers=basic("", KEY))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_view_that_was_asked_by_many_leaves_no_connection(start_ready: Any) -> None:
    frontend = await start_ready(debug_view=True)
    async with viewing(frontend) as view, httpx.AsyncClient(base_url=frontend.url) as client:
        for _ in range(20):
            assert (await client.get("/debug/")).status_code == 200
    assert len(view.heard) == 20
