"""The load generator keeps to its loop, and counts whatever goes wrong by its reason."""

import asyncio
from collections import Counter

import pytest
from scripted_server import HEAD, Exchange, ScriptedServer, stream_of, token_event, usage_event

from tokenreel.tools.bench.client import connection
from tokenreel.tools.bench.client.endpoint import Endpoint, NotServed
from tokenreel.tools.bench.client.load import TIMED_OUT, Ask, Load, Measured, Outcome

PATIENCE_S = 30.0


def asks_of(endpoint: Endpoint, due_s: list[float], num_tokens: int = 3) -> list[Ask]:
    body = {"prompt": [1, 2], "max_tokens": num_tokens}
    return [Ask(endpoint.request(body), num_tokens, due) for due in due_s]


def reasons(measured: Measured) -> Counter[str]:
    return Counter(outcome.failure for outcome in measured.outcomes if outcome.failure)


async def serve(exchange: Exchange) -> None:
    await exchange.stream(*stream_of(3))


async def put(server: ScriptedServer, num_requests: int, **options: float) -> Measured:
    """One after the other."""
    asks = asks_of(server.endpoint, [0.0] * num_requests)
    timeout_s = options.get("timeout_s", PATIENCE_S)
    return await Load(server.endpoint, asks, max_concurrency=1, timeout_s=timeout_s).run()


@pytest.mark.parametrize("is_open", [False, True])
async def test_never_more_are_in_flight_than_may_be(is_open: bool) -> None:
    in_flight = most = 0
    all_there = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 4:
            all_there.set()
        await all_there.wait()
        in_flight -= 1
        await serve(exchange)

    async with ScriptedServer(script) as server:
        endpoint = server.endpoint
        asks = asks_of(endpoint, [0.0] * 20)
        load = Load(endpoint, asks, max_concurrency=4, is_open=is_open, timeout_s=PATIENCE_S)
        measured = await load.run()
        assert most == 4
        assert server.num_connections <= 4, "connections are used again"
    assert [outcome.num_output_tokens for outcome in measured.outcomes] == [3] * 20
    assert not reasons(measured)


async def test_in_an_open_loop_nobody_waits_for_an_answer() -> None:
    all_there = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.number == 9:
            all_there.set()
        await all_there.wait()
        await serve(exchange)

    async with ScriptedServer(script) as server:
        endpoint = server.endpoint
        asks = asks_of(endpoint, [number / 1000 for number in range(10)])
        measured = await Load(endpoint, asks, is_open=True, timeout_s=PATIENCE_S).run()
    assert len(measured.outcomes) == 10 and not reasons(measured)
    sent = sorted(outcome.sent_s for outcome in measured.outcomes)
    assert all(at >= due / 1000 for due, at in enumerate(sent)), "nobody is sent before his time"


async def test_every_failure_is_counted_by_its_reason_and_the_rest_is_served() -> None:
    async def script(exchange: Exchange) -> None:
        match exchange.number:
            case 0:
                await exchange.refuse(429, b'{"error": {"code": "too_many_requests"}}')
            case 1:
                await exchange.send(HEAD)
                await exchange.chunk(token_event())
                exchange.drop()
            case 2:
                await exchange.stream(token_event(), b'data: {"error": {"code": "gone"}}\n\n')
            case 3:
                await exchange.send(b"this is not HTTP\r\n\r\n")
            case _:
                await serve(exchange)

    async with ScriptedServer(script) as server:
        measured = await put(server, 8)
    assert reasons(measured) == {
        "HTTP 429 too_many_requests": 1,
        "the server closed the connection": 1,
        "error in the stream: gone": 1,
        "the answer is not HTTP": 1,
    }
    assert sum(outcome.failure is None for outcome in measured.outcomes) == 4


async def test_a_connection_that_went_away_while_idle_costs_nobody_his_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await serve(exchange)
        exchange.drop()

    async with ScriptedServer(script) as server:
        measured = await put(server, 5)
        assert server.num_connections == 5
    assert not reasons(measured)


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_was_said() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD)
        await asyncio.Event().wait()

    async with ScriptedServer(script) as server:
        measured = await put(server, 2, timeout_s=0.05)
    assert reasons(measured) == {TIMED_OUT: 2}


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 1 << 16)

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD)
        while True:
            await exchange.chunk(token_event("a" * 1000))

    async with ScriptedServer(script) as server:
        measured = await put(server, 2)
    assert reasons(measured) == {"the answer is larger than 65536 bytes": 2}


async def test_nobody_there_is_a_failure_of_each_request() -> None:
    async with ScriptedServer(serve) as server:
        endpoint = server.endpoint
    asks = asks_of(endpoint, [0.0] * 3)
    measured = await Load(endpoint, asks, timeout_s=PATIENCE_S).run()
    assert reasons(measured) == {"connection refused": 3}
    with pytest.raises(NotServed, match="connection refused"):
        await endpoint.wait_until_ready(0)


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_load_of_nothing_is_over_at_once(is_open: bool) -> None:
    async with ScriptedServer(serve) as server:
        load = Load(server.endpoint, [], is_open=is_open, timeout_s=PATIENCE_S)
        measured = await asyncio.wait_for(load.run(), PATIENCE_S)
    assert (measured.outcomes, measured.num_cut_short) == ([], 0)


async def test_tokens_are_what_usage_says_not_the_number_of_events() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(token_event("two at once"), usage_event(2, 5), b"data: [DONE]\n\n")

    async with ScriptedServer(script) as server:
        measured = await put(server, 1)
    (outcome,) = measured.outcomes
    assert (outcome.num_output_tokens, len(outcome.stamps)) == (2, 1)
    assert (outcome.num_prompt_tokens, outcome.num_cached_tokens) == (7, 5)
    assert outcome.has_other_length, "three were asked for"


async def test_a_load_that_is_stopped_tells_what_was_finished_by_then() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number < 4:
            await serve(exchange)
        else:
            await asyncio.Event().wait()

    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 4:
            load.stop()

    async with ScriptedServer(script) as server:
        endpoint = server.endpoint
        asks = asks_of(endpoint, [0.0] * 9)
        load = Load(endpoint, asks, max_concurrency=2, timeout_s=PATIENCE_S, on_outcome=note)
        measured = await load.run()
    assert (len(measured.outcomes), measured.num_cut_short) == (4, 5)
    assert not reasons(measured)


async def test_the_model_is_the_first_that_a_server_names_once_it_is_ready() -> None:
    models = b'{"data": [{"id": "first"}, {"id": "second"}]}'

    async def script(exchange: Exchange) -> None:
        is_ready, is_health = exchange.number > 0, b"/health" in exchange.head
        status = 503 if not is_ready else 404 if is_health else 200
        await exchange.refuse(status, b"" if is_health else models)

    async with ScriptedServer(script) as server:
        with pytest.raises(NotServed, match="503"):
            await server.endpoint.wait_until_ready(0)
        assert await server.endpoint.wait_until_ready(PATIENCE_S) == "first"
