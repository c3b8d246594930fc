"""A scenario says what comes out, who shares what, and when things happen; the player obeys."""

import pytest
from playing import limits

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import (
    STOP_TOKEN,
    Player,
    Scenario,
    ScenarioRequest,
    Stalled,
    Transcript,
    prompt_of,
)
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import StepId
from tokenreel.messages.requests import AbortRequest, AdmitRequest
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import StepBegan, StepCompleted, StepScheduled
from tokenreel.tools.replay.playing.scripted_worker import CheckingWorker, ScriptedWorker, sample_of


def request(num_prompt_tokens: int, max_tokens: int, **more: object) -> ScenarioRequest:
    return ScenarioRequest(
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=max_tokens,
        **more,  # type: ignore[arg-type]
    )


def play(*requests: ScenarioRequest, turns_per_step: int = 1) -> Transcript:
    scenario = Scenario(config=limits(), requests=requests, turns_per_step=turns_per_step)
    return Player(scenario, CheckingWorker(scenario.config, sample_of(scenario))).play()


def test_a_sequence_ends_where_its_stop_token_comes() -> None:
    transcript = play(request(5, 9, ends_after=3), request(4, 9, n=3, ends_after=(2, 0, 4)))
    assert {name: len(tokens) for name, tokens in transcript.outputs.items()} == {
        (0, 0): 3,
        (1, 0): 2,
        (1, 1): 9,
        (1, 2): 4,
    }
    assert transcript.reasons[0, 0] is FinishReason.STOP
    assert transcript.reasons[1, 1] is FinishReason.LENGTH
    stops = {
        name: tokens.index(STOP_TOKEN) + 1
        for name, tokens in transcript.outputs.items()
        if STOP_TOKEN in tokens
    }
    assert stops == {(0, 0): 3, (1, 0): 2, (1, 2): 4}


def test_a_stop_string_may_match_elsewhere_in_each_sequence() -> None:
    transcript = play(request(4, 9, n=3, stop_after=(2, 0, 5)))
    assert [len(tokens) for tokens in transcript.outputs.values()] == [2, 9, 5]


def test_an_abort_waits_for_as_many_tokens_as_it_says() -> None:
    transcript = play(request(5, 30, abort_after=4), request(5, 30, abort_after=4, abort_delay=3))
    assert set(transcript.reasons.values()) == {FinishReason.ABORT}
    assert [len(tokens) for tokens in transcript.outputs.values()] == [4, 7]


def test_a_worker_fails_where_the_scenario_says() -> None:
    transcript = play(request(5, 9, fails_at=3), request(5, 9))
    assert transcript.reasons == {(0, 0): FinishReason.ERROR, (1, 0): FinishReason.LENGTH}
    assert len(transcript.outputs[0, 0]) == 2


def test_groups_lie_within_groups() -> None:
    chain = {"prefix_group": (1, 2), "num_shared_tokens": (8, 12)}
    requests = (
        request(16, 2, **chain),
        request(20, 2, **chain),
        request(16, 2, prefix_group=1, num_shared_tokens=8),
        request(16, 2),
    )
    scenario = Scenario(config=limits(), requests=requests)
    prompts = [prompt_of(scenario, number) for number in range(4)]
    assert [shared(prompts[0], prompt) for prompt in prompts[1:]] == [12, 8, 0]


def test_a_prompt_may_go_on_from_what_another_request_put_out() -> None:
    follow_up = {"prefix_group": 1, "num_shared_tokens": 12}
    requests = (request(5, 9, **follow_up), request(14, 2, arrival=20, **follow_up))
    scenario = Scenario(config=limits(), requests=requests)
    player = Player(scenario, ScriptedWorker(scenario))
    transcript = player.play()
    first = prompt_of(scenario, 0) + transcript.outputs[0, 0]
    assert shared(first, prompt_of(scenario, 1)) == 12
    assert len(player.engine.kv.cache.block_of) == 3, "the same blocks of 4, for both"


def shared(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_no_other_token_is_the_stop_token() -> None:
    scenario = Scenario(config=limits(vocab_size=2), requests=(request(40, 20),))
    transcript = Player(scenario, ScriptedWorker(scenario)).play()
    assert {*prompt_of(scenario, 0), *transcript.outputs[0, 0]} == {1}


def test_with_two_turns_to_a_step_things_arrive_while_it_is_under_way() -> None:
    seen: list[type] = []

    def observe(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        if engine.open_steps or isinstance(event, StepCompleted):
            seen.append(type(event))

    requests = (request(5, 4), request(5, 1, arrival=1, abort_turn=1))
    scenario = Scenario(config=limits(), requests=requests, turns_per_step=2)
    Player(scenario, ScriptedWorker(scenario), observe).play()
    assert seen[:5] == [StepBegan, StepBegan, AdmitRequest, AbortRequest, StepCompleted]


def test_a_run_in_which_nothing_can_happen_any_more_is_ended_at_once() -> None:
    class Idle(ScriptedWorker):
        def complete(self, step: StepScheduled) -> StepCompleted:
            return StepCompleted(StepId(0), [], 0, 0)  # there is no such step

    scenario = Scenario(config=limits(), requests=(request(5, 4),))
    player = Player(scenario, Idle(scenario))
    with pytest.raises(Stalled, match="nothing more can happen.*: request 0"):
        player.play()
    assert player.transcript.num_turns < 5


def test_a_run_that_goes_on_for_ever_is_ended_by_its_bound() -> None:
    scenario = Scenario(config=limits(), requests=(request(5, 40),), max_turns=10)
    with pytest.raises(Stalled, match="not over after 10 turns"):
        Player(scenario, ScriptedWorker(scenario)).play()
