"""The page tells of the first who was passed over what the scheduler found when it came to it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, capture

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Scenario
from tokenreel.messages.steps import StepBegan, StepScheduled, Unscheduled
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reasons import cause, lack_of_blocks
from tokenreel.tools.replay.view.step_state import step_state
from tokenreel.tools.replay.why.watch import Refusal, Watch

SCARCE = msgspec.structs.replace(CONFIG, scheduling_policy="priority", num_blocks=18)


@pytest.mark.parametrize("config", [CONFIG, SCARCE], ids=["fcfs", "priority"])
def test_the_reason_is_the_schedulers_own(tmp_path: Path, config: Any) -> None:
    requests = tuple(
        msgspec.structs.replace(request, priority=number % 3)
        for number, request in enumerate(REQUESTS)
    )
    run = capture(tmp_path, scenario=Scenario(config=config, requests=requests))
    engine, watch = Engine(config), Watch()
    watch.attach(engine)
    num_lacking = 0
    for recorded in recorded_events(open_journal(run)):
        effects = engine.apply(recorded.event)
        if not isinstance(recorded.event, StepBegan) or not _is_composed(effects):
            continue
        told = step_state(engine, effects)["passed_over"]
        if not watch.refusals:
            assert told is None
            continue
        refusal = watch.refusals[0]
        assert (told["seq"], told["was_running"]) == (refusal.seq_id, refusal.is_running)
        assert told["words"] == _words(refusal)
        num_lacking += "free" in told["words"]
    assert num_lacking > 10


def _is_composed(effects: list[Any]) -> bool:
    return any(isinstance(effect, StepScheduled) for effect in effects)


def _words(refusal: Refusal) -> str:
    if refusal.reason is not Unscheduled.BLOCKS:
        return cause(refusal.reason)
    needed, reserved, free = refusal.num_needed, refusal.num_reserved, refusal.num_free
    if refusal.is_running:
        return lack_of_blocks((needed, needed))
    return lack_of_blocks((needed, needed), (reserved, reserved), (free, free))
