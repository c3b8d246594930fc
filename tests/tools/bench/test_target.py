"""A server is waited for as long as it may still come, and an engine gets the flags it is given."""

import asyncio
from pathlib import Path

import pytest
from benching import BENCH, PATIENCE_S, STUB, bench, read
from scripted_server import Exchange, ScriptedServer

from tokenreel.tools.exit_codes import EXIT_UNAVAILABLE


def test_a_queue_that_was_asked_for_is_the_engines_queue(tmp_path: Path) -> None:
    path, queue = tmp_path / "r.json", "--max-num-queued-reqs=2048"
    load = ("--max-concurrency", "600", "--num-prompts", "4", "--num-warmups", "0")
    bench("serve", *load, "--json", str(path), *STUB, queue)
    assert read(path)["server"]["flags"] == [*STUB[1:], queue]


@pytest.mark.parametrize(
    ("status", "words", "told"),
    [
        (401, (), "/v1/models says: HTTP 401 invalid_api_key"),
        (404, (), "/v1/models says: HTTP 404 invalid_api_key"),
        (200, (), "/v1/models names no model"),
        (503, ("--served-model-name", "m", "--ready-check-timeout-sec", "0"), "says 503"),
        (502, ("--served-model-name", "m", "--ready-check-timeout-sec", "0"), "says 502"),
    ],
)
async def test_a_server_that_refuses_is_not_waited_for(
    status: int, words: tuple[str, ...], told: str
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.refuse(status, b'{"error": {"code": "invalid_api_key"}}')

    async with ScriptedServer(script) as server:
        process = await asyncio.create_subprocess_exec(
            *(*BENCH, "serve", "--base-url", server.url, *words), stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == EXIT_UNAVAILABLE
    assert told in err.decode()
