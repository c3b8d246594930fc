"""What was measured is told, whenever somebody interrupts and whatever ends before its time."""

import asyncio
import itertools
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benching import PATIENCE_S, STUB, bench, once_ready, read, start_serve
from scripted_server import Exchange, ScriptedServer, stream_of

from tokenreel.tools.bench.client.load import Outcome
from tokenreel.tools.bench.processes.child_process import ChildProcess
from tokenreel.tools.bench.progress import Progress
from tokenreel.tools.bench.verbs import overhead, serve
from tokenreel.tools.exit_codes import EXIT_INTERRUPTED, EXIT_UNAVAILABLE


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> list[ChildProcess]:
    """Grows by each child that has said that it is."""
    children: list[ChildProcess] = []
    wait = ChildProcess.wait_for

    def wait_and_note(child: ChildProcess, *arguments: Any) -> Any:
        found = wait(child, *arguments)
        children.append(child)
        return found

    monkeypatch.setattr(ChildProcess, "wait_for", wait_and_note)
    return children


async def test_ctrl_c_tells_what_there_is() -> None:
    is_stuck = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.number == 3:
            is_stuck.set()
            await asyncio.Event().wait()
        await exchange.stream(*stream_of(3))

    async with ScriptedServer(once_ready(script)) as server:
        process = await start_serve(server, "--num-prompts", "9")
        await asyncio.wait_for(is_stuck.wait(), PATIENCE_S)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == EXIT_INTERRUPTED
    assert re.search(r"requests +3\n", out.decode())
    assert "stopped, 6 requests were not finished" in out.decode()


def test_an_engine_that_ends_under_load_is_told_behind_the_result(
    ready: list[ChildProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, note = tmp_path / "r.json", Progress.__call__

    def note_and_kill(progress: Progress, outcome: Outcome) -> None:
        note(progress, outcome)
        ready[-1].process.kill()
        ready[-1].process.wait()

    monkeypatch.setattr(Progress, "__call__", note_and_kill)
    load = ("--max-concurrency", "2", "--num-prompts", "8", "--num-warmups", "0")
    bench("serve", *load, "--json", str(path), *STUB, code=EXIT_UNAVAILABLE)
    (run,) = read(path)["runs"]
    assert run["num_requests"] == 8 and run["num_completed"] >= 1
    assert run["others_cores"] is None, "what the dead had would be counted as others' work"
    told = capsys.readouterr()
    assert "output tok/s" in told.out
    assert "engine-bench: engine-up ended with exit code -9" in told.err


def press_ctrl_c(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def after(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, and Ctrl-C when it has been called so many times."""
    times = itertools.count(1)

    def called(*arguments: Any, **options: Any) -> Any:
        found = call(*arguments, **options)
        if next(times) == number:
            press_ctrl_c()
        return found

    return called


def test_ctrl_c_while_the_engine_is_stopped_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, stop = tmp_path / "r.json", ChildProcess.stop

    def stop_later(child: ChildProcess) -> int:
        press_ctrl_c()
        return stop(child)

    monkeypatch.setattr(ChildProcess, "stop", stop_later)
    load = ("--num-prompts", "4", "--output-len", "3", "--json", str(path))
    for verb in ("serve", "throughput"):
        bench(verb, *load, *STUB, code=EXIT_INTERRUPTED)
        (run,) = read(path)["runs"]
        assert run["num_completed"] == 4
        assert "output tok/s" in capsys.readouterr().out
    once = ("--num-iters-cold", "1", "--num-iters-warm", "1", "--json", str(path))
    bench("startup", *once, *STUB, code=EXIT_INTERRUPTED)
    assert len(read(path)["starts"]) == 1
    bench("latency", "--num-iters", "2", "--json", str(path), *STUB, code=EXIT_INTERRUPTED)
    (run,) = read(path)["runs"]
    assert run["latency_ms"]["count"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_between_two_runs_keeps_those_that_were_finished(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "figures_of", after(2, serve.figures_of))
    path = tmp_path / "r.json"
    where = ("--base-url", engine, "--vocab-size", "1000", "--json", str(path))
    load = ("--max-concurrency", "1,2,3", "--num-prompts", "4", "--output-len", "3")
    bench("serve", *where, *load, code=EXIT_INTERRUPTED)
    result = read(path)
    assert result["is_interrupted"]
    assert [run["num_completed"] for run in result["runs"]] == [4, 4]


@pytest.mark.parametrize(
    ("number", "counts", "num_started"), [(1, (1, 0), 1), (3, (2, 1), 2), (5, (1, 1), 3)]
)
def test_ctrl_c_in_any_phase_of_overhead_keeps_what_was_measured(
    number: int,
    counts: tuple[int, int],
    num_started: int,
    ready: list[ChildProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(overhead, "figures_of", after(number, overhead.figures_of))
    path = tmp_path / "r.json"
    load = ("--max-concurrency", "1,2", "--num-prompts", "4", "--output-len", "3")
    plot = ("--plot", str(tmp_path / "r.png"))
    bench("overhead", *load, *plot, "--json", str(path), *STUB, code=EXIT_INTERRUPTED)
    result = read(path)
    assert len(result["runs"]) == (number == 5)
    unfinished = result["unfinished"]
    assert (len(unfinished["http"]), len(unfinished["stub"])) == counts
    assert "HTTP side alone, interrupted" in capsys.readouterr().out
    assert len(ready) == num_started


def test_ctrl_c_while_a_later_engine_starts_does_not_wait_for_it(
    tmp_path: Path, ready: list[ChildProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = ChildProcess.wait_for

    def wait_twice(child: ChildProcess, *arguments: Any) -> Any:
        if ready:
            press_ctrl_c()
        return wait(child, *arguments)

    monkeypatch.setattr(ChildProcess, "wait_for", wait_twice)
    path = tmp_path / "r.json"
    load = ("--max-concurrency", "1", "--num-prompts", "4", "--output-len", "3")
    bench("overhead", *load, "--json", str(path), *STUB, code=EXIT_INTERRUPTED)
    assert len(ready) == 1
    result = read(path)
    assert result["is_interrupted"] and len(result["unfinished"]["http"]) == 1
