"""Garbage on the sockets between actors is dropped, and the engine goes on."""

from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from running_engine import RunningEngine, verify

from tokenreel.actors.runtime.topology import Topology
from tokenreel.messages.codec import encode
from tokenreel.messages.ids import RequestKey, SeqId, StepId
from tokenreel.messages.lifecycle import Shutdown
from tokenreel.messages.outputs import SequenceTokens, TokensEmitted
from tokenreel.messages.requests import AbortRequest, RequestFinished
from tokenreel.messages.steps import SampledTokens, StepCompleted

REQUEST: Any = {"model": "tokenreel-demo", "prompt": "x", "max_tokens": 300, "seed": 4}
ROLES = ["frontend", "input_processor", "engine_core", "worker", "detokenizer"]
STRANGERS = [b"nobody", b"", b"\xff\xfe", b"engine_core.0", b"stranger.0.1", b"worker.x.y", b"..."]
KNOWN = [b"frontend.0.77", b"worker.0.77", b"detokenizer.0.77", b"input_processor.0.77"]
TAKEN = [b"engine_core.0.1", b"worker.0.1", b"frontend.0.1"]
"""Identities of actors that are there already."""


def frame(number: int, payload: bytes, size: int | None = None) -> bytes:
    """As `actors.runtime.channels` writes it; `size` lies about the payload's."""
    length = len(payload) if size is None else size
    return number.to_bytes(8, "little") + length.to_bytes(4, "little") + payload


FAKES = [
    encode(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [9])], 0, 0)),
    encode(TokensEmitted([SequenceTokens(SeqId(1), 0, [1, 2, 3])])),
    encode(RequestFinished(RequestKey(1, 1))),
    encode(AbortRequest(RequestKey(1, 10**15))),
]
"""Messages of ours that make no sense from whoever sends them here."""
GARBAGE: list[list[bytes]] = [
    [b""],
    [b"\0" * 11],
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    [frame(1, b"")],
    [frame(2, b"\xc1")],
    [frame(3, b"\x93\x02\x01")],
    [frame(4, b"short", size=10**6)],
    [frame(2**63, b"\x92\xcd\xff\xff\x00")],
    [frame(5, b"one"), b"part", b"too many"],
    [b"", b"", b""],
    *([frame(2**63 + number, fake)] for number, fake in enumerate(FAKES, 1)),
]


@pytest.fixture(scope="module")
def stub_engine() -> Iterator[RunningEngine]:
    with RunningEngine("--stub-worker") as engine:
        yield engine.wait_until_ready()


def send_garbage(engine: RunningEngine, role: str, identity: bytes) -> None:
    """Returns when all of it has left this process."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.LINGER, 200)
        socket.connect(Topology(engine.run_dir).address(role))
        for parts in GARBAGE:
            socket.send_multipart(parts)


@pytest.mark.parametrize("role", [*ROLES, "supervisor"])
def test_garbage_from_strangers_and_impostors_is_dropped_while_streams_go_on(
    stub_engine: RunningEngine, role: str
) -> None:
    with stub_engine.client() as client:
        expected = client.completions.create(**REQUEST).choices[0].text
        frozen = "detokenizer" if role == "worker" else "worker"
        stub_engine.freeze(frozen)
        stream = client.completions.create(**REQUEST, stream=True)
        for identity in STRANGERS + KNOWN + TAKEN:
            send_garbage(stub_engine, role, identity)
        stub_engine.thaw(frozen)
        assert "".join(chunk.choices[0].text for chunk in stream) == expected
        assert client.completions.create(**REQUEST).choices[0].text == expected
    assert stub_engine.process.poll() is None
    assert "Traceback" not in stub_engine.output


def test_only_the_supervisor_can_tell_an_actor_to_leave(stub_engine: RunningEngine) -> None:
    """Everybody but it may say Shutdown, and nobody leaves."""
    for role in ROLES:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.IDENTITY, b"worker.0.99")
            socket.setsockopt(zmq.LINGER, 200)
            socket.connect(Topology(stub_engine.run_dir).address(role))
            socket.send(frame(1, encode(Shutdown())))
    with stub_engine.client() as client:
        answer = client.completions.create(**REQUEST)
    assert answer.choices[0].finish_reason == "length"
    assert stub_engine.process.poll() is None


def test_after_all_of_it_the_engine_leaves_as_it_should_and_its_journal_verifies(
    stub_engine: RunningEngine,
) -> None:
    stub_engine.stop()
    verdict = verify(stub_engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert stub_engine.complaints == []
    assert stub_engine.left_behind() == []
