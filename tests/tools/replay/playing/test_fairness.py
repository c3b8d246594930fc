"""Who is passed over has a reason to hear, in a core that is sound."""

import msgspec
import pytest
from playing import limits

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest
from tokenreel.tools.replay.playing.fairness import Fairness
from tokenreel.tools.replay.playing.scripted_worker import ScriptedWorker


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_sound_core_passes_nobody_over_without_a_reason(policy: str, depth: int) -> None:
    """Under preemption, priorities, siblings and aborts."""
    requests = tuple(
        ScenarioRequest(
            num_prompt_tokens=3 + 5 * number % 31,
            max_tokens=4 + 7 * number % 25,
            arrival=number // 3,
            priority=number % 3,
            n=1 + (number % 7 == 0),
            abort_after=3 if number % 5 == 4 else None,
        )
        for number in range(60)
    )
    config = limits(scheduling_policy=policy, pipeline_depth=depth)
    scenario = Scenario(config=config, requests=requests)
    fairness = Fairness(scenario, max_steps=1)
    transcript = Player(scenario, ScriptedWorker(scenario), fairness).play()
    assert transcript.num_preemptions > 0


def test_who_is_overtaken_again_and_again_is_named() -> None:
    """The core takes them as they come; fairness is told that the last one is urgent."""
    requests = [ScenarioRequest(num_prompt_tokens=5, max_tokens=4)] * 4
    played = Scenario(config=limits(max_num_seqs=1), requests=tuple(requests))
    requests[-1] = msgspec.structs.replace(requests[-1], priority=-1)
    meant = Scenario(config=limits(scheduling_policy="priority"), requests=tuple(requests))
    with pytest.raises(InvariantViolated, match="request 3 was passed over in 3 .*others behind"):
        Player(played, ScriptedWorker(played), Fairness(meant, max_steps=2)).play()
