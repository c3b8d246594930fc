"""Captures the scenarios: runs of the real core, written as journals."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, admit_of
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey, StepId
from tokenreel.messages.outputs import OutputDelivered, StopStringMatched
from tokenreel.messages.requests import AbortRequest
from tokenreel.messages.steps import SampledTokens, StepBegan, StepCompleted, StepScheduled
from tokenreel.tools.mutate.scenarios import SCENARIOS
from tokenreel.tools.replay.playing.scripted_worker import ScriptedWorker
from tokenreel.tools.replay.reading.writing import Capture, RunWriter

EVENTS_PER_SEGMENT = 150
"""A segment begins with a snapshot, which is compared as well."""
SNAPSHOTS_THROUGHOUT = {"gives-way-to-nobody"}
"""Whether the engine wants another step is no effect: only snapshots show it."""
STRANGERS = "strangers"
STRANGE_EPOCH = 2
"""The frontend whose requests never run."""
SILENT_EPOCH = 3


def capture(name: str, directory: Path) -> Path:
    """Plays the scenario of that name; the run's directory."""
    scenario = SCENARIOS[name]
    run_dir = directory / name
    with RunWriter(run_dir, describe_run(scenario.config, LOGIC_VERSION)) as writer:
        observe = Capture(writer, 1 if name in SNAPSHOTS_THROUGHOUT else EVENTS_PER_SEGMENT)
        if name == STRANGERS:
            Player(scenario, _LyingWorker(scenario), _Strangers(observe, scenario)).play()
        else:
            Player(scenario, ScriptedWorker(scenario), observe).play()
        writer.end(observe.t_ns)
    return run_dir


class _Strangers:
    """Between the events of a run, says what no well-behaved process says. Nothing follows from it
    but counts, refusals and tombstones."""

    def __init__(self, observe: Capture, scenario: Scenario) -> None:
        self._observe = observe
        self._scenario = scenario
        self._num_turns = 0

    def __call__(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        self._observe(engine, event, effects)
        for stranger in self._strange(engine):
            self._observe(engine, stranger, engine.apply(stranger))

    def _strange(self, engine: Engine) -> Iterator[CoreEvent]:
        self._num_turns = turn = self._num_turns + 1
        next_step, open_steps = engine.next_step_id, engine.open_steps
        known = admit_of(self._scenario, 0)
        match turn % 12:
            case 0 if open_steps:
                yield StepCompleted(StepId(open_steps[0].step_id + 1), [], 0, 0)
            case 1 if len(open_steps) == engine.config.pipeline_depth:
                yield StepBegan(next_step)
            case 2:
                yield StepBegan(StepId(next_step + 1))
            case 3 if engine.queues.running:
                yield OutputDelivered((engine.queues.running[0].seq_id,))
            case 4 if engine.queues.running:
                sequence = engine.queues.running[-1]
                yield StopStringMatched(sequence.seq_id, sequence.num_outputs + 1)
            case 5 if known.key not in engine.requests:
                yield known
                yield AbortRequest(known.key)
            case 6:  # an abort whose request comes next, one whose request never does
                yield AbortRequest(RequestKey(STRANGE_EPOCH, 10 * turn + 1))
                yield AbortRequest(RequestKey(STRANGE_EPOCH, 10 * turn + 2))
            case 10:  # nor does this frontend ever send one
                yield AbortRequest(RequestKey(SILENT_EPOCH, turn))
            case 11:
                yield admit_of(self._scenario, engine.last_numbers[known.key.frontend_epoch])
            case 7 if turn % 24 == 7:
                yield msgspec.structs.replace(
                    known, key=RequestKey(STRANGE_EPOCH, 10 * (turn - 1) + 2)
                )
            case 8:
                prompt = [*known.prompt_token_ids[:-1], engine.config.vocab_size]
                key = RequestKey(STRANGE_EPOCH, 10 * turn)
                yield msgspec.structs.replace(known, key=key, prompt_token_ids=prompt)
            case 9:
                room = engine.config.max_model_len - len(known.prompt_token_ids)
                stopping = msgspec.structs.replace(known.stopping, max_tokens=room + 1)
                key = RequestKey(STRANGE_EPOCH, 10 * turn)
                yield msgspec.structs.replace(known, key=key, stopping=stopping)
            case _:
                pass


class _LyingWorker(ScriptedWorker):
    """Now and then it answers with a token that does not exist, or with none."""

    def complete(self, step: StepScheduled) -> StepCompleted:
        completed = super().complete(step)
        outputs = list(completed.outputs)
        if outputs and step.step_id % 17 == 0:
            outputs[0] = SampledTokens(outputs[0].seq_id, [100])
        if outputs and step.step_id % 23 == 0:
            outputs.pop()
        return msgspec.structs.replace(completed, outputs=outputs)
