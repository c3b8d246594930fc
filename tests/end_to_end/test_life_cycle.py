"""However an engine ends: streams are told, the exit code is right, nothing is left behind."""

import json
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from captured_run import aborted_blocks
from running_engine import RunningEngine

StartEngine = Callable[..., RunningEngine]
MODEL = "tokenreel-demo"
REQUEST: Any = {"model": MODEL, "prompt": "x", "max_tokens": 20, "seed": 1}
CHAT_REQUEST: Any = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
ROLES = ["frontend", "input_processor", "engine_core", "worker", "detokenizer"]
STOPPING = "running requests have"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_asked_to_stop_it_finishes_what_runs_refuses_newcomers_and_leaves_nothing(
    start_engine: StartEngine, number: signal.Signals
) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client:
        expected = client.completions.create(**REQUEST).choices[0].text
        engine.freeze("worker")
        streams = [client.completions.create(**REQUEST, stream=True) for _ in range(3)]
        engine.signal(number)
        engine.wait_for_line(STOPPING)
        engine.wait_for_health(503)
        with pytest.raises(openai.InternalServerError) as newcomer:
            client.completions.create(**REQUEST)
        engine.thaw("worker")
        texts = ["".join(chunk.choices[0].text for chunk in stream) for stream in streams]
    assert newcomer.value.status_code == 503
    assert newcomer.value.response.headers["retry-after"]
    assert texts == [expected] * 3
    assert engine.wait_for_exit() == 0
    assert engine.complaints == []
    assert engine.left_behind() == []


def test_a_second_signal_stops_it_at_once(start_engine: StartEngine) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client:
        engine.freeze("worker")
        stream = client.completions.create(**REQUEST, stream=True)
        engine.signal(signal.SIGINT)
        engine.wait_for_line(STOPPING)
        engine.signal(signal.SIGINT)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            list(stream)
    assert engine.wait_for_exit() == 128 + signal.SIGINT
    assert engine.left_behind() == []


def test_what_does_not_finish_in_time_is_cut_short_and_told(start_engine: StartEngine) -> None:
    engine = start_engine("--stub-worker", "--drain-timeout", "0.1").wait_until_ready()
    with engine.client() as client:
        engine.freeze("worker")
        stream = client.completions.create(**REQUEST, stream=True)
        engine.signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        engine.thaw("worker")
    assert engine.wait_for_exit() == 0
    assert engine.complaints == ["engine-up: 1 requests were cut short"]
    assert engine.left_behind() == []


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_actor_ends_every_stream_in_band_and_the_engine_with_an_error(
    start_engine: StartEngine, role: str
) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client, ThreadPoolExecutor(1) as threads:
        engine.freeze("worker")
        running = client.chat.completions.create(**CHAT_REQUEST, stream=True)
        first = next(iter(running))  # Who speaks; the text waits for the worker.
        streams = [running, *(client.completions.create(**REQUEST, stream=True) for _ in range(3))]
        whole = threads.submit(lambda: client.completions.create(**REQUEST))
        engine.kill(role)
        for stream in streams:
            # A frontend that is gone says nothing more; all others are named by it.
            with pytest.raises((openai.APIError, httpx.HTTPError)) as told:
                list(stream)
            assert role == "frontend" or role in str(told.value)
        with pytest.raises(openai.APIError):
            whole.result()
        if role != "worker":
            engine.thaw("worker")
    assert first.choices[0].delta.role == "assistant"
    assert engine.wait_for_exit() == 1
    (complaint,) = engine.complaints
    assert complaint.startswith(f"engine-up: {role} was killed")
    assert engine.left_behind() == []


def test_actors_do_not_outlive_a_killed_supervisor(start_engine: StartEngine) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client:
        engine.freeze("worker")  # Even one that does nothing any more.
        stream = client.completions.create(**REQUEST, stream=True)
        engine.process.kill()
        engine.wait_until_actors_are_gone()
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            list(stream)
    assert engine.wait_for_exit() == -signal.SIGKILL


def test_a_busy_port_is_told_before_anything_starts(start_engine: StartEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        engine = start_engine("--stub-worker", "--port", port)
        assert engine.wait_for_exit() == 2
    (line,) = engine.lines
    assert f"port {port} on 127.0.0.1 is in use" in line and "--port" in line
    assert engine.left_behind() == []


def test_two_engines_run_side_by_side(start_engine: StartEngine) -> None:
    engines = [start_engine("--stub-worker") for _ in range(2)]
    texts = []
    for engine in engines:
        with engine.wait_until_ready().client() as client:
            texts.append(client.completions.create(**REQUEST).choices[0].text)
    engines[0].signal(signal.SIGTERM)
    assert engines[0].wait_for_exit() == 0
    with engines[1].client() as client:
        texts.append(client.completions.create(**REQUEST).choices[0].text)
    assert len(set(texts)) == 1


def test_a_client_that_does_not_read_harms_nobody_and_is_given_up(
    start_engine: StartEngine,
) -> None:
    """Its stream is aborted when too much waits for it, at the latest when the engine stops."""
    engine = start_engine("--stub-worker", "--drain-timeout", "0.5").wait_until_ready()
    body = json.dumps({"prompt": "x", "max_tokens": 2000, "n": 32, "stream": True}).encode()
    with socket.socket() as deaf, engine.client() as client:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", engine.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        deaf.sendall(head.encode() + body)
        texts = {client.completions.create(**REQUEST).choices[0].text for _ in range(10)}
        engine.signal(signal.SIGTERM)
        assert engine.wait_for_exit() == 0
    assert len(texts) == 1
    (abort,) = aborted_blocks(engine.journal)
    assert abort.num_held > 32
    assert engine.left_behind() == []
