"""The worker as its peers see it: ready with facts, steps in order, garbage dropped, and gone."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenreel.actors.runtime.channels import Frame, Inbox, Outbox, new_context
from tokenreel.actors.runtime.topology import Topology
from tokenreel.actors.worker import process as worker_process
from tokenreel.actors.worker.process import MAX_TURN_NS, WorkerActor
from tokenreel.messages.codec import decode, encode
from tokenreel.messages.ids import BlockId, Row, SeqId, StepId
from tokenreel.messages.lifecycle import ActorFailed, ActorReady, Shutdown, WorkerReady
from tokenreel.messages.logprobs import decode_logprobs
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.sampling import SamplingParams
from tokenreel.messages.steps import (
    AddedSequence,
    ScheduledSequence,
    StepCompleted,
    StepScheduled,
)

PATIENCE_S = 60.0
SAMPLING = SamplingParams(temperature=0.0, num_logprobs=2)


def options(directory: Path, **changes: Any) -> EngineOptions:
    values: dict[str, Any] = {"device": "cpu", "max_num_seqs": 4, "block_size": 4} | changes
    return EngineOptions(model=str(directory), served_model_name="m", **values)


def first_step(step_id: int = 1, prompt: tuple[int, ...] = (5, 6, 7)) -> StepScheduled:
    seq_id, row = SeqId(step_id), Row(0)
    added = AddedSequence(seq_id, row, list(prompt), len(prompt), [], SAMPLING)
    entry = ScheduledSequence(seq_id, row, 0, len(prompt), 1, [BlockId(0)])
    return StepScheduled(StepId(step_id), [added], [], [entry])


def next_step(step_id: int, seq_id: int, start: int) -> StepScheduled:
    entry = ScheduledSequence(SeqId(seq_id), Row(0), start, 1, 1, [])
    return StepScheduled(StepId(step_id), [], [], [entry])


@pytest.fixture
def model_directory(small_model: Callable[[str], Any]) -> Path:
    directory: Path = small_model("llama").directory
    return directory


def test_a_worker_says_what_it_found_out_then_that_it_is_ready(
    model_directory: Path, connect: Callable[..., Any]
) -> None:
    peers = connect(WorkerActor, "worker", options(model_directory, num_gpu_blocks_override=9))
    peers.actor.start()
    facts = peers.receive("engine_core")
    assert isinstance(facts, WorkerReady)
    assert (facts.num_blocks, facts.block_size, facts.max_model_len) == (9, 4, 96)
    assert (facts.vocab_size, facts.device, facts.dtype) == (131, "cpu", "float32")
    ready = peers.receive("supervisor")
    assert isinstance(ready, ActorReady)
    assert ready.detail.startswith("cpu float32")
    assert ready.detail.endswith("9 blocks of 4")
    assert ready.num_threads == torch.get_num_threads()


def test_steps_are_carried_out_in_order_and_garbage_is_dropped(
    model_directory: Path, small_model: Callable[[str], Any], connect: Callable[..., Any]
) -> None:
    peers = connect(WorkerActor, "worker", options(model_directory))
    peers.actor.start()
    assert isinstance(peers.receive("engine_core"), WorkerReady)
    peers.send("engine_core", b"\xc1 no message", encode(Shutdown()), first_step())
    peers.send("frontend", next_step(9, 1, 3))
    completed = peers.receive("engine_core")
    assert isinstance(completed, StepCompleted)
    assert completed.step_id == 1
    assert 0 < completed.began_ns < completed.ended_ns
    first = completed.outputs[0].token_ids[0]
    expected = small_model("llama").reference_logits([5, 6, 7])[-1].argmax()
    assert first == expected
    # A step that came before: nobody waits for it.
    peers.send("engine_core", first_step(), next_step(2, 1, 3))
    completed = peers.receive("engine_core")
    assert completed.step_id == 2
    expected = small_model("llama").reference_logits([5, 6, 7, first])[-1].argmax()
    assert completed.outputs[0].token_ids == [expected]
    statistics = peers.actor.statistics()
    assert statistics.num_steps == 2
    assert statistics.num_malformed == 4


def test_a_step_that_makes_no_sense_is_answered_with_failures(
    model_directory: Path, connect: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    peers = connect(WorkerActor, "worker", options(model_directory))
    peers.actor.start()
    assert isinstance(peers.receive("engine_core"), WorkerReady)
    entry = ScheduledSequence(SeqId(1), Row(4), 0, 3, 1, [BlockId(0)])
    peers.send("engine_core", StepScheduled(StepId(1), [], [], [entry]), first_step(2))
    refused = peers.receive("engine_core")
    assert (refused.step_id, refused.outputs) == (1, [])
    assert "rows hold 4, which is not between 0 and 3" in refused.failures[0].message
    assert "step 1 cannot be carried out" in capsys.readouterr().err
    assert len(peers.receive("engine_core").outputs) == 1


@pytest.mark.parametrize("turn_ns", [-1, MAX_TURN_NS], ids=["at once", "after a while"])
def test_every_step_is_answered_whenever_a_turn_ends(
    turn_ns: int,
    model_directory: Path,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "MAX_TURN_NS", turn_ns)
    peers = connect(WorkerActor, "worker", options(model_directory))
    peers.actor.start()
    assert isinstance(peers.receive("engine_core"), WorkerReady)
    peers.send("engine_core", *(first_step(number) for number in range(1, 7)))
    assert [peers.receive("engine_core").step_id for _ in range(6)] == [1, 2, 3, 4, 5, 6]


def test_who_is_leaving_begins_no_step(model_directory: Path, connect: Callable[..., Any]) -> None:
    peers = connect(WorkerActor, "worker", options(model_directory))
    peers.actor.start()
    peers.actor.runtime.stop(0)
    peers.send("engine_core", first_step())
    assert peers.actor.statistics().num_steps == 0


def test_dummy_weights_need_no_weight_files(
    model_directory: Path, tmp_path: Path, connect: Callable[..., Any]
) -> None:
    shutil.copy(model_directory / "config.json", tmp_path)
    peers = connect(WorkerActor, "worker", options(tmp_path, load_format="dummy", seed=3))
    peers.actor.start()
    assert isinstance(peers.receive("engine_core"), WorkerReady)
    peers.send("engine_core", first_step())
    assert len(peers.receive("engine_core").outputs) == 1


class Process:
    """A real worker process, with the inboxes of those that it talks to."""

    def __init__(self, settings: EngineOptions) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="worker-"))
        topology = Topology(self.run_dir)
        topology.write_options(settings)
        self.context = new_context()
        self.inboxes = {
            role: Inbox(self.context, topology.address(role))
            for role in ("engine_core", "supervisor")
        }
        self.outboxes = {
            role: Outbox(self.context, topology.address("worker"), f"{role}.0.1")
            for role in self.inboxes
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tokenreel.actors.worker.process", str(self.run_dir)]
        )

    def receive(self, role: str) -> Frame:
        assert self.inboxes[role].poll(PATIENCE_S)
        return self.inboxes[role].drain(1)[0]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for inbox in self.inboxes.values():
            inbox.close()
        for outbox in self.outboxes.values():
            outbox.close()
        self.context.term()
        shutil.rmtree(self.run_dir)


@pytest.fixture
def start() -> Iterator[Callable[[EngineOptions], Process]]:
    processes = []

    def make(settings: EngineOptions) -> Process:
        processes.append(Process(settings))
        return processes[-1]

    yield make
    for process in processes:
        process.close()


def test_a_process_serves_and_leaves_when_told(
    model_directory: Path, start: Callable[[EngineOptions], Process]
) -> None:
    worker = start(options(model_directory))
    assert isinstance(decode(worker.receive("engine_core").payload), WorkerReady)
    assert isinstance(decode(worker.receive("supervisor").payload), ActorReady)
    worker.outboxes["engine_core"].send(encode(first_step()))
    frame = worker.receive("engine_core")
    completed = decode(frame.payload)
    assert isinstance(completed, StepCompleted)
    (logprobs,) = decode_logprobs(frame.attachment)
    assert logprobs.top_ids[0][0] == completed.outputs[0].token_ids[0]
    worker.outboxes["supervisor"].send(encode(Shutdown()))
    assert worker.process.wait(PATIENCE_S) == 0


def test_a_process_that_cannot_start_says_why(
    model_directory: Path, tmp_path: Path, start: Callable[[EngineOptions], Process]
) -> None:
    shutil.copy(model_directory / "config.json", tmp_path)
    worker = start(options(tmp_path))
    failed = decode(worker.receive("supervisor").payload)
    assert isinstance(failed, ActorFailed)
    assert "has neither model.safetensors" in failed.message
    assert worker.process.wait(PATIENCE_S) == 1
