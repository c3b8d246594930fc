"""The simulation gives every client what the record gave, in its own time, under any limits."""

from pathlib import Path

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, capture
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.invariants import check, check_quiet, check_step
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.sampling import FinishReason
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.recording.recording import lift
from tokenreel.tools.replay.recording.values import RecordedRequest, Recording, StepWork
from tokenreel.tools.replay.what_if.arrivals import ClosedLoop
from tokenreel.tools.replay.what_if.clients import Clients, clients_of
from tokenreel.tools.replay.what_if.fit import Latencies
from tokenreel.tools.replay.what_if.simulate import SimulationFailed, place_of, simulate

LATENCIES = Latencies(turn_ns=20, dispatch_ns=30, turnover_ns=10, return_ns=40, delivery_ns=50)


class Linear:
    """Steps of a base and so much per token."""

    def __init__(self, base_ns: int = 3000, token_ns: int = 100) -> None:
        self._base_ns = base_ns
        self._token_ns = token_ns

    def duration_ns(self, work: StepWork) -> int:
        return self._base_ns + self._token_ns * work.num_tokens


class Checking:
    """Every invariant after every event; at the end, nothing may be left."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def __call__(
        self, now_ns: int, engine: Engine, event: CoreEvent, effects: list[Effect]
    ) -> None:
        self.engine = engine
        check(engine)
        check_step(engine, effects)


def run(
    clients: Clients, config: CoreConfig, loop: ClosedLoop | None = None, base_ns: int = 3000
) -> Recording:
    checking = Checking()
    simulated = simulate(clients, config, Linear(base_ns), LATENCIES, loop, checking)
    assert checking.engine is not None
    check_quiet(checking.engine)
    return simulated


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return lift(open_journal(capture(tmp_path_factory.mktemp("runs"))))


@pytest.fixture(scope="module")
def clients(recording: Recording) -> Clients:
    return clients_of(recording)


@pytest.fixture(scope="module")
def few(clients: Clients) -> Clients:
    return msgspec.structs.replace(clients, requests=clients.requests[:16])


def assert_same_answers(recording: Recording, clients: Clients, simulated: Recording) -> None:
    """Every sequence put out what the record says, as far as the client wanted it."""
    assert len(simulated.requests) == len(clients.requests)
    for request in simulated.requests:
        asked = clients.requests[place_of(request.admit.key)]
        original = recording.requests[asked.source]
        assert request.rejected is None
        assert request.admit.prompt_token_ids == asked.admit.prompt_token_ids
        for then, now in zip(original.sequences, request.sequences, strict=True):
            if then.finish_reason is FinishReason.ABORT:
                num_waited_for = asked.answers[original.sequences.index(then)].num_when_aborted
                assert now.outputs[:num_waited_for] == then.outputs[:num_waited_for]
                continue
            assert now.finish_reason == then.finish_reason
            assert now.num_final_outputs == then.num_final_outputs
            final = then.num_final_outputs
            assert now.outputs[:final] == then.outputs[:final]


def test_the_recorded_configuration_gives_the_recorded_answers(
    recording: Recording, clients: Clients
) -> None:
    simulated = run(clients, recording.config)
    assert_same_answers(recording, clients, simulated)
    assert clients.num_left_out == clients.num_cut_off == clients.num_inherited == 0


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    num_blocks=st.integers(14, 60),
    block_size=st.sampled_from([1, 2, 4, 8]),
    max_num_seqs=st.integers(2, 12),
    max_num_batched_tokens=st.integers(1, 64),
    pipeline_depth=st.integers(1, 3),
    scheduling_policy=st.sampled_from(["fcfs", "priority"]),
    enable_prefix_caching=st.booleans(),
    base_ns=st.sampled_from([0, 500, 20_000]),
)
def test_other_limits_change_when_but_not_what(
    recording: Recording, few: Clients, base_ns: int, **changes: object
) -> None:
    num_slots = 64 if changes["block_size"] == 1 else changes["num_blocks"]
    changes["num_blocks"] = max(64 // changes["block_size"], num_slots)  # type: ignore[operator]
    config = msgspec.structs.replace(recording.config, **changes)  # type: ignore[arg-type]
    assert_same_answers(recording, few, run(few, config, base_ns=base_ns))


def test_the_same_question_has_the_same_answer(recording: Recording, clients: Clients) -> None:
    assert run(clients, recording.config) == run(clients, recording.config)


def test_steps_take_as_long_as_they_are_said_to(recording: Recording, clients: Clients) -> None:
    simulated = run(clients, recording.config)
    free_ns = -LATENCIES.turnover_ns
    for step in simulated.steps:
        assert step.ended_ns - step.began_ns == Linear().duration_ns(step.work)
        ready_ns = step.scheduled_ns + LATENCIES.dispatch_ns
        assert step.began_ns == max(ready_ns, free_ns + LATENCIES.turnover_ns)
        assert step.completed_ns >= step.ended_ns + LATENCIES.return_ns
        free_ns = step.ended_ns


def test_a_pipeline_of_one_step_leaves_the_worker_idle_between_steps(
    recording: Recording, clients: Clients
) -> None:
    shallow = run(clients, msgspec.structs.replace(recording.config, pipeline_depth=1))
    gaps = [
        after.began_ns - before.ended_ns
        for before, after in zip(shallow.steps, shallow.steps[1:], strict=False)
    ]
    assert min(gaps) >= LATENCIES.return_ns + LATENCIES.turn_ns + LATENCIES.dispatch_ns


def test_a_pipeline_of_two_steps_keeps_the_worker_busy(
    recording: Recording, clients: Clients
) -> None:
    steps = run(clients, recording.config).steps
    gaps = [
        after.began_ns - before.ended_ns for before, after in zip(steps, steps[1:], strict=False)
    ]
    num_waits = sum(gap > LATENCIES.turnover_ns for gap in gaps)
    assert min(gaps) == LATENCIES.turnover_ns
    assert num_waits < len(gaps) / 4


def test_an_abort_follows_the_output_that_its_client_had_seen(
    recording: Recording, clients: Clients
) -> None:
    simulated = run(clients, recording.config, base_ns=50_000)
    num_seen = 0
    for request in simulated.requests:
        asked = clients.requests[place_of(request.admit.key)]
        if asked.abort_delay_ns is None or request.abort is None:
            continue
        for answer, sequence in zip(asked.answers, request.sequences, strict=True):
            if sequence.finish_reason is FinishReason.ABORT:
                assert len(sequence.outputs) >= answer.num_when_aborted
                num_seen += 1
    assert num_seen


def test_a_stop_string_is_found_as_late_as_it_was_then(
    recording: Recording, clients: Clients
) -> None:
    then = {r.admit.key.number: r for r in recording.requests}
    num_matches = 0
    for request in run(clients, recording.config).requests:
        original = then[place_of(request.admit.key)]
        for before, now in zip(original.sequences, request.sequences, strict=True):
            if before.stop_match is None:
                continue
            assert now.stop_match is not None
            assert now.stop_match.num_output_tokens == before.stop_match.num_output_tokens
            assert now.stop_match.delay_ns >= before.stop_match.delay_ns
            num_matches += 1
    assert num_matches


def test_what_ran_before_the_record_is_load_and_ends_as_it_did(
    tmp_path: Path,
) -> None:
    run_dir = capture(tmp_path / "runs", events_per_segment=60)
    late_dir = tmp_path / "late"
    late_dir.mkdir()
    for path in sorted(run_dir.glob("*.tkr"), key=lambda p: int(p.stem.split("-")[-1]))[2:]:
        (late_dir / path.name).write_bytes(path.read_bytes())
    late = lift(open_journal(late_dir))
    clients = clients_of(late)
    assert clients.num_inherited and not clients.num_cut_off
    simulated = run(clients, late.config)
    for request in simulated.requests:
        asked = clients.requests[place_of(request.admit.key)]
        assert asked.counts != late.requests[asked.source].is_inherited
        if not asked.counts:
            (sequence,) = request.sequences
            outputs = asked.answers[0].outputs
            assert sequence.outputs[: len(outputs)] == outputs


def test_what_is_cut_off_by_the_end_is_load_and_is_given_up_there(tmp_path: Path) -> None:
    run_dir = capture(tmp_path / "runs", events_per_segment=60)
    early_dir = tmp_path / "early"
    early_dir.mkdir()
    for number in (0, 1):
        (path,) = run_dir.glob(f"*-{number}.tkr")
        (early_dir / path.name).write_bytes(path.read_bytes())
    early = lift(open_journal(early_dir))
    clients = clients_of(early)
    assert clients.num_cut_off
    simulated = run(clients, early.config)
    for request in simulated.requests:
        asked = clients.requests[place_of(request.admit.key)]
        if not asked.counts:
            assert request.is_complete
            for answer, sequence in zip(asked.answers, request.sequences, strict=True):
                assert sequence.outputs[: len(answer.outputs)] == answer.outputs


def test_who_was_refused_then_is_left_out(tmp_path: Path) -> None:
    asked = (
        ScenarioRequest(num_prompt_tokens=50, max_tokens=50),
        ScenarioRequest(num_prompt_tokens=5, max_tokens=5),
    )
    run_dir = capture(tmp_path, scenario=Scenario(config=CONFIG, requests=asked))
    clients = clients_of(lift(open_journal(run_dir)))
    assert clients.num_left_out == 1 and [r.source for r in clients.requests] == [1]


def test_who_is_refused_under_a_variant_is_told_so(recording: Recording, clients: Clients) -> None:
    narrow = msgspec.structs.replace(recording.config, max_num_seqs=1)
    simulated = run(clients, narrow)
    refused = [request for request in simulated.requests if request.rejected is not None]
    assert {len(clients.requests[place_of(r.admit.key)].answers) for r in refused} == {2}
    assert len(refused) == sum(asked.n == 2 for asked in REQUESTS)


def test_in_a_closed_loop_the_next_request_comes_after_an_answer(
    recording: Recording, clients: Clients
) -> None:
    loop = ClosedLoop(4, tuple(range(100, 136)))
    simulated = run(clients, recording.config, loop)
    ends = sorted(_end(request) for request in simulated.requests)
    later = sorted(simulated.requests, key=lambda request: place_of(request.admit.key))[4:]
    assert len(simulated.requests) == 40
    for place, request in enumerate(later):
        assert request.arrival_ns >= ends[place] + 100 + place
    events = sorted([(r.arrival_ns, 1) for r in simulated.requests] + [(e, -1) for e in ends])
    in_flight = most = 0
    for _, change in events:
        in_flight += change
        most = max(most, in_flight)
    assert most <= 4


def test_a_core_that_raises_fails_the_simulation(
    recording: Recording, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Engine, event: CoreEvent) -> list[Effect]:
        raise LookupError("no request 13")

    monkeypatch.setattr(Engine, "apply", broken)
    with pytest.raises(SimulationFailed, match="raised LookupError: no request 13"):
        simulate(clients, recording.config, Linear(), LATENCIES)


def test_a_core_that_stalls_fails_the_simulation(
    recording: Recording, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "wants_step", lambda self: False)
    with pytest.raises(SimulationFailed, match="requests are not answered"):
        simulate(clients, recording.config, Linear(), LATENCIES)


def test_a_core_that_never_has_enough_steps_fails_the_simulation(
    recording: Recording, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "wants_step", lambda self: True)
    with pytest.raises(SimulationFailed, match="wants a step again and again"):
        simulate(clients, recording.config, Linear(), LATENCIES)


def _end(request: RecordedRequest) -> int:
    return max(sequence.finished_ns for sequence in request.sequences)
