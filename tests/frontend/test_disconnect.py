"""A client that leaves, or does not read, costs the engine nothing more, at whatever moment."""

import asyncio
import json
from typing import Any

import pytest

from tokenreel.frontend.http_server import Exchange
from tokenreel.messages.outputs import TextChunk, TextEmitted

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, {"prompt": "a"}), (CHAT, HI)])
async def test_leaving_before_admission_aborts(
    frontend: Any, path: str, body: Any, stream: bool
) -> None:
    frontend.engine.answers = None
    client = await frontend.open(path, body | {"stream": stream})
    request = await frontend.engine.next_submit()
    await client.leave()
    assert await frontend.engine.next_abort() == request.key


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_text", [False, True])
async def test_leaving_after_admission_aborts(frontend: Any, stream: bool, has_text: bool) -> None:
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(CHAT, HI | {"stream": stream})
    request = await engine.next_submit()
    engine.admit(request)
    if has_text:
        engine.text(request.key, "one")
    if stream:
        await client.read_until(b"one" if has_text else b"assistant")
    await client.leave()
    assert await engine.next_abort() == request.key


async def test_leaving_is_noticed_after_a_large_body(frontend: Any) -> None:
    """Of one that comes at once, behind its head, the server takes no more for a while."""
    engine = frontend.engine
    engine.answers = None
    client = await frontend.connect()
    body = b'{"prompt": "%b"}' % (b"long " * 24_000)
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
    for _ in range(10):
        await engine.turn()
    client.writer.write(body)
    request = await engine.next_submit()
    engine.admit(request)
    await client.leave()
    assert await engine.next_abort() == request.key


async def test_leaving_aborts_every_prompt_of_the_call_that_still_runs(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 2, "stream": True})
    requests = [await engine.next_submit() for _ in range(3)]
    for request in requests:
        engine.admit(request)
    done, *running = requests
    for choice in range(2):
        engine.text(done.key, f"done{choice}", choice, finish_reason=engine.STOP)
    await client.read_until(b"done1")
    await client.leave()
    assert {await engine.next_abort(), await engine.next_abort()} == {r.key for r in running}
    engine.finish(done.key)
    await frontend.idle()
    assert engine.aborted.empty()


async def test_leaving_after_the_end_aborts_nothing(frontend: Any) -> None:
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    await client.read_until(b"data: [DONE]\n\n")
    await client.leave()
    await frontend.idle()
    assert frontend.engine.aborted.empty()


async def test_leaving_in_the_middle_of_a_body_asks_the_engine_for_nothing(frontend: Any) -> None:
    client = await frontend.connect()
    client.writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    await client.leave()
    assert (await frontend.post(COMPLETIONS, {"prompt": "a"})).status_code == 200
    assert (await frontend.engine.next_submit()).text == "a"
    assert frontend.engine.submitted.empty()


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_is_noticed_behind_a_request_sent_ahead(frontend: Any, stream: bool) -> None:
    """The client sends a second request before the first is answered, and leaves."""
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": stream})
    request = await engine.next_submit()
    client.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    if stream:
        engine.admit(request)
        await client.read_until(b"\r\n\r\n")
    await client.leave()
    assert await engine.next_abort() == request.key


async def test_requests_sent_ahead_are_answered_in_order(frontend: Any) -> None:
    client = await frontend.connect()
    body = b'{"prompt": "a"}'
    post = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    client.writer.write(post + b"GET /version HTTP/1.1\r\n\r\n")
    await client.read_until(b'"object":"text_completion"')
    await client.read_until(b'"version":')
    await client.leave()


async def test_more_requests_ahead_than_may_wait_cut_the_connection(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a"})
    request = await engine.next_submit()
    ahead = b"GET /health HTTP/1.1\r\nX-Padding: " + b"x" * 4000 + b"\r\n\r\n"
    client.writer.write(ahead * 1000)
    assert await engine.next_abort() == request.key
    await client.cut()


async def test_a_client_that_does_not_read_is_aborted_and_told_the_limit(
    start_ready: Any,
) -> None:
    frontend = await start_ready(max_pending_chunks=50)
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    await client.read_until(b"\r\n\r\n")  # before the stream has begun it would be no slow reader
    while engine.aborted.empty():
        engine.text(request.key, "x" * 20_000)
        await engine.turn()
    assert await engine.next_abort() == request.key
    tail = await client.read_until(b"}}\n\n\r\n0\r\n")
    assert b"more than 50 chunks were waiting" in tail
    assert b'"code":"slow_reader"' in tail
    assert b"[DONE]" not in tail
    await client.leave()
    await frontend.idle()


async def test_a_client_that_pauses_gets_every_part_in_order(frontend: Any) -> None:
    """More than the connection holds: parts written at once, parts that waited, and the last."""
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    await client.read_until(b"\r\n\r\n")
    parts = [f"<{number}>" + "x" * 50_000 for number in range(100)]
    for part in parts:
        engine.text(request.key, part)
        await engine.turn()
    engine.text(request.key, "end", finish_reason=engine.STOP)
    engine.finish(request.key)
    answer = await client.read_until(b"data: [DONE]\n\n")
    events = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: {")]
    texts = [json.loads(event)["choices"][0]["text"] for event in events]
    assert "".join(texts) == "".join(parts) + "end"
    await client.leave()
    await frontend.idle()


async def test_others_go_on_beside_a_client_that_does_not_read(start_ready: Any) -> None:
    frontend = await start_ready(max_pending_chunks=50)
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    while engine.aborted.empty():
        engine.text(request.key, "x" * 20_000)
        await engine.turn()
    engine.answers = engine.complete
    assert (await frontend.post(COMPLETIONS, {"prompt": "b"})).status_code == 200
    await client.cut()
    await frontend.idle()


async def test_a_part_that_cannot_be_written_harms_its_own_connection_only(
    start_ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend = await start_ready()
    engine = frontend.engine
    engine.answers = None
    keys, clients = [], []
    for _ in range(2):
        clients.append(await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True}))
        request = await engine.next_submit()
        engine.admit(request)
        engine.text(request.key, "first")
        await clients[-1].read_until(b"first")
        keys.append(request.key)
    broken, sound = clients
    flush, told = Exchange.flush, []

    def flush_unless_first(exchange: Exchange) -> None:
        if not told:
            raise ZeroDivisionError("a bug")
        flush(exchange)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(Exchange, "flush", flush_unless_first)
    chunks = [TextChunk(key, 0, len("first"), "second", 2) for key in keys]
    frontend.client.on_message(TextEmitted(chunks))
    await sound.read_until(b"second")
    assert await engine.next_abort() == keys[0]
    loop.set_exception_handler(None)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    last = TextChunk(keys[1], 0, len("firstsecond"), "last", 3, finish_reason=engine.STOP)
    frontend.client.on_message(TextEmitted([last]))
    engine.finish(keys[1])
    await sound.read_until(b"data: [DONE]\n\n")
    await sound.leave()
    await broken.cut()
    await frontend.idle()


async def test_a_connection_on_which_nothing_moves_is_cut(start_ready: Any) -> None:
    """A client that reads nothing holds a connection, but not for ever."""
    frontend = await start_ready(max_pending_chunks=50)
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await engine.next_submit()
    engine.admit(request)
    while engine.aborted.empty():
        engine.text(request.key, "x" * 20_000)
        await engine.turn()
    frontend.server.cut_stalled_connections()
    frontend.server.cut_stalled_connections()
    await frontend.idle()
    await client.cut()


async def test_a_connection_that_waits_for_the_engine_is_not_cut(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    client = await frontend.open(COMPLETIONS, {"prompt": "a"})
    request = await engine.next_submit()
    for _ in range(3):
        frontend.server.cut_stalled_connections()
    engine.complete(request)
    assert b" 200 " in await client.read_until(b"\r\n")
    await client.leave()
