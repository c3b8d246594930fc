"""The core's shell: journal first, one write a turn, and nobody can talk it into an exception."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scheduler import Scheduler
from tokenreel.actors.engine_core import EngineCoreActor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.messages.codec import encode
from tokenreel.messages.ids import RequestKey, Row, SeqId, StepId
from tokenreel.messages.journal import META
from tokenreel.messages.journal_meta import decode_meta
from tokenreel.messages.lifecycle import ActorFailed, ActorReady, EngineFacts, WorkerReady
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.outputs import OutputDelivered, TokensEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.sampling import FinishReason, SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import SampledTokens, StepCompleted, StepScheduled
from tokenreel.tools.replay import cli as replay
from tokenreel.tools.replay.reading.journal import open_journal, read_records

Connect = Callable[..., Any]
WORKER_READY = WorkerReady(8, 4, 100, 50, b"m" * 16, "cpu", "float32")


def admit(number: int = 0, max_tokens: int = 1, **changes: Any) -> AdmitRequest:
    fields: dict[str, Any] = {
        "key": RequestKey(1, number),
        "prompt_token_ids": [1, 2, 3],
        "sampling": SamplingParams(),
        "stopping": StoppingParams(max_tokens),
        "text": TextParams(),
        "n": 1,
        "priority": 0,
        "cache_root": b"r" * 16,
        "block_hashes": [],
    }
    return AdmitRequest(**{**fields, **changes})


@pytest.fixture
def core(connect: Connect, tmp_path: Path) -> Any:
    options = EngineOptions(
        model="m", served_model_name="m", journal_dir=str(tmp_path / "journals"), max_num_seqs=2
    )
    peers = connect(EngineCoreActor, EngineCoreActor.ROLE, options)
    peers.actor.start()
    peers.send("worker", WORKER_READY)
    return peers


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], str]:
    def find() -> str:
        (run_dir,) = (tmp_path / "journals").iterdir()
        return str(run_dir)

    return find


def test_the_worker_s_facts_become_everybody_s_limits(core: Any) -> None:
    facts = core.receive("frontend")
    assert isinstance(facts, EngineFacts)
    assert (facts.max_model_len, facts.num_blocks, facts.max_in_flight) == (32, 8, 2 + 1024)
    assert core.receive("input_processor") == core.receive("detokenizer") == facts
    assert isinstance(core.receive("supervisor"), ActorReady)


def test_a_request_goes_its_way_and_the_journal_replays_it(
    core: Any, journal: Callable[[], str]
) -> None:
    core.send("input_processor", admit())
    (step,) = receive(core, "worker", StepScheduled)
    assert step.added[0].token_ids == [1, 2, 3] and step.scheduled[0].row == Row(0)
    completed = StepCompleted(StepId(1), [SampledTokens(SeqId(1), [7])], 10, 20)
    core.send("worker", completed, attachment=b"logprobs")
    _, admitted, emitted = (core.receive("detokenizer") for _ in range(3))
    assert isinstance(admitted, RequestAdmitted)
    assert isinstance(emitted, TokensEmitted)
    assert emitted.sequences[0].token_ids == [7]
    assert emitted.sequences[0].finish_reason is FinishReason.LENGTH
    core.send("detokenizer", OutputDelivered((SeqId(1),)))
    (finished,) = receive(core, "frontend", RequestFinished)
    assert finished.key == RequestKey(1, 0)
    assert replay.main(["verify", journal()]) == 0


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_the_journal_names_the_numbers_that_the_model_was_run_in(
    connect: Connect, tmp_path: Path, quantization: str | None
) -> None:
    options = EngineOptions(
        model="m", served_model_name="m", journal_dir=str(tmp_path), quantization=quantization
    )
    core = connect(EngineCoreActor, EngineCoreActor.ROLE, options)
    core.actor.start()
    core.send("worker", WORKER_READY)
    core.receive("frontend")
    (run_dir,) = tmp_path.iterdir()
    _, _, records = next(iter(read_records(open_journal(run_dir))))
    (meta,) = (decode_meta(record.payload) for record in records if record.type == META)
    assert meta.facts == {
        "model_hash": b"m" * 16,
        "served_model_name": "m",
        "device": "cpu",
        "dtype": "float32",
        "quantization": quantization,
        "batch_invariant": False,
    }


def test_what_the_journal_costs_is_told_in_processor_time_and_by_the_clock(core: Any) -> None:
    core.send("input_processor", admit())
    receive(core, "worker", StepScheduled)
    before = core.actor.statistics()
    core.send("worker", StepCompleted(StepId(1), [SampledTokens(SeqId(1), [7])], 10, 20))
    core.receive("detokenizer")
    after = core.actor.statistics()
    assert before.stepping_ns < after.stepping_ns
    assert 0 < before.journal_cpu_ns < after.journal_cpu_ns
    assert 0 < before.journal_ns < after.journal_ns


def test_what_comes_during_a_step_shares_the_write_of_its_end_or_goes_out_soon(
    core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(core.actor.runtime, "call_later", lambda _, end: timers.append(end))

    def progress() -> tuple[int, int]:
        return core.actor.statistics().journal.num_writes, statistics_of(core)["frontend"]

    core.send("input_processor", admit(0, max_tokens=5))  # begins both steps that may be open
    num_writes, num_told = progress()
    core.send("input_processor", admit(1))
    assert progress() == (num_writes, num_told) and len(timers) == 1
    core.send("worker", StepCompleted(StepId(1), [SampledTokens(SeqId(1), [7])], 10, 20))
    assert progress() == (num_writes + 1, num_told + 1)
    core.send("input_processor", admit(2))
    assert progress() == (num_writes + 1, num_told + 1)
    timers[0]()
    assert progress() == (num_writes + 2, num_told + 2)


def test_a_run_without_a_step_has_no_share_of_it(
    core: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    core.actor.close()
    said = capsys.readouterr().out
    assert said.startswith("journal: ") and said.endswith("; 0 steps\n")


def test_no_frame_is_lost_where_one_arrives_for_each_that_is_taken(
    core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [Frame("input_processor.0.1", encode(admit(i)), b"") for i in range(100)]
    inbox = core.actor.runtime.inbox
    monkeypatch.setattr(inbox, "drain", lambda: [waiting.pop(0)] if waiting else [])
    core.actor.on_frames([waiting.pop(0)])
    assert waiting, "one turn does not go on for ever"
    assert core.actor.statistics().engine.num_requests == 100 - len(waiting)


def test_logprobs_travel_beside_the_tokens_of_their_step(core: Any) -> None:
    core.send("input_processor", admit())
    completed = StepCompleted(StepId(1), [SampledTokens(SeqId(1), [7])], 10, 20)
    core.send("worker", completed, attachment=b"logprobs")
    frames = core.frames("detokenizer", 3)
    assert [frame.attachment for frame in frames] == [b"", b"", b"logprobs"]


def test_what_a_peer_may_not_say_is_counted_and_dropped(core: Any) -> None:
    core.send("frontend", admit())
    core.send("frontend", b"\xc1 no message")
    core.send("worker", AbortRequest(RequestKey(1, 0)))
    core.send("detokenizer", WORKER_READY)
    core.send("worker", WORKER_READY)  # once is enough
    statistics = core.actor.statistics()
    assert statistics.num_dropped_frames == 5
    assert statistics.engine.num_requests == 0


def test_a_request_that_the_core_refuses_is_told_so_and_nothing_else_happens(core: Any) -> None:
    core.send("input_processor", admit(max_tokens=1000))
    (rejected,) = receive(core, "frontend", RequestRejected)
    assert rejected.code == "context_length_exceeded"
    assert core.actor.statistics().engine.num_requests == 0


@contextmanager
def no_more_bytes(run_dir: Path) -> Iterator[None]:
    """Every further write to the journal fails, as on a full disk. The limit holds for the whole
    process, so nothing but the actor may write meanwhile."""
    (segment,) = run_dir.glob("*.tkr")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_leaves_that_the_journal_does_not_hold(
    core: Any, journal: Callable[[], str]
) -> None:
    core.receive("supervisor")
    num_sent = sum(statistics_of(core).values())
    with no_more_bytes(Path(journal())):
        core.send("input_processor", admit())
    assert sum(statistics_of(core).values()) == num_sent + 1, "only the supervisor hears of it"
    failed = core.receive("supervisor")
    assert isinstance(failed, ActorFailed)
    assert "--journal-dir" in failed.message
    assert core.actor.runtime.exit_code == 1


def test_an_exception_of_the_core_is_recorded_and_reproduced(
    core: Any,
    journal: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise InvariantViolated("a bug that was planted")

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "compose", broken)
        with pytest.raises(InvariantViolated):
            core.send("input_processor", admit())
        core.actor.close()
        assert replay.main(["verify", journal()]) == 0
        told = capsys.readouterr().out
        assert "a bug that was planted" in told
        assert "did not end tidily" in told
    assert replay.main(["verify", "--once", journal()]) == 3, "mended code no longer raises"


def test_a_step_that_waits_for_a_slow_reader_does_not_begin_after_the_core_failed(
    core: Any,
    journal: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries: list[Callable[[], None]] = []
    monkeypatch.setattr(core.actor.runtime, "call_later", lambda _, retry: retries.append(retry))
    with monkeypatch.context() as patch:
        patch.setattr(EngineCoreActor, "_readers_keep_up", lambda _: False)
        core.send("input_processor", admit())

    def broken(*_: object) -> None:
        raise InvariantViolated("a bug that was planted")

    monkeypatch.setattr(Engine, "_abort", broken)
    with pytest.raises(InvariantViolated):
        core.send("frontend", AbortRequest(RequestKey(1, 0)))
    (retry,) = retries
    retry()
    assert replay.main(["verify", journal()]) == 0, "nothing follows the failure"


def test_the_worker_hears_of_its_step_before_anybody_else(
    core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stand still, and a sender can lose the processor to whom it wakes."""
    told: list[str] = []
    for peer, outbox in core.actor.runtime.outboxes.items():

        def send(*frame: bytes, peer: str = peer, send: Callable[..., None] = outbox.send) -> None:
            told.append(peer)
            send(*frame)

        monkeypatch.setattr(outbox, "send", send)
    core.send("input_processor", admit())
    assert told == ["worker", "detokenizer", "frontend"]


def receive(core: Any, peer: str, kind: type) -> list[Any]:
    """The first message of this kind to `peer`, in a list."""
    while True:
        message = core.receive(peer)
        if isinstance(message, kind):
            return [message]


def statistics_of(core: Any) -> dict[str, int]:
    return {
        peer: outbox.statistics().num_frames for peer, outbox in core.actor.runtime.outboxes.items()
    }


def test_an_event_is_journaled_as_it_came(core: Any, journal: Callable[[], str]) -> None:
    payload = encode(admit())
    core.send("input_processor", payload)
    (segment,) = Path(journal()).glob("*.tkr")
    assert payload in segment.read_bytes()
