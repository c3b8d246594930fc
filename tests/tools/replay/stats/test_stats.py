"""`engine-replay stats`: its figures are those that a plain count of the events gives."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capturing import CONFIG, capture
from msgspec import structs

from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.messages.outputs import OutputDelivered, SequenceFinished, TokensEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.exit_codes import EXIT_MISSING, EXIT_OK
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.stats.report import as_text
from tokenreel.tools.replay.stats.stats import (
    MAX_BINS,
    Statistics,
    bins_of,
    spread_of,
    statistics_of,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"), events_per_segment=90)


@pytest.fixture(scope="module")
def events(run: Path) -> list[RecordedEvent]:
    return list(recorded_events(open_journal(run)))


@pytest.fixture(scope="module")
def found(run: Path) -> Statistics:
    return statistics_of(open_index(run, progress=False))


def effects(events: list[RecordedEvent], kind: type) -> list[Any]:
    return [effect for event in events for effect in event.effects if isinstance(effect, kind)]


def test_requests_and_sequences_are_counted_by_outcome(
    events: list[RecordedEvent], found: Statistics
) -> None:
    admits = [each.event for each in events if isinstance(each.event, AdmitRequest)]
    aborted = {each.event.key for each in events if isinstance(each.event, AbortRequest)}
    rejected = {effect.key for effect in effects(events, RequestRejected)}
    finished = {effect.key for effect in effects(events, RequestFinished)}
    assert found.num_events == len(events)
    assert found.num_requests == len(admits)
    assert found.num_rejected == len(rejected)
    assert found.num_delivered == len(finished - aborted)
    assert found.num_aborted == len(aborted - rejected)
    assert found.num_in_flight == found.num_carried == 0
    last = {effect.seq_id: effect for effect in effects(events, SequenceFinished)}
    reasons = Counter(effect.reason.name.lower() for effect in last.values())
    assert found.finish_reasons == reasons
    assert len(reasons) == 3


def test_tokens_and_steps_are_counted(events: list[RecordedEvent], found: Statistics) -> None:
    emitted = [one for effect in effects(events, TokensEmitted) for one in effect.sequences]
    steps = effects(events, StepScheduled)
    decided = effects(events, StepDecided)
    assert found.num_output_tokens == sum(len(one.token_ids) for one in emitted)
    shares = [share for step in steps for share in step.scheduled]
    assert found.num_computed_tokens == sum(share.num_tokens for share in shares)
    added = [added for step in steps for added in step.added]
    assert found.num_cached_tokens == 4 * sum(len(each.block_ids) for each in added) > 0
    full = sum((len(each.token_ids) - 1) // 4 for each in added)
    assert found.num_cacheable_tokens == 4 * full
    assert found.num_preemptions == len(effects(events, SequencePreempted)) > 0
    assert found.num_steps == len(steps)
    assert found.max_waiting == max(step.num_waiting for step in decided)
    assert found.max_running == max(step.num_running for step in decided)
    fewest = min(step.num_free_blocks for step in decided)
    assert found.max_blocks_used == 16 - fewest
    passed = Counter(
        step.unscheduled.name.lower()
        for step in decided
        if step.unscheduled is not Unscheduled.NOTHING
    )
    assert found.passed_over == passed


def test_latencies_are_those_between_the_events(
    events: list[RecordedEvent], found: Statistics
) -> None:
    arrived: dict[Any, int] = {}
    first: dict[int, int] = {}
    key_of: dict[int, Any] = {}
    delivered: dict[Any, int] = {}
    for event in events:
        if isinstance(event.event, AdmitRequest):
            arrived[event.event.key] = event.t_ns
        for effect in event.effects:
            if isinstance(effect, TokensEmitted):
                for one in effect.sequences:
                    if one.token_ids:
                        first.setdefault(one.seq_id, event.t_ns)
            elif hasattr(effect, "seq_ids"):
                key_of |= dict.fromkeys(effect.seq_ids, effect.key)
            elif isinstance(effect, RequestFinished):
                delivered[effect.key] = event.t_ns
    aborted = {each.event.key for each in events if isinstance(each.event, AbortRequest)}
    by_key: dict[Any, int] = {}
    for seq_id, t_ns in first.items():
        by_key[key_of[seq_id]] = min(t_ns, by_key.get(key_of[seq_id], t_ns))
    ttfts = [t_ns - arrived[key] for key, t_ns in by_key.items()]
    whole = [t_ns - arrived[key] for key, t_ns in delivered.items() if key not in aborted]
    assert found.ttft.count == len(ttfts)
    assert found.ttft.mean == pytest.approx(statistics.fmean(ttfts))
    assert found.ttft.p50 == pytest.approx(statistics.median(ttfts))
    assert found.end_to_end.mean == pytest.approx(statistics.fmean(whole))
    assert found.end_to_end.max == max(whole)
    assert 0 < found.tpot.p50 <= found.tpot.p99 <= found.tpot.max
    assert any(isinstance(each.event, OutputDelivered) for each in events)


def test_time_with_a_step_open_is_counted_once(
    events: list[RecordedEvent], found: Statistics
) -> None:
    """The slow way: a walk over the events with the set of steps that are open."""
    open_steps: set[int] = set()
    open_ns, before_ns = 0, events[0].t_ns
    for event in events:
        open_ns += event.t_ns - before_ns if open_steps else 0
        before_ns = event.t_ns
        if isinstance(event.event, StepBegan) and event.effects:
            if any(isinstance(effect, StepScheduled) for effect in event.effects):
                open_steps.add(event.event.step_id)
        elif isinstance(event.event, StepCompleted):
            open_steps.discard(event.event.step_id)
    assert found.open_ns == open_ns > 0


@pytest.mark.parametrize(
    "values",
    [[1], [0], [0.0001], [0, 5], [0.3, 2.2, 7.7], [3, 3, 3], [1, 1_000_000], list(range(300))],
)
def test_every_value_is_in_one_bin(values: list[float]) -> None:
    bins = bins_of(np.array(values))
    assert len(bins) <= MAX_BINS
    assert sum(each.num for each in bins) == len(values)
    for one, other in zip(bins, bins[1:], strict=False):
        assert one.high == other.low
    for each in bins:
        assert each.num == sum(each.low <= value < each.high for value in values)


def test_a_bin_that_holds_whatever_is_below_it_says_so(found: Statistics) -> None:
    page = as_text(
        structs.replace(
            found,
            step_durations=bins_of(np.array([0.96, 0.97, 90.0])),
            batch_sizes=bins_of(np.array([0, 1, 5])),
        )
    )
    lines = [" ".join(line.strip(" #").split()) for line in page.splitlines()]
    assert lines[lines.index("steps by duration on the worker/ms") + 1] == "0 to 2 2"
    assert lines[lines.index("steps by number of sequences") + 1] == "0-1 2"


def test_nothing_has_a_spread_too() -> None:
    assert spread_of(np.array([], dtype=np.int64)).count == 0
    assert bins_of(np.array([], dtype=np.int64)) == []


def test_the_page_and_the_json_say_the_same(
    run: Path, found: Statistics, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(run)]) == EXIT_OK
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 100
    assert f"{found.num_output_tokens:,} output" in page
    assert main(["stats", "--json", str(run)]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert told["num_requests"] == found.num_requests
    assert told["ttft"]["mean"] == found.ttft.mean


def test_a_run_in_which_nothing_happened_has_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = capture(tmp_path, scenario=Scenario(config=CONFIG, requests=()))
    assert main(["stats", str(run)]) == EXIT_OK
    assert "0 events" in capsys.readouterr().out
    assert main(["stats", str(tmp_path / "none")]) == EXIT_MISSING


def test_refused_requests_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ScenarioRequest(num_prompt_tokens=60, max_tokens=30)
    config = structs.replace(CONFIG, max_model_len=64)
    run = capture(tmp_path, scenario=Scenario(config=config, requests=(request,)))
    assert main(["stats", str(run)]) == EXIT_OK
    page = " ".join(capsys.readouterr().out.split())
    assert "requests 1: 1 rejected" in page and "1 x 400" in page
