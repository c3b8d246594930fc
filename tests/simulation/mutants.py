"""Cores that decide otherwise than the installed one, each in one known place."""

from collections.abc import Callable

from msgspec import structs

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.requests import AbortRequest
from tokenreel.messages.steps import StepBegan, StepDecided
from tokenreel.tools.replay.core_code import CoreCode, installed_core


def code_of(core: type[Engine]) -> CoreCode:
    return installed_core()._replace(create=core, restore=core.restore, source_hash=b"mutant")


def lying_at(*steps: int) -> CoreCode:
    """Tells another number of waiting sequences in these steps; its state is as it should be."""

    class Liar(Engine):
        def apply(self, event: CoreEvent) -> list[Effect]:
            return [_lied(effect, steps) for effect in super().apply(event)]

    return code_of(Liar)


def _lied(effect: Effect, steps: tuple[int, ...]) -> Effect:
    if isinstance(effect, StepDecided) and effect.step_id in steps:
        return structs.replace(effect, num_waiting=effect.num_waiting + 1)
    return effect


def drifting_at(*steps: int) -> CoreCode:
    """Counts something that was not there as these steps begin, which no effect ever shows."""

    class Drifter(Engine):
        def apply(self, event: CoreEvent) -> list[Effect]:
            if isinstance(event, StepBegan) and event.step_id in steps:
                self.num_ignored += 1
            return super().apply(event)

    return code_of(Drifter)


def raising_at(*steps: int) -> CoreCode:
    class Raiser(Engine):
        def apply(self, event: CoreEvent) -> list[Effect]:
            if isinstance(event, StepBegan) and event.step_id in steps:
                raise IndexError("pop from an empty deque")
            return super().apply(event)

    return code_of(Raiser)


def misremembering_before(step: int) -> CoreCode:
    """Its snapshot before this step tells of an event too many."""

    class Misremembering(Engine):
        def snapshot(self) -> bytes:
            self.num_ignored += self.next_step_id == step
            taken = super().snapshot()
            self.num_ignored -= self.next_step_id == step
            return taken

    return code_of(Misremembering)


def forgetful_of_aborts() -> CoreCode:
    """Lets an aborted sequence run on."""

    class Deaf(Engine):
        def apply(self, event: CoreEvent) -> list[Effect]:
            return [] if isinstance(event, AbortRequest) else super().apply(event)

    return code_of(Deaf)


def unable_to_restore(code: CoreCode, refuses: Callable[[int], bool]) -> CoreCode:
    """Cannot start from a snapshot before a step of which `refuses` says so."""

    def restore(config: object, snapshot: bytes) -> Engine:
        engine: Engine = code.restore(config, snapshot)  # type: ignore[assignment]
        if refuses(engine.next_step_id):
            raise ValueError("a field of the state is unknown")
        return engine

    return code._replace(restore=restore)
