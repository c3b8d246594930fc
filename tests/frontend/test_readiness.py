"""Coming up, draining, and what clients see when the engine dies."""

import json
from typing import Any

import pytest

from tokenreel.messages.lifecycle import ActorDied, DrainRequested, SystemReady
from tokenreel.messages.outputs import TextChunk, TextEmitted

COMPLETIONS = "/v1/completions"


async def refuses(frontend: Any, reason: str) -> None:
    """Newcomers and /health hear `reason`."""
    response = await frontend.post(COMPLETIONS, {"prompt": "a", "stream": True})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == reason
    health = await frontend.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, reason)
    assert health.json()["reason"]


async def test_nobody_is_served_until_every_actor_is_ready(start_frontend: Any) -> None:
    frontend = await start_frontend()
    await refuses(frontend, "starting")
    assert (await frontend.get("/v1/models")).json()["data"][0]["id"] == "demo"
    await frontend.become_ready()
    health = await frontend.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "ready"})
    assert (await frontend.post(COMPLETIONS, {"prompt": "a"})).status_code == 200


async def test_draining_lets_running_requests_finish(start_ready: Any) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    stream = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    whole = await frontend.open(COMPLETIONS, {"prompt": "b"})
    requests = [await engine.next_submit() for _ in range(2)]
    engine.send("supervisor", DrainRequested(1000.0))
    await frontend.state("draining")
    await refuses(frontend, "draining")
    for request in requests:
        engine.complete(request)
    await stream.read_until(b"data: [DONE]\n\n")
    await whole.read_until(b"}}")
    assert await engine.next_drained() == 0
    await stream.leave()
    await whole.leave()


async def test_an_idle_frontend_is_drained_at_once(start_ready: Any) -> None:
    frontend = await start_ready()
    frontend.engine.send("supervisor", DrainRequested(1000.0))
    assert await frontend.engine.next_drained() == 0
    frontend.engine.send("supervisor", SystemReady())
    await refuses(frontend, "draining")


async def test_what_outlasts_the_drain_is_aborted_and_told(start_ready: Any) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    stream = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    whole = await frontend.open(COMPLETIONS, {"prompt": "b"})
    first, second = [await engine.next_submit() for _ in range(2)]
    requests = {first.text: first, second.text: second}
    engine.admit(requests["a"])
    engine.text(requests["a"].key, "one")
    await stream.read_until(b"one")
    engine.send("supervisor", DrainRequested(0.0))
    assert {await engine.next_abort(), await engine.next_abort()} == {first.key, second.key}
    error = in_band_error(await stream.read_until(b"}}\n\n\r\n0\r\n"))
    assert (error["code"], error["message"]) == ("draining", "the server is shutting down")
    assert b" 503 " in await whole.read_until(b"\r\n")
    assert await engine.next_drained() == 2
    await stream.leave()
    await whole.leave()


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/chat/completions"])
async def test_a_dead_actor_ends_every_stream_in_band(start_ready: Any, path: str) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    running = await frontend.open(path, body | {"stream": True})
    request = await engine.next_submit()
    waiting = await frontend.open(path, body | {"stream": True})
    whole = await frontend.open(path, body)
    await engine.next_submit()
    await engine.next_submit()
    engine.admit(request)
    engine.text(request.key, "one")
    await running.read_until(b"one")

    engine.send("supervisor", ActorDied("worker", 0, "killed by signal 9"))
    error = in_band_error(await running.read_until(b"}}\n\n\r\n0\r\n"))
    assert (error["type"], error["code"]) == ("server_error", "engine_dead")
    assert "worker" in error["message"] and "killed by signal 9" in error["message"]
    for client in (waiting, whole):
        answer = await client.read_until(b"}}")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"engine_dead" in answer
    assert await engine.next_drained() == 3
    await refuses(frontend, "engine_dead")
    for client in (running, waiting, whole):
        await client.leave()


async def test_what_came_before_the_death_goes_out_before_the_error(start_ready: Any) -> None:
    """Also if both came in one turn: the text is still to be written when the call fails."""
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    engine.text(request.key, "one")
    await client.read_until(b"one")
    chunks = [
        TextChunk(request.key, 0, 3 + place, text, 2 + place) for place, text in enumerate("xyz")
    ]
    frontend.client.on_message(TextEmitted(chunks))
    frontend.client.on_message(ActorDied("engine_core", 0, "killed by signal 9"))
    stream = await client.read_until(b"}}\n\n\r\n0\r\n")
    places = [stream.index(b'"text":"%b"' % text) for text in (b"x", b"y", b"z")]
    assert places == sorted(places)
    assert in_band_error(stream)["code"] == "engine_dead"
    await client.leave()


async def test_a_dead_actor_while_draining_is_told_once(start_ready: Any) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a"})
    await engine.next_submit()
    engine.send("supervisor", DrainRequested(1000.0))
    engine.send("supervisor", ActorDied("engine_core", 0, "exit code 1"))
    assert b" 503 " in await client.read_until(b"\r\n")
    assert await engine.next_drained() == 1
    engine.send("supervisor", ActorDied("worker", 0, "exit code 1"))
    await refuses(frontend, "engine_dead")
    assert engine.drained.empty()
    await client.leave()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_request_ends_alone(frontend: Any, stream: bool) -> None:
    engine = frontend.engine
    engine.answers = None
    body = {"prompt": "a", "stream": True}
    beside = await frontend.open(COMPLETIONS, body)
    good = await engine.next_submit()
    failing = await frontend.open(COMPLETIONS, {"prompt": ["a", "b"], "stream": stream})
    bad, sibling = [await engine.next_submit() for _ in range(2)]
    for request in (good, bad, sibling):
        engine.admit(request)
    if stream:
        # Only then is it sure that the status has been sent: text and admission come apart.
        await failing.read_until(b"\r\n\r\n")
    engine.text(bad.key, "one")
    engine.text(bad.key, "", finish_reason=engine.ERROR, error="the logits are not finite")
    assert [await engine.next_abort() for _ in range(2)] == [bad.key, sibling.key]
    if stream:
        error = in_band_error(await failing.read_until(b"}}\n\n\r\n0\r\n"))
    else:
        answer = await failing.read_until(b"}}")
        assert answer.startswith(b"HTTP/1.1 500 ")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["message"]) == ("request_failed", "the logits are not finite")
    engine.text(good.key, "fine", finish_reason=engine.STOP)
    engine.finish(good.key)
    await beside.read_until(b"data: [DONE]\n\n")
    await beside.leave()
    await failing.leave()


async def test_garbage_on_a_link_is_counted_and_dropped(frontend: Any) -> None:
    engine = frontend.engine
    before = frontend.actor.num_malformed
    for payload in (b"", b"\xc1", b"\x92\x01", b"not msgpack"):
        engine.outboxes["detokenizer"].send(payload)
    assert (await frontend.post(COMPLETIONS, {"prompt": "a"})).status_code == 200
    assert frontend.actor.num_malformed == before + 4


def in_band_error(stream: bytes) -> Any:
    """The last event of a stream, which must be an error, without [DONE] after it."""
    assert b"[DONE]" not in stream
    last = stream.rpartition(b"data: ")[2]
    return json.loads(last.partition(b"\n\n")[0])["error"]


async def test_a_frontend_that_stops_tells_who_still_waits(start_ready: Any) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    stream = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    await stream.read_until(b"\r\n\r\n")
    await frontend.actor.stop_serving()
    error = in_band_error(await stream.read_until(b"}}\n\n\r\n0\r\n"))
    assert error["message"] == "the server is shutting down"
    assert await engine.next_abort() == request.key


async def test_a_mistake_of_the_server_is_a_500_and_a_traceback(
    start_ready: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frontend = await start_ready()

    def submit(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(frontend.client, "submit", submit)
        response = await frontend.post(COMPLETIONS, {"prompt": "a"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err
    assert (await frontend.post(COMPLETIONS, {"prompt": "a"})).status_code == 200
