"""Journals of runs of the real core against a worker that counts, for the tools to work on."""

from pathlib import Path

from tokenreel.actors.core.config import LOGIC_VERSION, CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.messages.steps import SampledTokens, StepCompleted, StepScheduled

CONFIG = CoreConfig(
    num_blocks=16,
    block_size=4,
    max_model_len=64,
    max_num_seqs=6,
    max_num_batched_tokens=24,
    max_in_flight=64,
    vocab_size=100,
)
REQUESTS = tuple(
    ScenarioRequest(
        num_prompt_tokens=5 + 3 * (number % 7),
        max_tokens=10 + number % 25,
        arrival=number // 2,
        n=2 if number % 5 == 0 else 1,
        prefix_group=number % 3,
        num_shared_tokens=9,
        abort_turn=number if number % 8 == 3 else None,
        stop_after=3 if number % 6 == 1 else None,
    )
    for number in range(40)
)


class CountingWorker:
    def complete(self, step: StepScheduled) -> StepCompleted:
        outputs = [
            SampledTokens(share.seq_id, [(share.seq_id * 31 + share.start) % 100])
            for share in step.scheduled
            if share.num_logits
        ]
        return StepCompleted(step.step_id, outputs, step.step_id, step.step_id + 1)


def capture(
    directory: Path,
    events_per_segment: int = 10**9,
    scenario: Scenario | None = None,
) -> Path:
    """The run's directory. Without a `scenario`: a run with concurrency, preemption, prefix hits,
    aborts and stop strings."""
    scenario = scenario or Scenario(config=CONFIG, requests=REQUESTS)
    meta = describe_run(scenario.config, LOGIC_VERSION)
    recorder = Recorder.create(directory, meta, sync="none")
    num_events = 0

    def record(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        nonlocal num_events
        num_events += 1
        recorder.append(tag_of(event), INPUT, encode(event), 1000 * num_events)
        for effect in effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), 1000 * num_events)
        recorder.commit()
        if num_events % events_per_segment == 0:
            recorder.rotate(engine.snapshot())

    Player(scenario, CountingWorker(), record).play()
    recorder.close()
    return recorder.run_dir
