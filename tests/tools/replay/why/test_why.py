"""`engine-replay why`: derived reasons against an oracle, times that add up, a page to read."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from capturing import CONFIG, REQUESTS, capture
from msgspec import structs
from timed_capturing import capture_timed

from tokenreel.actors.core import scheduler
from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Scenario
from tokenreel.actors.core.sequence import Sequence, Status
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.exit_codes import EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.request_name import RequestName, parse_request_name
from tokenreel.tools.replay.why.life import Life, Wait, Work
from tokenreel.tools.replay.why.watch import Watch, Why
from tokenreel.tools.replay.why.why import life_of

BY_PRIORITY = structs.replace(CONFIG, scheduling_policy="priority", num_blocks=18)
TIGHT = structs.replace(CONFIG, max_num_batched_tokens=5, max_num_seqs=3, pipeline_depth=3)
CONFIGS = [CONFIG, BY_PRIORITY, TIGHT]


def scenario(config: CoreConfig) -> Scenario:
    requests = tuple(
        structs.replace(request, priority=number % 3) for number, request in enumerate(REQUESTS)
    )
    return Scenario(config=config, requests=requests)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture_timed(tmp_path_factory.mktemp("journals"), scenario(BY_PRIORITY))


@pytest.fixture(scope="module")
def lives(timed: Path) -> list[Life]:
    return all_lives(timed)


@pytest.mark.parametrize("config", CONFIGS, ids=["fcfs", "priority", "tight"])
def test_who_is_passed_over_and_why_is_what_an_oracle_says(
    config: CoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [each.event for each in journal_of(tmp_path, config)]
    engine, watch = Engine(config), Watch()
    found = []
    for event in events:
        watch.attach(engine)
        engine.apply(event)
        if isinstance(event, StepBegan):
            found.append({s: answer(watch, s, event) for s in engine.sequences})
    told = [each for each in oracle(events, config, monkeypatch)]
    assert found == [answers for answers, _ in told]
    everything = [reason for answers in found for reason in answers.values() if reason]
    assert {Why.REFUSED, Why.BEHIND, Why.SIBLING, Why.IN_FLIGHT} <= {why for why, *_ in everything}
    for _, (logged, decided) in told:
        if decided is not None and decided.seq_id:
            assert logged[0] == (decided.seq_id, decided.unscheduled, decided.num_blocks_needed)


def test_watching_changes_no_decision(tmp_path: Path) -> None:
    watch, engine = Watch(), Engine(BY_PRIORITY)
    watch.attach(engine)
    for recorded in journal_of(tmp_path, BY_PRIORITY):
        assert engine.apply(recorded.event) == recorded.effects


def test_a_waiting_sequence_is_refused_for_blocks_only_if_they_are_too_few(
    tmp_path: Path,
) -> None:
    watch, engine = Watch(), Engine(BY_PRIORITY)
    watch.attach(engine)
    num_refused = 0
    for recorded in journal_of(tmp_path, BY_PRIORITY):
        engine.apply(recorded.event)
        for refusal in watch.refusals if isinstance(recorded.event, StepBegan) else ():
            if refusal.reason is Unscheduled.BLOCKS and not refusal.is_running:
                assert refusal.num_needed + refusal.num_reserved > refusal.num_free
                num_refused += 1
    assert num_refused > 10


def test_every_nanosecond_is_in_one_row(lives: list[Life]) -> None:
    sequences = [sequence for life in lives for sequence in life.sequences]
    assert len(sequences) > len(REQUESTS)
    for sequence in sequences:
        assert sequence.has_one_clock
        assert sum(sequence.spent.values()) == sequence.delivered_ns - sequence.arrived_ns
        assert min(sequence.spent.values()) > 0
    rows = {row.group for sequence in sequences for row in sequence.spent}
    assert {"queued", "prefill", "decode", "preempted", "between", "delivery"} <= rows


def test_a_wait_is_told_for_every_step_that_passed_it_over(
    lives: list[Life], timed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [each.event for each in recorded_events(open_journal(timed))]
    told: dict[int, list[Any]] = {}
    begun = [event for event in events if isinstance(event, StepBegan)]
    for (answers, _), event in zip(oracle(events, BY_PRIORITY, monkeypatch), begun, strict=True):
        for seq_id, reason in answers.items():
            if reason is None or reason[0] is not Why.IN_FLIGHT:
                told.setdefault(seq_id, []).append(reason and (event.step_id, reason[0], reason[2]))
    for life in lives:
        for sequence in life.sequences:
            # A step that came out empty is composed again: nothing new unless for another reason.
            found = groupby(told.get(sequence.seq_id, ()))
            expected = [each for each, _ in found if each and each[1] is not Why.PREEMPTED]
            waits = [each for each in sequence.happenings if isinstance(each, Wait)]
            assert sum(wait.num_steps for wait in waits) == len(expected)
            for wait in waits:
                inside = {step for step, why, _ in expected if why is wait.why}
                assert {wait.first_step, wait.last_step} <= inside
                if wait.why is Why.BEHIND:
                    assert sum(wait.blockers.values()) == wait.num_steps


def test_what_a_life_says_of_tokens_is_what_was_recorded(lives: list[Life], timed: Path) -> None:
    index = open_index(timed, progress=False)
    requests, sequences = index.requests, index.sequences
    by_id = {seq_id: row for row, seq_id in enumerate(sequences.seq_id.tolist())}
    for life in lives:
        row = requests.row_of(life.key)
        assert row is not None
        assert life.arrived_ns == requests.admit_t_ns[row]
        assert life.finished_ns == requests.delivered_ns[row]
        for sequence in life.sequences:
            place = by_id[sequence.seq_id]
            assert sequence.first_token_ns == sequences.first_token_ns[place]
            assert sequence.last_token_ns == sequences.last_token_ns[place]
            assert sequence.finished_ns == sequences.finished_ns[place]
            num_preempted = sum(type(each).__name__ == "Preempted" for each in sequence.happenings)
            assert num_preempted == sequences.num_preemptions[place]


def test_a_page_and_its_json_say_the_same(timed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(timed), "1.6"]) == EXIT_OK
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 100
    assert main(["why", str(timed), "1.6", "--json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    (sequence,) = told["sequences"]
    total_ms = sum(row["ns"] for row in sequence["spent"]) / 1e6
    assert f"total {total_ms:,.3f} 100.0" in " ".join(page.split())
    assert f"TTFT {sequence['ttft_ns'] / 1e6:,.3f} ms" in " ".join(page.split())
    for word in ("ARRIVED", "FIRST TOKEN", "FINISHED", "DELIVERED", "prefill", "decode"):
        assert word in page


def test_a_sequence_names_its_request(timed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(timed), "s2"]) == EXIT_OK
    page = capsys.readouterr().out
    assert page.startswith("request 1.0 (s1 s2)")
    assert "its sibling #0" in page


def test_an_aborted_request_is_told_to_its_end(timed: Path, lives: list[Life]) -> None:
    aborted = [life for life in lives if life.aborted_ns and life.sequences]
    assert aborted
    for life in aborted:
        assert life.aborted_ns <= life.finished_ns
        for sequence in life.sequences:
            work = [each for each in sequence.happenings if isinstance(each, Work)]
            assert all(each.from_ns < each.to_ns for each in work)


def test_a_request_that_goes_on_is_told_as_far_as_the_journal_goes(
    timed: Path, tmp_path: Path
) -> None:
    (segment,) = timed.glob("*.tkr")
    cut = tmp_path / segment.name
    cut.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    unfinished = [life for life in all_lives(tmp_path) if life.sequences and not life.finished_ns]
    assert unfinished
    for life in unfinished:
        for sequence in life.sequences:
            end_ns = sequence.delivered_ns or life.until_ns
            assert sum(sequence.spent.values()) == end_ns - sequence.arrived_ns


def test_what_came_before_the_journal_is_told_from_its_start(tmp_path: Path) -> None:
    run = capture_timed(tmp_path, scenario(CONFIG), events_per_segment=60)
    segments = sorted(run.glob("*.tkr"), key=lambda path: int(path.stem.split("-")[2]))
    for segment in segments[:2]:
        segment.unlink()
    index = open_index(run, progress=False)
    early = [row for row in range(len(index.requests)) if not index.requests.admit_seq[row]]
    assert early
    for row in early:
        life = life_of(index, RequestName(index.requests.key(row), None))
        assert life.admit is None and life.sequences
        for sequence in life.sequences:
            end_ns = sequence.delivered_ns or life.until_ns
            assert sum(sequence.spent.values()) == end_ns - sequence.arrived_ns


@pytest.mark.parametrize(("name", "says"), [("1.999", "knows no request"), ("x", "names no")])
def test_a_request_that_is_not_there_is_told(
    timed: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    assert main(["why", str(timed), name]) == EXIT_USAGE
    assert says in capsys.readouterr().err


def all_lives(run: Path) -> list[Life]:
    index = open_index(run, progress=False)
    names = [f"1.{number}" for number in index.requests.number.tolist()]
    return [life_of(index, parse_request_name(name)) for name in names]


def journal_of(directory: Path, config: CoreConfig) -> Iterator[Any]:
    run = capture(directory, scenario=scenario(config))
    return recorded_events(open_journal(run))


Answer = tuple[Why, int, Unscheduled | None] | None


def answer(watch: Watch, seq_id: Any, event: StepBegan) -> Answer:
    found = watch.passed_over(seq_id, event.step_id)
    if found is None:
        return None
    refusal = found.refusal
    return found.why, refusal.seq_id if refusal else 0, refusal.reason if refusal else None


def oracle(
    events: list[CoreEvent], config: CoreConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[int, Answer], tuple[list[Any], StepDecided | None]]]:
    """The slow way: every call of `pass_over` is logged, the rest follows from the queues."""
    log: list[tuple[int, Unscheduled, int]] = []

    class Logging(scheduler.Composition):
        def pass_over(self, sequence: Sequence, reason: Unscheduled, num_blocks: int = 0) -> None:
            log.append((sequence.seq_id, reason, num_blocks))
            super().pass_over(sequence, reason, num_blocks)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "Composition", Logging)
        engine = Engine(config)
        for event in events:
            log.clear()
            effects = engine.apply(event)
            if isinstance(event, StepBegan):
                decided = next((e for e in effects if isinstance(e, StepDecided)), None)
                yield expected(engine, effects, list(log)), (list(log), decided)


def expected(engine: Engine, effects: list[Effect], log: list[Any]) -> dict[int, Answer]:
    scheduled = {s.seq_id for e in effects if isinstance(e, StepScheduled) for s in e.scheduled}
    preempted = {e.seq_id for e in effects if isinstance(e, SequencePreempted)}
    reasons = {seq_id: reason for seq_id, reason, _ in log}
    in_line = sorted(engine.queues.waiting.values(), key=lambda sequence: sequence.order)
    heads = [s.seq_id for s in in_line if s.seq_id in reasons and s.seq_id not in preempted]
    heads += [s.seq_id for s in in_line if s.seq_id in reasons]
    stop = heads[0] if heads else log[-1][0] if log else 0

    def of(sequence: Sequence) -> Answer:
        if sequence.status is Status.FINISHED or sequence.seq_id in scheduled:
            return None
        if sequence.status is Status.BLOCKED:
            return Why.SIBLING, 0, None
        if sequence.seq_id in reasons:
            return Why.REFUSED, sequence.seq_id, reasons[sequence.seq_id]
        if sequence.seq_id in preempted:
            return Why.PREEMPTED, 0, None
        if sequence.status is Status.RUNNING:
            if not sequence.num_schedulable():
                return Why.IN_FLIGHT, 0, None
            return Why.BEHIND, log[-1][0], log[-1][1]
        return Why.BEHIND, stop, reasons.get(stop)

    return {seq_id: of(sequence) for seq_id, sequence in engine.sequences.items()}
