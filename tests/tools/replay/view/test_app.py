"""The JSON API and the page's files: bounded, for this machine only, nothing from elsewhere."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tokenreel.frontend.host_check import HostCheck
from tokenreel.tools.replay.reading.journal import JournalMissing
from tokenreel.tools.replay.view.app import MAX_QUESTIONS, Api, make_app
from tokenreel.tools.replay.view.assets import PAGE
from tokenreel.tools.replay.view.recorded import Recorded

QUESTIONS = (
    "/api/run",
    "/api/steps?from=1&until=100&bins=20",
    "/api/step/5",
    "/api/requests?query=abort",
    "/api/request/1.7",
    "/api/next?kind=miss&step=3&direction=previous",
)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_every_question_has_an_answer(page: httpx.AsyncClient, question: str) -> None:
    answer = await page.get(question)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("/api/steps", 400),
        ("/api/steps?from=1&until=9&bins=0", 400),
        ("/api/steps?from=1&until=9&bins=2001", 400),
        ("/api/steps?from=9&until=1&bins=5", 400),
        ("/api/steps?from=-1&until=9&bins=5", 400),
        ("/api/steps?from=1e3&until=9&bins=5", 400),
        ("/api/steps?from=\N{ARABIC-INDIC DIGIT THREE}&until=9&bins=5", 400),
        (f"/api/steps?from=1&until={'9' * 20}&bins=5", 400),
        ("/api/step/0", 404),
        (f"/api/step/{'9' * 19}", 404),
        (f"/api/step/{'9' * 5000}", 400),
        ("/api/step/x", 400),
        ("/api/step/-1", 400),
        (f"/api/requests?query={'a' * 101}", 400),
        ("/api/request/no", 404),
        (f"/api/request/cmpl-1.7-{'a' * 100}", 400),
        ("/api/next?kind=murder&step=1", 400),
        ("/api/next?kind=miss&step=1&direction=up", 400),
        ("/api/nothing", 404),
        ("/../pyproject.toml", 404),
        ("/%2e%2e/app.py", 404),
        ("/index.html", 404),
    ],
)
async def test_a_wrong_question_gets_one_line(
    page: httpx.AsyncClient, question: str, status: int
) -> None:
    answer = await page.get(question)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert message and "\n" not in message and "Traceback" not in message


async def test_a_huge_range_costs_no_more_than_its_bins(page: httpx.AsyncClient) -> None:
    answer = await page.get(f"/api/steps?from=0&until={2**62}&bins=50")
    told = answer.json()
    assert len(told["columns"]["steps"]) == 50
    assert sum(told["columns"]["steps"]) == told["until"]


async def test_nothing_can_be_changed(page: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/", "/api/run", "/api/step/5"):
            assert (await page.request(method, path)).status_code == 405


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/run", "/api/step/0", "/nothing"])
async def test_every_answer_forbids_whatever_comes_from_elsewhere(
    page: httpx.AsyncClient, path: str
) -> None:
    headers = (await page.get(path)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy and "http" not in policy and "data:" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8010", 200),
        ("localhost", 200),
        ("LOCALHOST:99", 200),
        ("[::1]:8010", 200),
        ("192.168.3.4", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8010", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
async def test_a_name_that_is_not_this_machines_gets_nothing(
    page: httpx.AsyncClient, host: str, status: int
) -> None:
    for path in ("/", "/api/run"):
        answer = await page.get(path, headers={"host": host})
        assert answer.status_code == status
        if status != 200:
            assert "run_id" not in answer.text


async def test_the_page_is_served_with_everything_that_it_names(page: httpx.AsyncClient) -> None:
    html = (await page.get("/")).text
    names = set(re.findall(r'(?:href|src)="([^"#]+)"', html))
    names |= set(
        re.findall(r'from "\./([\w.]+)"', "".join(p.read_text() for p in PAGE.glob("*.js")))
    )
    assert {"main.js", "panels.css", "favicon.svg", "lanes.js"} <= names
    for name in names:
        answer = await page.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.text == (PAGE / name).read_text()


def test_the_page_names_nothing_elsewhere_and_parses_no_text_as_html() -> None:
    for path in PAGE.iterdir():
        text = path.read_text()
        assert "//" not in re.sub(
            r"http://www\.w3\.org/2000/svg|^\s*//.*$| // .*$", "", text, flags=re.M
        ), path
        for danger in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "javascript:",
        ):
            assert danger not in text, path
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", html)


class SlowRecord(Recorded):
    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    def run(self) -> dict[str, Any]:
        asyncio.run_coroutine_threadsafe(self.may_answer.wait(), self.loop).result()
        return {}

    loop: asyncio.AbstractEventLoop


async def test_more_questions_than_can_wait_are_refused() -> None:
    slow = SlowRecord()
    slow.loop = asyncio.get_running_loop()
    transport = httpx.ASGITransport(make_app(Api(lambda: slow), HostCheck()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        asked = [asyncio.create_task(client.get("/api/run")) for _ in range(MAX_QUESTIONS + 3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in done} == {503}
        slow.may_answer.set()
        codes = [(await task).status_code for task in asked]
    assert codes.count(200) == MAX_QUESTIONS and codes.count(503) == 3


async def test_a_journal_that_is_not_there_yet_is_a_503_until_it_is(recorded: Recorded) -> None:
    answers = [recorded]

    def open_recorded() -> Recorded:
        if len(answers) == 1:
            answers.append(recorded)
            raise JournalMissing("cannot read there: No such file or directory")
        return recorded

    transport = httpx.ASGITransport(make_app(Api(open_recorded), HostCheck()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        early = await client.get("/api/run")
        assert (early.status_code, early.json()["error"]["code"]) == (503, "journal")
        assert (await client.get("/api/run")).status_code == 200


async def test_a_journal_that_has_ended_is_not_looked_at_again(recorded: Recorded) -> None:
    await asyncio.wait_for(Api(lambda: recorded).follow(), 20)


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(PAGE).iterdir()) < 120_000
