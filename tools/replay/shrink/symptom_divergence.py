"""The symptom `divergence`: two cores that have been told the same decide differently."""

from typing import Any, NamedTuple

import msgspec

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Scenario
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepDecided
from tokenreel.tools.replay.core_code import Core
from tokenreel.tools.replay.other_core import OtherCore
from tokenreel.tools.replay.shrink.symptoms import Plain
from tokenreel.tools.replay.shrink.trial import Watch
from tokenreel.tools.replay.verify.difference import first_difference


class Decision(NamedTuple):
    """The `place`-th event of a run, what of its effects differs, as Python, and what it should
    be."""

    place: int
    expression: str
    expected: Any


class Diverges(Plain):
    """`divergence`: two cores that have been told the same decide differently. `seen` is where,
    the last time that it showed."""

    def __init__(self, reference: OtherCore) -> None:
        super().__init__("divergence")
        self._reference = reference
        self.seen: Decision | None = None

    def watch(self, scenario: Scenario) -> Watch:
        return _Comparing(self, self._reference.create(scenario.config))


class _Comparing(Plain):
    """The reference is told what the core under test was told, event by event."""

    def __init__(self, owner: Diverges, reference: Core) -> None:
        super().__init__("")
        self._owner = owner
        self._reference = reference
        self._num_events = 0

    def on_event(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> str | None:
        place, self._num_events = self._num_events, self._num_events + 1
        try:
            expected = self._reference.apply(event)
        except Exception as error:
            self._owner.seen = Decision(place, "effects", repr(error))
            return f"the reference raises {error!r} where this core does not"
        if effects == expected:
            return None
        found = first_difference(_decisions(expected), _decisions(effects))
        if found is None:
            return None
        kinds = [type(effect).__name__ for effect in expected]
        if kinds != [type(effect).__name__ for effect in effects]:
            expression: str = "[type(effect).__name__ for effect in effects]"
            self._owner.seen = Decision(place, expression, kinds)
            return f"at {type(event).__name__}: {kinds} are expected as effects"
        self._owner.seen = Decision(place, f"effects{found.path}", found.recorded)
        return (
            f"at {type(event).__name__}: effects{found.path} is {found.replayed!r}, the reference "
            f"says {found.recorded!r}"
        )


def _decisions(effects: list[Effect]) -> list[Effect]:
    """A digest is no decision, and another core may keep its books otherwise."""
    return [
        msgspec.structs.replace(effect, digest=()) if isinstance(effect, StepDecided) else effect
        for effect in effects
    ]
