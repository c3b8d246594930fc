"""What can be wrong with a played run, by the names that the command line knows."""

import re
from collections.abc import Callable

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.invariants import check, check_quiet, check_step
from tokenreel.actors.core.scenario import Scenario, Stalled, Worker
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.tools.replay.playing.fairness import Fairness
from tokenreel.tools.replay.playing.scripted_worker import CheckingWorker, ScriptedWorker, sample_of
from tokenreel.tools.replay.playing.write_watch import WriteWatch
from tokenreel.tools.replay.shrink.trial import Played, Symptom, Watch, WorkerRefused

DEFAULT_STARVED_STEPS = 8
CHECKS_PER_STATE = 256
"""A state of so many blocks and known tokens costs as much to check as an event to apply."""

Rule = Callable[..., None]


class Plain:
    """What most symptoms have in common; those that keep no books are their own watch."""

    keeps_events = False
    is_slow = False

    def __init__(self, name: str) -> None:
        self.name = name

    def worker(self, scenario: Scenario) -> Worker:
        return ScriptedWorker(scenario)

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        return None

    def on_end(self, played: Played) -> str | None:
        return None


class Raises(Plain):
    """`exception[:TYPE]`: the core raises, an exception of this type or one derived from it."""

    def __init__(self, type_name: str = "") -> None:
        super().__init__(f"exception:{type_name}" if type_name else "exception")
        self._type_name = type_name

    def watch(self, scenario: Scenario) -> Watch:
        return self

    def on_end(self, played: Played) -> str | None:
        error = played.error
        if error is None or isinstance(error, Stalled | WorkerRefused):
            return None
        names = [kind.__name__ for kind in type(error).__mro__]
        if self._type_name and self._type_name not in names:
            return None
        return f"{type(error).__name__}: {error}"


class Stalls(Plain):
    """`stall`: the run does not come to its end."""

    def __init__(self) -> None:
        super().__init__("stall")

    def watch(self, scenario: Scenario) -> Watch:
        return self

    def on_end(self, played: Played) -> str | None:
        return str(played.error) if isinstance(played.error, Stalled) else None


class Leaks(Plain):
    """`leak`: all is delivered, and something is left: a request, a row, a block."""

    def __init__(self) -> None:
        super().__init__("leak")

    def watch(self, scenario: Scenario) -> Watch:
        return self

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        if engine.requests or engine.open_steps:
            return None
        return _violation(check_quiet, engine)

    def on_end(self, played: Played) -> str | None:
        return _violation(check_quiet, played.engine) if played.error is None else None


class Starves(Plain):
    """`starves[:STEPS]`: a sequence that could run is passed over, without a reason, in more than
    so many steps."""

    def __init__(self, max_steps: int = DEFAULT_STARVED_STEPS) -> None:
        super().__init__(f"starves:{max_steps}")
        self.max_steps = max_steps

    def watch(self, scenario: Scenario) -> Watch:
        return _Starving(Fairness(scenario, self.max_steps))


class _Starving(Plain):
    def __init__(self, fairness: Fairness) -> None:
        super().__init__("")
        self._fairness = fairness

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        return _violation(self._fairness, engine, event, effects)


class Violates(Plain):
    """`invariant[:TEXT]`: a rule of `actors.core.invariants` or of `WriteWatch` is broken, or (with
    `checks_kv`) the checking worker finds somebody else's KV; the complaint has TEXT in it."""

    def __init__(self, text: str = "", checks_kv: bool = True) -> None:
        super().__init__(f"invariant:{text}" if text else "invariant")
        self._text = text
        self.checks_kv = self.is_slow = checks_kv

    def worker(self, scenario: Scenario) -> Worker:
        if self.checks_kv:
            return CheckingWorker(scenario.config, sample_of(scenario))
        return ScriptedWorker(scenario)

    def watch(self, scenario: Scenario) -> Watch:
        return _Checking(self._text)


class _Checking(Plain):
    """A large state is not checked after each event, but in proportion to what it costs."""

    def __init__(self, text: str) -> None:
        super().__init__("")
        self._text = text
        self._credit = 0
        self._writes = WriteWatch()

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        found = self._matching(_violation(self._writes.note, engine, effects))
        if found is None:
            found = self._matching(_violation(check_step, engine, effects))
        self._credit += CHECKS_PER_STATE
        if found is None and self._credit >= _size(engine):
            self._credit = 0
            found = self._matching(_violation(check, engine))
        return found

    def on_end(self, played: Played) -> str | None:
        if isinstance(played.error, WorkerRefused | InvariantViolated):
            return self._matching(str(played.error))
        found = self._matching(_violation(check, played.engine))
        if found is None and played.error is None:
            found = self._matching(_violation(check_quiet, played.engine))
        return found

    def _matching(self, text: str | None) -> str | None:
        return text if text is not None and self._text in text else None


class AnyOf(Plain):
    """Whichever shows first; `found` is it, as narrow as the complaint allows."""

    def __init__(self, symptoms: list[Symptom]) -> None:
        super().__init__(" or ".join(symptom.name for symptom in symptoms))
        self._symptoms = symptoms
        self.is_slow = any(symptom.is_slow for symptom in symptoms)
        self.found: Symptom | None = None

    def worker(self, scenario: Scenario) -> Worker:
        return self._symptoms[0].worker(scenario)

    def watch(self, scenario: Scenario) -> Watch:
        return _Either(self, [(symptom, symptom.watch(scenario)) for symptom in self._symptoms])


class _Either(Plain):
    def __init__(self, owner: AnyOf, watches: list[tuple[Symptom, Watch]]) -> None:
        super().__init__("")
        self._owner = owner
        self._watches = watches

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        for symptom, watch in self._watches:
            text = watch.on_event(engine, event, effects)
            if text is not None:
                return self._note(symptom, text)
        return None

    def on_end(self, played: Played) -> str | None:
        for symptom, watch in self._watches:
            text = watch.on_end(played)
            if text is not None:
                return self._note(symptom, text)
        return None

    def _note(self, symptom: Symptom, text: str) -> str:
        self._owner.found = narrowed(symptom, text)
        return text


def narrowed(symptom: Symptom, text: str) -> Symptom:
    """The same symptom, but only of the kind that was seen: else shrinking may slip from one bug
    to another."""
    match symptom:
        case Raises(name="exception"):
            return Raises(text.partition(":")[0])
        case Violates(name="invariant"):
            parts = re.split(r"\d+", text)
            return Violates(max(parts, key=len).strip(" :,"), symptom.checks_kv)
        case _:
            return symptom


def _violation(rule: Rule, *arguments: object) -> str | None:
    """What the rule complains of. A core that is broken badly enough breaks the rule's own code."""
    try:
        rule(*arguments)
    except InvariantViolated as violation:
        return str(violation)
    except Exception as error:
        return f"a rule cannot even be checked: {error!r}"
    return None


def _size(engine: Engine) -> int:
    known = sum(sequence.num_known for sequence in engine.sequences.values())
    return engine.config.num_blocks + known
