"""`engine-bench` as tests run it: in this process, or as a program beside a scripted server."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from scripted_server import Exchange, Script, ScriptedServer

from tokenreel.tools.bench.cli import main
from tokenreel.tools.exit_codes import EXIT_OK

BENCH = (sys.executable, "-P", "-m", "tokenreel.tools.bench")
STUB = ("--", "--stub-worker", "--num-gpu-blocks-override", "4096")
PATIENCE_S = 120.0


def bench(*words: str, code: int = EXIT_OK) -> None:
    assert main(list(words)) == code


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def once_ready(script: Script) -> Script:
    """`script`, with its numbers, after the question whether the server is ready."""

    async def answer(exchange: Exchange) -> None:
        if exchange.number == 0:
            await exchange.refuse(200, b"")
        else:
            exchange.number -= 1
            await script(exchange)

    return answer


async def start_verb(server: ScriptedServer, verb: str, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(*BENCH, verb, "--base-url", server.url, "--served-model-name", "m"),
        *("--output-len", "3", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def start_serve(server: ScriptedServer, *words: str) -> asyncio.subprocess.Process:
    return await start_verb(server, "serve", "--num-warmups", "0", "--max-concurrency", "1", *words)
