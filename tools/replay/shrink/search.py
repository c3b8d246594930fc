"""The search for a smaller scenario with the same symptom: what was tried, the best so far."""

import time
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.tools.replay.shrink.lifting import max_turns_of
from tokenreel.tools.replay.shrink.trial import OutOfTime, Sighting, Symptom, try_out

Tell = Callable[[int, int], None]
"""Is told the number of requests left and the number of tries."""


class Search:
    """`best` shows the symptom, `sighting` says where. Every method may raise OutOfTime, behind
    which both still hold."""

    def __init__(
        self,
        scenario: Scenario,
        symptom: Symptom,
        sighting: Sighting,
        deadline: float = float("inf"),
        tell: Tell = lambda num_requests, num_tries: None,
    ) -> None:
        self.best = _bounded(scenario)
        self.sighting = sighting
        self.num_tries = 0
        self._symptom = symptom
        self._deadline = deadline
        self._tell = tell
        self._tried = {_key(self.best): True}

    def accepts(self, candidate: Scenario) -> bool:
        """Whether `candidate` shows it; then it is the best from now on. No scenario is played
        twice."""
        bounded = _bounded(candidate)
        key = _key(bounded)
        if key not in self._tried:
            self._tried[key] = self._play(bounded)
        return self._tried[key]

    def accepts_requests(self, requests: list[ScenarioRequest]) -> bool:
        return self.accepts(msgspec.structs.replace(self.best, requests=tuple(requests)))

    def _play(self, candidate: Scenario) -> bool:
        if time.monotonic() > self._deadline:
            raise OutOfTime
        self.num_tries += 1
        sighting = try_out(candidate, self._symptom, self._deadline)
        if sighting is not None:
            self.best, self.sighting = candidate, sighting
        self._tell(len(self.best.requests), self.num_tries)
        return sighting is not None


def _bounded(scenario: Scenario) -> Scenario:
    return msgspec.structs.replace(scenario, max_turns=max_turns_of(scenario))


def _key(scenario: Scenario) -> bytes:
    """Short: there are thousands, of scenarios with thousands of requests."""
    return blake2b(msgspec.msgpack.encode(scenario), digest_size=16).digest()
