"""Everything has a bound, and whoever exceeds it hears so at once."""

import asyncio
from typing import Any

import pytest

from tokenreel.frontend import http_server, request_body

COMPLETIONS = "/v1/completions"
MAX_IN_FLIGHT = 8


async def test_one_request_more_than_the_credits_is_a_429(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    clients = [await frontend.open(COMPLETIONS, {"prompt": f"{i}"}) for i in range(MAX_IN_FLIGHT)]
    requests = [await engine.next_submit() for _ in clients]
    response = await frontend.post(COMPLETIONS, {"prompt": "one more", "stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_requests")
    assert "takes at most 8" in error["message"]
    assert engine.submitted.empty()

    engine.complete(requests[0])
    await clients[0].read_until(b"}}")
    await frontend.in_flight(MAX_IN_FLIGHT - 1)
    engine.answers = engine.complete
    assert (await frontend.post(COMPLETIONS, {"prompt": "again"})).status_code == 200
    for request in requests[1:]:
        engine.complete(request)
    for client in clients:
        await client.leave()


async def test_a_list_takes_a_credit_per_prompt_all_or_none(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": ["a"] * 5})
    requests = [await engine.next_submit() for _ in range(5)]
    assert (await frontend.post(COMPLETIONS, {"prompt": ["b"] * 4})).status_code == 429
    assert engine.submitted.empty()
    fitting = await frontend.open(COMPLETIONS, {"prompt": ["c"] * 3})
    requests += [await engine.next_submit() for _ in range(3)]
    assert [request.text for request in requests] == ["a"] * 5 + ["c"] * 3
    for request in requests:
        engine.complete(request)
    for opened in (client, fitting):
        await opened.read_until(b"}}")
        await opened.leave()


async def test_a_list_that_could_never_fit_is_a_400(frontend: Any) -> None:
    response = await frontend.post(COMPLETIONS, {"prompt": ["a"] * (MAX_IN_FLIGHT + 1)})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "too_many_prompts"


async def test_a_credit_of_an_aborted_request_comes_back_with_its_end(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    for _ in range(3 * MAX_IN_FLIGHT):
        client = await frontend.open(COMPLETIONS, {"prompt": "a"})
        await engine.next_submit()
        await client.leave()
        await engine.next_abort()
        await frontend.in_flight(0)


async def test_a_body_that_says_it_is_too_large_is_not_read(start_ready: Any) -> None:
    frontend = await start_ready(max_body_bytes=1000)
    client = await frontend.connect()
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
    answer = await client.read_until(b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body is larger than 1000 bytes" in answer
    await client.leave()


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(start_ready: Any) -> None:
    frontend = await start_ready(max_body_bytes=1000)
    client = await frontend.connect()
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
    answer = await client.read_until(b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    await client.leave()


async def test_a_body_of_just_the_limit_is_taken(start_ready: Any) -> None:
    frontend = await start_ready(max_body_bytes=1000)
    body = b'{"prompt": "a"}'.ljust(1000)
    assert (await frontend.post(COMPLETIONS, body)).status_code == 200
    assert (await frontend.post(COMPLETIONS, body + b" ")).status_code == 413


async def test_a_body_that_takes_too_long_is_told_so(
    frontend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", 0.0)
    client = await frontend.connect()
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    answer = await client.read_all()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive within 0 s" in answer


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(
    frontend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_DISCARDED_BYTES", 1 << 20)
    client = await frontend.connect()
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
    await client.read_until(b"body_too_large")
    with pytest.raises(OSError):
        while True:
            client.writer.write(b" " * (1 << 16))
            await client.writer.drain()
            await asyncio.sleep(0)


async def test_a_head_without_end_is_refused(frontend: Any) -> None:
    client = await frontend.connect()
    client.writer.write(b"GET /health HTTP/1.1\r\nX-Long: ")
    client.writer.write(b"x" * (1 << 20))
    answer = await client.read_until(b"}}")
    assert answer.startswith(b"HTTP/1.1 431 ")
    await client.cut()


async def test_what_is_no_http_is_an_openai_error_too(frontend: Any) -> None:
    client = await frontend.connect()
    client.writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
    answer = await client.read_all()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_http"' in answer
    await client.leave()


async def test_one_connection_too_many_is_told_so(start_ready: Any) -> None:
    frontend = await start_ready()
    frontend.server.config.max_connections = 2
    clients = [await frontend.connect() for _ in range(2)]
    for client in clients:
        client.writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        assert b" 200 " in await client.read_until(b"ready")
    third = await frontend.connect()
    answer = await third.read_all()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"more than 2 connections are open" in answer
    for client in (*clients, third):
        await client.leave()


async def test_an_idle_connection_is_cut(frontend: Any) -> None:
    client = await frontend.connect()
    client.writer.write(b"GET /health HTTP/1.1\r\n")
    while not frontend.server.server_state.connections:
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await client.reader.read()
    frontend.server.cut_stalled_connections()
    while not client.reader.at_eof():
        frontend.server.cut_stalled_connections()
        await asyncio.sleep(0)
    await client.cut()


async def test_a_request_to_upgrade_is_told_why_its_body_is_lost(frontend: Any) -> None:
    """Java's HttpClient asks for HTTP/2 this way."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}
    response = await frontend.post(COMPLETIONS, {"prompt": "a"}, headers=headers)
    assert response.status_code == 400
    assert "send no Upgrade header" in response.json()["error"]["message"]
