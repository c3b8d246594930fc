"""`engine-up --debug-view`: the run as it goes on, under /debug. The engine does not need it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from headless_browser import headless_browser
from running_engine import PATIENCE_S, RunningEngine

T = TypeVar("T")


@pytest.fixture(scope="module")
def viewed() -> Iterator[RunningEngine]:
    """Tokens that count upwards: it is there at once."""
    with RunningEngine(
        "--stub-worker", "--debug-view", "--num-gpu-blocks-override", "40"
    ) as engine:
        yield engine.wait_until_ready()


def eventually(condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
    return found


def run_of(http: httpx.Client) -> dict[str, Any] | None:
    answer = http.get("/debug/api/run")
    return answer.json() if answer.status_code == 200 else None


def complete(http: httpx.Client, engine: RunningEngine, max_tokens: int) -> None:
    body = {"model": engine.model, "prompt": "one two three", "max_tokens": max_tokens}
    assert http.post("/v1/completions", json=body).status_code == 200


def view_pid(engine: RunningEngine) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"view" in words and os.fsencode(engine.run_dir / "view.sock") in words:
            return int(path.parent.name)
    raise AssertionError("no view runs")


def test_the_address_is_announced(viewed: RunningEngine) -> None:
    assert viewed.wait_for_line("the debug view is at ").endswith(f"{viewed.url}/debug/")


def test_the_running_engine_is_shown_while_it_runs(viewed: RunningEngine) -> None:
    with viewed.http() as http:
        complete(http, viewed, 20)
        run = eventually(lambda: (r := run_of(http)) and r["steps"]["count"] >= 20 and r)
        assert (run["is_live"], run["run_id"]) == (True, viewed.journal.name)
        state = http.get(f"/debug/api/step/{run['steps']['last']}").json()
        assert state["pool"]["num_blocks"] == 40
        complete(http, viewed, 30)
        more = run["steps"]["count"] + 30
        eventually(lambda: (r := run_of(http)) and r["steps"]["count"] >= more)
        found = http.get("/debug/api/requests?query=length").json()
        assert found["total"] == 2
        assert found["requests"][0]["outputs"] + found["requests"][1]["outputs"] == 50


def test_the_page_follows_the_end(viewed: RunningEngine) -> None:
    with headless_browser() as browser, viewed.http() as http:
        complete(http, viewed, 5)
        eventually(lambda: (r := run_of(http)) and r["steps"]["count"] >= 5)
        browser.open(f"{viewed.url}/debug/")
        assert browser.find("#follow").is_selected()

        def step() -> int:
            return int(browser.find("#lanes-box").get_attribute("aria-valuenow"))

        before = step()
        complete(http, viewed, 40)
        browser.wait(lambda: step() >= before + 40)
        browser.press("\ue012")  # whoever looks back is not carried off
        assert not browser.find("#follow").is_selected()
        stood = step()
        complete(http, viewed, 10)
        browser.wait(lambda: int(browser.find("#step").get_attribute("max")) >= stood + 10)
        assert step() == stood
        assert browser.complaints() == [] and browser.strangers() == []


def test_the_engine_goes_on_without_its_view(viewed: RunningEngine) -> None:
    os.kill(view_pid(viewed), signal.SIGKILL)
    viewed.wait_for_line("engine-up: view was killed (SIGKILL)")
    with viewed.http() as http:
        answer = http.get("/debug/")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "debug_view_gone")
        complete(http, viewed, 5)
        assert http.get("/health").status_code == 200
    viewed.stop()
    assert viewed.left_behind() == []


def test_the_view_leaves_with_the_engine() -> None:
    with RunningEngine("--stub-worker", "--debug-view") as engine:
        engine.wait_until_ready()
        with engine.http() as http:
            eventually(lambda: http.get("/debug/").status_code == 200)
        pid = view_pid(engine)
        engine.stop()
        assert not Path(f"/proc/{pid}").exists()
        assert not any("view" in line for line in engine.complaints)
        assert engine.left_behind() == []
