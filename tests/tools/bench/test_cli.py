"""`engine-bench` as a user runs it: real engines without a model, real sockets, real files."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import termios
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import pytest
from benching import BENCH, PATIENCE_S, STUB, bench, once_ready, read, start_serve, start_verb
from capturing import capture
from scripted_server import Exchange, ScriptedServer, stream_of

from tokenreel.tools.bench.cli import COMMAND, main
from tokenreel.tools.bench.flags import random_prompts
from tokenreel.tools.bench.processes.engine import Engine
from tokenreel.tools.bench.target import vocab_size_of
from tokenreel.tools.bench.verbs import overhead
from tokenreel.tools.bench.workload.prompts import RandomPrompts
from tokenreel.tools.exit_codes import (
    EXIT_FAILED,
    EXIT_IO,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
)
from tokenreel.tools.up_flags import DEMO_MODEL


def test_serve_starts_an_engine_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = tmp_path / "r.json"
    load = ("--max-concurrency", "1,4", "--num-prompts", "12", "--output-len", "6")
    key = ("--api-key", "hush")
    bench("serve", *load, "--goodput", "ttft:60000", "--json", str(path), *STUB, *key)
    assert "hush" not in path.read_text()
    result = read(path)
    assert [run["max_concurrency"] for run in result["runs"]] == [1, 4]
    for run in result["runs"]:
        assert (run["num_completed"], run["num_output_tokens"]) == (12, 72)
        assert run["num_prompt_tokens"] == 12 * 128
        assert run["goodput"]["num_good"] == 12
        actors = {actor["actor"] for actor in run["actors"]}
        assert {"frontend", "engine_core", "worker", "supervisor"} <= actors
    assert result["server"]["is_ours"] and result["server"]["ready_s"] > 0
    assert result["header"]["machine"]["packages"]["torch"]
    assert "TTFT p99, ms" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


def test_shared_prefixes_are_found_in_the_engines_cache(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    prompts = ("--num-prompts", "20", "--input-len", "16", "--output-len", "2")
    shared = ("--random-prefix-len", "64", "--num-prefixes", "2", "--seed", "77")
    where = ("--base-url", engine, "--vocab-size", "1000", "--json", str(path))
    bench("serve", *where, *prompts, *shared, "--max-concurrency", "1", "--num-warmups", "0")
    assert read(path)["runs"][0]["num_cached_tokens"] == 18 * 64


def test_an_open_loop_and_a_trace_send_what_was_said(engine: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "r.json", tmp_path / "trace.jsonl"
    where = ("--base-url", f"{engine}/v1", "--vocab-size", "1000", "--json", str(path))
    rates = ("--request-rate", "400,800", "--burstiness", "2", "--num-prompts", "20")
    bench("serve", *where, *rates, "--input-len", "8", "--output-len", "3", "--save-detailed")
    runs = read(path)["runs"]
    assert [run["request_rate"] for run in runs] == [400, 800]
    assert all(len(run["requests"]) == 20 for run in runs)
    lines = [{"timestamp": n, "input_length": 4 + n, "output_length": 1 + n} for n in range(9)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    bench("serve", *where, "--trace", str(trace), "--trace-sec-multiplier", "0.001")
    (run,) = read(path)["runs"]
    assert run["num_prompt_tokens"] == sum(4 + n for n in range(9))
    assert run["num_output_tokens"] == sum(1 + n for n in range(9))
    assert run["num_other_length"] == 0
    captured = capture(tmp_path)
    bench("serve", *where, "--trace", str(captured), "--num-prompts", "12")
    (run,) = read(path)["runs"]
    assert (run["num_completed"], run["num_other_length"]) == (12, 0)


def test_throughput_and_latency_count_every_token(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    where = ("--base-url", engine, "--vocab-size", "1000", "--json", str(path))
    lengths = ("--input-len", "9", "--output-len", "5")
    plot = tmp_path / "r.png"
    bench("throughput", *where, *lengths, "--num-prompts", "30", "--plot", str(plot))
    (run,) = read(path)["runs"]
    assert (run["num_prompt_tokens"], run["num_output_tokens"]) == (270, 150)
    assert plot.read_bytes().startswith(b"\x89PNG")
    iterations = ("--batch-size", "3", "--num-iters", "4", "--num-iters-warmup", "1")
    bench("latency", *where, *lengths, *iterations, "--plot", str(plot))
    (run,) = read(path)["runs"]
    assert (run["latency_ms"]["count"], run["failures"]) == (4, {})
    rate = 3 * 5 * 1000 / run["latency_ms"]["mean"]
    assert run["output_tokens_per_s"] == pytest.approx(rate)


def test_startup_tells_ready_and_first_token(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    repeats = ("--num-iters-cold", "1", "--num-iters-warm", "1", "--num-iters-warmup", "0")
    where = ("--json", str(path), "--plot", str(tmp_path / "r.svg"))
    bench("startup", *repeats, *where, *STUB, "--api-key", "hush")
    assert "hush" not in path.read_text()
    assert "<svg" in (tmp_path / "r.svg").read_text()
    result = read(path)
    assert [start["is_cold"] for start in result["starts"]] == [True, False]
    for start in result["starts"]:
        assert 0 < max(start["actors_s"].values()) <= start["ready_s"] < start["first_token_s"]


def test_a_start_that_fails_takes_nothing_from_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait, num_started = Engine.wait_until_ready, 0

    def fail_later(engine: Engine, timeout_s: float) -> str:
        nonlocal num_started
        num_started += 1
        return wait(engine, timeout_s if num_started < fail_at else 0.0)

    monkeypatch.setattr(Engine, "wait_until_ready", fail_later)
    path = tmp_path / "r.json"
    repeats = ("--num-iters-cold", "0", "--num-iters-warm", "2", "--num-iters-warmup", "1")
    fail_at = 3
    bench("startup", *repeats, "--json", str(path), *STUB, code=EXIT_FAILED)
    result = read(path)
    assert len(result["starts"]) == 1 and num_started == 3
    assert "was not ready after 0 s" in result["failure"]
    told = capsys.readouterr().out
    assert "warm x1" in told and "FAILED after 1 measured: engine-up was not ready" in told
    fail_at = 0
    bench("startup", *repeats, *STUB, code=EXIT_UNAVAILABLE)


def test_overhead_measures_everything_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab_sizes = []

    def noted(options: Namespace, vocab_size: int, series: int | str) -> RandomPrompts:
        vocab_sizes.append(vocab_size)
        return random_prompts(options, vocab_size, series)

    monkeypatch.setattr(overhead, "random_prompts", noted)
    path, plot = tmp_path / "r.json", tmp_path / "r.png"
    load = ("--max-concurrency", "2", "--num-prompts", "8", "--output-len", "8")
    bench("overhead", *load, "--json", str(path), "--plot", str(plot), *STUB)
    assert vocab_sizes == 3 * [vocab_size_of(DEMO_MODEL)], "numbers as long in each request"
    (run,) = read(path)["runs"]
    floor = run["floor"]
    parts = floor["model_us"] + floor["http_us"] + floor["generator_us"]
    assert floor["tokens_per_s"] == pytest.approx(1e6 * floor["num_cores"] / parts)
    assert run["share_of_floor"] == pytest.approx(
        run["engine"]["output_tokens_per_s"] / floor["tokens_per_s"]
    )
    assert all(run[name]["num_output_tokens"] == 64 for name in ("engine", "stub", "http"))
    assert run["http"]["actors"][0]["cpu_s"] > 0
    assert plot.stat().st_size > 10_000
    bench("compare", str(path), str(path))
    assert "share of the floor %" in capsys.readouterr().out


def test_there_is_no_floor_where_nothing_was_served(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--max-concurrency", "2", "--num-prompts", "4", "--request-timeout", "1e-9")
    bench("overhead", *load, *STUB, code=EXIT_UNAVAILABLE)
    told = capsys.readouterr().err
    assert "HTTP alone, c=2: nothing was served: 4 x timed out" in told


async def test_latency_tells_batches_of_another_length() -> None:
    async def script(exchange: Exchange) -> None:
        usage = {"prompt_tokens": 8, "completion_tokens": 6 - exchange.number % 2}
        await exchange.refuse(200, json.dumps({"choices": [{}, {}], "usage": usage}).encode())

    iterations = ("--batch-size", "2", "--num-iters", "4", "--num-iters-warmup", "0")
    async with ScriptedServer(once_ready(script)) as server:
        process = await start_verb(server, "latency", *iterations)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, err) == (EXIT_OK, b"")
    assert "2 batches of another length than asked" in out.decode()


async def test_requests_that_fail_are_told_by_reason_and_by_the_exit_code() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number % 2:
            await exchange.refuse(429, b'{"error": {"code": "too_many_requests"}}')
        else:
            await exchange.stream(*stream_of(3))

    async with ScriptedServer(once_ready(script)) as server:
        process = await start_serve(server, "--num-prompts", "6")
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, err) == (EXIT_FAILED, b"")
    assert "FAILED 3 x HTTP 429 too_many_requests" in out.decode()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--max-concurrency", "0"], "0 is too small"),
        (["serve", "--goodput", "itl:5"], "is not NAME:MILLISECONDS"),
        (["serve", "--goodput", "ttft:inf"], "limits nothing"),
        (["serve", "--base-url", "ftp://a"], "no address"),
        (["serve", "--base-url", "http://a..b:80"], "no address"),
        (["serve", "--base-url", "http://[::1"], "Invalid IPv6 URL"),
        (["serve", "--trace-sec-multiplier", "-1"], "is not a number above 0"),
        (["serve", "--trace-sec-multiplier", "inf"], "nobody waits for ever"),
        (["serve", "--endpoint", "/v1/chat/completions"], "unrecognized arguments"),
        (["dance"], "invalid choice"),
        ([], "required: VERB"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == EXIT_USAGE
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["serve", "--base-url", "http://a", "--", "--seed", "1"], EXIT_USAGE, "--base-url"),
        (["serve", "--plot", "x.gif"], EXIT_USAGE, ".png, .svg, .pdf"),
        (["serve", "--json", "/no/where/x.json"], EXIT_USAGE, "there is no directory"),
        (["serve", "--request-rate", "1", "--trace", "t"], EXIT_USAGE, "its own arrivals"),
        (["serve", "--burstiness", "0.5"], EXIT_USAGE, "name one"),
        (["serve", "--num-prefixes", "3"], EXIT_USAGE, "needs --random-prefix-len"),
        (["startup", "--num-iters-cold", "0", "--num-iters-warmup", "0"], EXIT_USAGE, "before it"),
        (["startup", "--num-iters-cold", "0", "--num-iters-warm", "0"], EXIT_USAGE, "no start"),
        (["serve", "--request-rate", "inf,2", "--trace", "t"], EXIT_USAGE, "its own arrivals"),
        (["serve", "/no/model"], EXIT_UNAVAILABLE, "/no/model does not exist"),
        (["overhead", "/no/model"], EXIT_IO, "No such file"),
        (["compare", "/no/result"], EXIT_IO, "No such file"),
        (["serve", "--json", "/tmp"], EXIT_USAGE, "/tmp is a directory"),
        (["latency", "--result-dir", "/tmp"], EXIT_USAGE, "--save-result writes"),
        (
            ["serve", "--base-url", "http://127.0.0.1:9", "--ready-check-timeout-sec", "0"],
            EXIT_UNAVAILABLE,
            "127.0.0.1:9: connection refused",
        ),
        (
            [
                *("serve", "--base-url", "http://127.0.0.1:9", "--ready-check-timeout-sec", "0"),
                *("--served-model-name", "m"),
            ],
            EXIT_UNAVAILABLE,
            "127.0.0.1:9: connection refused",
        ),
    ],
)
def test_what_cannot_be_done_is_told_without_a_traceback(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(*words, code=code)
    err = capsys.readouterr().err
    assert err.startswith("engine-bench: ") and told in err and "Traceback" not in err


def test_the_bar_is_for_terminals(engine: str) -> None:
    where = ("--base-url", engine, "--vocab-size", "1000")
    command = [*BENCH, "throughput", *where, "--num-prompts", "8"]
    piped = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
    assert piped.stderr == b""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    with subprocess.Popen(command, stderr=writer, stdout=subprocess.DEVNULL) as process:
        os.close(writer)
        told = b""
        with suppress(OSError):  # EIO: the terminal's last user has left.
            while piece := os.read(reader, 4096):
                told += piece
    os.close(reader)
    assert process.returncode == EXIT_OK
    assert b"throughput:" in told and told.endswith(b"\r"), "and it is taken away again"


@pytest.mark.parametrize("verb", COMMAND.verbs)
def test_help_needs_neither_torch_nor_what_other_verbs_need(verb: str) -> None:
    program = (
        "import sys\n"
        "from tokenreel.tools.bench.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'tqdm', 'zmq', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    command = [sys.executable, "-P", "-c", program, verb]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert f"usage: engine-bench {verb}" in told.stdout
