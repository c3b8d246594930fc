"""A lifted run decides as the captured one did: the same steps, of the same sequences."""

from pathlib import Path

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, capture
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepScheduled
from tokenreel.tools.replay.playing.scripted_worker import ScriptedWorker
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.shrink.lifting import max_turns_of, scenario_of
from tokenreel.tools.replay.shrink.prefix_tree import Prefix, shared_prefixes

Shares = list[list[tuple[int, int, int]]]


def steps_in(effects: list[Effect]) -> Shares:
    return [
        [(share.seq_id, share.start, share.num_tokens) for share in effect.scheduled]
        for effect in effects
        if isinstance(effect, StepScheduled)
    ]


def recorded_steps(run: Path) -> Shares:
    return [
        step for event in recorded_events(open_journal(run)) for step in steps_in(event.effects)
    ]


def played_steps(scenario: Scenario) -> Shares:
    steps: Shares = []

    def observe(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        steps.extend(steps_in(effects))

    Player(scenario, ScriptedWorker(scenario), observe).play()
    return steps


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_lifted_run_takes_the_same_steps(tmp_path: Path, depth: int) -> None:
    config = msgspec.structs.replace(CONFIG, pipeline_depth=depth)
    run = capture(tmp_path, scenario=Scenario(config=config, requests=REQUESTS))
    scenario, recording, keys = scenario_of(open_journal(run))
    assert [key.number for key in keys] == list(range(len(REQUESTS)))
    assert len(scenario.requests) == len(REQUESTS)
    assert recording.num_preemptions > 0
    assert played_steps(scenario) == recorded_steps(run)


def test_what_arrives_while_a_step_is_under_way_arrives_then(tmp_path: Path) -> None:
    requests = tuple(
        msgspec.structs.replace(
            request, arrival=3 * number, abort_after=4 if number % 5 == 2 else None
        )
        for number, request in enumerate(REQUESTS)
    )
    scenario = Scenario(config=CONFIG, requests=requests, turns_per_step=2)
    run = capture(tmp_path, scenario=scenario)
    assert played_steps(scenario_of(open_journal(run)).scenario) == recorded_steps(run)


def test_lengths_ends_and_aborts_are_those_of_the_run(tmp_path: Path) -> None:
    requests = (
        ScenarioRequest(num_prompt_tokens=9, max_tokens=6, n=2, priority=3),
        ScenarioRequest(num_prompt_tokens=5, max_tokens=20, arrival=2, abort_after=3),
        ScenarioRequest(num_prompt_tokens=5, max_tokens=20, arrival=2, stop_after=4, stop_delay=6),
        ScenarioRequest(num_prompt_tokens=60, max_tokens=50, arrival=3),
        ScenarioRequest(num_prompt_tokens=5, max_tokens=20, arrival=3, abort_turn=1),
    )
    run = capture(tmp_path, scenario=Scenario(config=CONFIG, requests=requests))
    lifted = scenario_of(open_journal(run)).scenario
    asked = [(r.num_prompt_tokens, r.max_tokens, r.n, r.priority) for r in requests]
    found = [(r.num_prompt_tokens, r.max_tokens, r.n, r.priority) for r in lifted.requests]
    assert found == asked
    assert (lifted.requests[1].abort_after, lifted.requests[1].abort_turn) == (3, None)
    assert (lifted.requests[2].stop_after, lifted.requests[2].stop_delay) == (4, 12)
    assert lifted.requests[4].abort_turn is not None
    assert lifted.requests[4].abort_turn < lifted.requests[4].arrival
    assert max_turns_of(lifted) > lifted.turns_per_step * len(recorded_steps(run))


def test_shared_prefixes_are_groups_within_groups() -> None:
    root = b"r"
    texts = [
        (root, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (root, [1, 2, 3, 4, 5, 6, 7, 8]),
        (root, [1, 2, 3, 4, 9, 9]),
        (root, [1, 2, 3, 9]),
        (b"s", [1, 2, 3, 4, 5, 6, 7, 8]),
    ]
    outer, inner = Prefix(2, 4), Prefix(1, 8)
    assert shared_prefixes(texts, 4) == [(outer, inner), (outer, inner), (outer,), (), ()]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2), max_size=12), max_size=8), st.integers(1, 3))
def test_two_texts_share_as_many_blocks_as_their_groups_say(
    texts: list[list[int]], block_size: int
) -> None:
    groups = shared_prefixes([(b"", text) for text in texts], block_size)
    for i, one in enumerate(texts):
        for j in range(i):
            equal = [a == b for a, b in zip(one, texts[j], strict=False)]
            num_shared = equal.index(False) if False in equal else len(equal)
            common = set(groups[i]) & set(groups[j])
            said = max((prefix.length for prefix in common), default=0)
            assert said == num_shared - num_shared % block_size
