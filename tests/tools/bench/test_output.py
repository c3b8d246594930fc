"""A result gets to where it was wanted, and a terminal shows it as it is."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from benching import BENCH, PATIENCE_S, STUB, bench, once_ready, read, start_serve
from scripted_server import Exchange, ScriptedServer

from tokenreel.tools.exit_codes import EXIT_FAILED, EXIT_IO, EXIT_USAGE


def test_a_result_that_could_not_be_written_is_told_before_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    bench("serve", "--json", str(tmp_path / "r.json"), *STUB, code=EXIT_USAGE)
    assert "r.json cannot be written" in capsys.readouterr().err


async def test_what_a_server_says_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.refuse(500, b'{"error": {"message": "\\u001b[2Jno\\nFAILED 7"}}')

    path, label = tmp_path / "r.json", "a|b\x1b[31m\nc"
    words = ("--num-prompts", "2", "--json", str(path), "--label", label)
    async with ScriptedServer(once_ready(script)) as server:
        process = await start_serve(server, *words)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == EXIT_FAILED
    assert "FAILED 2 x HTTP 500 \\x1b[2Jno FAILED 7\n" in out.decode() and b"\x1b" not in out
    command = [*BENCH, "compare", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert r"a\|b\x1b[31m c |" in told.stdout and "\x1b" not in told.stdout


def test_a_result_is_written_though_nobody_reads_the_table(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    where = ("--base-url", engine, "--vocab-size", "1000", "--json", str(path))
    with open("/dev/full", "w") as full:
        command = [*BENCH, "throughput", *where, "--num-prompts", "8"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S)
    assert done.returncode == EXIT_IO
    assert read(path)["runs"][0]["num_completed"] == 8
