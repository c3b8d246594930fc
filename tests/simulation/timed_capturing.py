"""Journals of runs in which time passes: core, worker and recorder share a clock that they move."""

from pathlib import Path

from capturing import CountingWorker
from msgspec import structs

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.messages.steps import StepCompleted, StepScheduled

EVENT_NS = 70
TRANSFER_NS = 300
TOKEN_NS = 1000


class MovedClock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return 1_795_261_843_621_257_479 + self.now_ns

    def thread_cpu_ns(self) -> int:
        return self.now_ns

    def move(self, duration_ns: int) -> int:
        self.now_ns += duration_ns
        return self.now_ns


class TimedWorker(CountingWorker):
    """Needs a time for every token of a step."""

    def __init__(self, clock: MovedClock) -> None:
        self._clock = clock

    def complete(self, step: StepScheduled) -> StepCompleted:
        num_tokens = sum(share.num_tokens for share in step.scheduled)
        began_ns = self._clock.move(TRANSFER_NS)
        ended_ns = self._clock.move(TOKEN_NS * num_tokens)
        return structs.replace(super().complete(step), began_ns=began_ns, ended_ns=ended_ns)


def capture_timed(directory: Path, scenario: Scenario, events_per_segment: int = 10**9) -> Path:
    """The run's directory."""
    clock = MovedClock()
    meta = describe_run(scenario.config, LOGIC_VERSION)
    recorder = Recorder.create(directory, meta, sync="none", clock=clock)
    num_events = 0

    def record(engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        nonlocal num_events
        num_events += 1
        t_ns = clock.move(EVENT_NS)
        recorder.append(tag_of(event), INPUT, encode(event), t_ns)
        for effect in effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), t_ns)
        recorder.commit()
        if num_events % events_per_segment == 0:
            recorder.rotate(engine.snapshot())

    Player(scenario, TimedWorker(clock), record).play()
    recorder.close()
    return recorder.run_dir
