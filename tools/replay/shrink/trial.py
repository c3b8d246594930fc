"""Plays a scenario once and says whether it shows a symptom, and where."""

import time
from typing import NamedTuple, Protocol

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Player, Scenario, Transcript, Worker
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepCompleted, StepScheduled


class OutOfTime(BaseException):
    """The deadline came in the middle of a trial. No rule and no predicate may take it for its own
    failure, therefore it is no Exception."""


class WorkerRefused(Exception):
    """The worker found a step that contradicts those before it."""


class Played(NamedTuple):
    """A run that is over: at its end, or because of `error`, which the core, the worker
    (WorkerRefused) or the player (Stalled) raised."""

    scenario: Scenario
    engine: Engine
    transcript: Transcript
    error: Exception | None
    events: list[tuple[CoreEvent, list[Effect]]]
    """What reached the core and what it put out; empty unless the symptom asks for it."""


class Watch(Protocol):
    """Follows one trial. A text says that the symptom is there, and what was seen."""

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None: ...

    def on_end(self, played: Played) -> str | None: ...


class Symptom(Protocol):
    name: str
    """As on the command line."""
    keeps_events: bool
    is_slow: bool
    """Looking for it takes much longer than playing does."""

    def watch(self, scenario: Scenario) -> Watch: ...

    def worker(self, scenario: Scenario) -> Worker: ...


class Sighting(NamedTuple):
    """`turn` is that of the scenario in which the symptom showed."""

    text: str
    turn: int
    num_events: int


class _Seen(Exception):
    pass


class _Guarded:
    """A worker whose complaints are not taken for the core's."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def complete(self, step: StepScheduled) -> StepCompleted:
        try:
            return self._worker.complete(step)
        except Exception as error:
            text = str(error) if isinstance(error, AssertionError) else repr(error)
            raise WorkerRefused(f"step {step.step_id}: {text}") from error


class _Observer:
    def __init__(self, watch: Watch, keeps_events: bool, deadline: float) -> None:
        self._watch = watch
        self._deadline = deadline
        self._keeps_events = keeps_events
        self.events: list[tuple[CoreEvent, list[Effect]]] = []
        self.num_events = 0

    def __call__(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        self.num_events += 1
        if self._keeps_events:
            self.events.append((event, effects))
        if time.monotonic() > self._deadline:
            raise OutOfTime
        text = self._watch.on_event(engine, event, effects)
        if text is not None:
            raise _Seen(text)


def try_out(
    scenario: Scenario, symptom: Symptom, deadline: float = float("inf")
) -> Sighting | None:
    """None if it does not show. Raises OutOfTime once `time.monotonic()` is past `deadline`."""
    watch = symptom.watch(scenario)
    observer = _Observer(watch, symptom.keeps_events, deadline)
    player = Player(scenario, _Guarded(symptom.worker(scenario)), observer)
    error: Exception | None = None
    try:
        player.play()
    except _Seen as seen:
        return Sighting(str(seen), player.transcript.num_turns, observer.num_events)
    except Exception as raised:
        error = raised
    played = Played(scenario, player.engine, player.transcript, error, observer.events)
    text = watch.on_end(played)
    if text is None:
        return None
    return Sighting(text, player.transcript.num_turns, observer.num_events)
