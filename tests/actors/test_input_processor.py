"""The input processor forwards what is valid, refuses what is not, and survives everything."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenreel.actors.input_processor import InputProcessorActor
from tokenreel.actors.runtime.actor import ActorRuntime, StartError
from tokenreel.actors.runtime.channels import ChannelFull
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.lifecycle import ActorReady, EngineFacts
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.requests import (
    AdmitRequest,
    RequestOptions,
    RequestRejected,
    SubmitRequest,
)

ROLE = InputProcessorActor.ROLE
MakeModelDir = Callable[..., Path]
Connect = Callable[..., Any]
FACTS = EngineFacts(64, 8, 16, 100, 4, 440, b"model")


def options(model_dir: Path, **changes: Any) -> EngineOptions:
    return EngineOptions(model=str(model_dir), served_model_name="m", **changes)


def submit(number: int, text: str = "the cat", **changes: Any) -> SubmitRequest:
    return SubmitRequest(RequestKey(1, number), RequestOptions(**changes), text=text)


@pytest.fixture
def peers(connect: Connect, make_model_dir: MakeModelDir) -> Any:
    """A started input processor that knows the engine."""
    peers = connect(InputProcessorActor, ROLE, options(make_model_dir()))
    peers.actor.start()
    peers.send("engine_core", FACTS)
    return peers


def test_it_is_ready_when_it_knows_the_engine(
    connect: Connect, make_model_dir: MakeModelDir
) -> None:
    peers = connect(InputProcessorActor, ROLE, options(make_model_dir()))
    peers.actor.start()
    peers.send("frontend", submit(1))
    refused = peers.receive("frontend")
    assert isinstance(refused, RequestRejected)
    assert (refused.status, refused.code) == (503, "starting")
    peers.send("engine_core", FACTS)
    ready = peers.receive("supervisor")
    assert isinstance(ready, ActorReady)
    assert ready.detail.endswith("tokens, chat template")


def test_a_valid_request_reaches_the_core(peers: Any) -> None:
    peers.send("frontend", submit(1))
    admit = peers.receive("engine_core")
    assert isinstance(admit, AdmitRequest)
    assert admit.key == RequestKey(1, 1)
    assert admit.prompt_token_ids


def test_a_bad_request_is_refused_and_the_next_is_served(peers: Any) -> None:
    chat = SubmitRequest(
        RequestKey(1, 2), RequestOptions(), messages=({"role": "user", "content": 3},)
    )
    peers.send("frontend", submit(1, ""), chat, submit(3, stop_token_ids=(10_000,)), submit(4))
    refused = [peers.receive("frontend") for _ in range(3)]
    assert [(each.key.number, each.status, each.param) for each in refused] == [
        (1, 400, "prompt"),
        (2, 400, "messages"),
        (3, 400, "stop_token_ids"),
    ]
    assert peers.receive("engine_core").key.number == 4
    statistics = peers.actor.statistics()
    assert (statistics.num_forwarded, statistics.num_rejected) == (1, 3)


def test_an_unexpected_failure_concerns_its_own_request_only(
    peers: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    resolver = peers.actor._resolver
    resolve: Callable[[SubmitRequest], AdmitRequest] = resolver.resolve

    def resolve_or_fail(request: SubmitRequest) -> AdmitRequest:
        if request.key.number == 1:
            raise ZeroDivisionError("a mistake")
        return resolve(request)

    monkeypatch.setattr(resolver, "resolve", resolve_or_fail)
    peers.send("frontend", submit(1), submit(2))
    refused = peers.receive("frontend")
    assert (refused.key.number, refused.status) == (1, 500)
    assert "ZeroDivisionError" in refused.message
    assert peers.receive("engine_core").key.number == 2
    assert peers.actor.statistics().num_failures == 1
    assert "a mistake" in capfd.readouterr().err


def test_garbage_and_strangers_are_counted_and_dropped(peers: Any) -> None:
    peers.send("frontend", b"\xff garbage", b"", FACTS)
    peers.send("worker", submit(1))
    peers.send("engine_core", submit(2))
    assert peers.actor.statistics().num_dropped_frames == 5
    peers.send("frontend", submit(3))
    assert peers.receive("engine_core").key.number == 3


def test_a_core_that_does_not_read_makes_requests_fail_at_once(
    connect: Connect, make_model_dir: MakeModelDir
) -> None:
    class Full:
        def send(self, payload: bytes, attachment: bytes = b"") -> None:
            raise ChannelFull("the link to engine_core.0 is full (capacity 2 frames)")

        def is_writable(self) -> bool:
            return False

    def make(runtime: ActorRuntime) -> InputProcessorActor:
        runtime.outboxes = {**runtime.outboxes, "engine_core": Full()}
        return InputProcessorActor(runtime)

    peers = connect(make, ROLE, options(make_model_dir()))
    peers.actor.start()
    peers.send("engine_core", FACTS)
    peers.send("frontend", submit(1))
    refused = peers.receive("frontend")
    assert (refused.status, refused.code) == (503, "overloaded")
    assert "capacity 2 frames" in refused.message


def test_the_seed_of_the_run_names_the_seeds_that_are_drawn(
    connect: Connect, make_model_dir: MakeModelDir
) -> None:
    def drawn(seed: int) -> list[int]:
        peers = connect(InputProcessorActor, ROLE, options(make_model_dir(), seed=seed))
        peers.actor.start()
        peers.send("engine_core", FACTS)
        peers.send("frontend", submit(1), submit(2, seed=5), submit(3))
        return [peers.receive("engine_core").sampling.seed for _ in range(3)]

    first = drawn(7)
    assert first == drawn(7)
    assert first[1] == 5
    assert len({*first, *drawn(8)}) == 5


def test_seeds_come_from_the_source_that_was_passed_in(
    connect: Connect, make_model_dir: MakeModelDir
) -> None:
    peers = connect(
        lambda runtime: InputProcessorActor(runtime, draw_seed=lambda: 42),
        ROLE,
        options(make_model_dir()),
    )
    peers.actor.start()
    peers.send("engine_core", FACTS)
    peers.send("frontend", submit(1))
    assert peers.receive("engine_core").sampling.seed == 42


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat_template": "nowhere.jinja"}, "no such file"),
        ({"chat_template": "{% if %}"}, "an error in line 1"),
        ({"model": "/nowhere/at/all"}, "give a Hugging Face model directory"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    connect: Connect, make_model_dir: MakeModelDir, changes: dict[str, str], message: str
) -> None:
    settings: dict[str, Any] = {"model": str(make_model_dir()), "served_model_name": "m"}
    peers = connect(InputProcessorActor, ROLE, EngineOptions(**(settings | changes)))
    with pytest.raises(StartError, match=message) as error:
        peers.actor.start()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["input_processor", "detokenizer"])
def test_it_loads_neither_torch_nor_transformers(module: str) -> None:
    """Importing torch costs a second and 200 MB."""
    code = (
        f"import sys, tokenreel.actors.{module}; "
        "print(sorted({'torch', 'transformers', 'numpy', 'starlette'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
