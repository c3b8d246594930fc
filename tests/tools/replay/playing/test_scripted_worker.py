"""Whoever computes with somebody else's blocks is found out."""

import pytest
from playing import limits

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepScheduled
from tokenreel.tools.replay.playing.scripted_worker import CheckingWorker, sample_of


def test_the_checking_worker_tells_whose_kv_is_wrong() -> None:
    scenario = Scenario(
        config=limits(), requests=(ScenarioRequest(num_prompt_tokens=5, max_tokens=4),) * 2
    )
    worker = CheckingWorker(scenario.config, sample_of(scenario))

    def swap_blocks(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, StepScheduled) and effect.step_id == 1:
                one, two = effect.scheduled
                two.new_block_ids[:] = one.new_block_ids

    with pytest.raises(InvariantViolated, match="holds somebody else's KV"):
        Player(scenario, worker, swap_blocks).play()
