"""From a captured run to the smallest scenario that still shows what is wrong with it."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from tokenreel.actors.core.scenario import Scenario
from tokenreel.tools.replay.shrink.features import without_abort
from tokenreel.tools.replay.shrink.lifting import max_turns_of
from tokenreel.tools.replay.shrink.reduce import reduce_all
from tokenreel.tools.replay.shrink.search import Search, Tell
from tokenreel.tools.replay.shrink.symptoms import AnyOf, Leaks, Raises, Stalls, Starves, Violates
from tokenreel.tools.replay.shrink.timing import one_turn_to_a_step, shifted
from tokenreel.tools.replay.shrink.trial import OutOfTime, Sighting, Symptom, try_out


class Found(NamedTuple):
    """A symptom that this scenario shows. `timing` says how it differs from the recorded one."""

    scenario: Scenario
    symptom: Symptom
    sighting: Sighting
    timing: str


class Shrunk(NamedTuple):
    """`is_minimal`: none of the requests can go, and no length become shorter; else time was up."""

    scenario: Scenario
    symptom: Symptom
    sighting: Sighting
    num_tries: int
    duration_s: float
    is_minimal: bool


def look_for(
    scenario: Scenario, symptoms: list[Symptom], deadline: float = float("inf")
) -> Found | None:
    """The first of `symptoms` that shows, under the recorded timing if one does, else under one
    close to it. What is slow to look for is looked for last. Raises OutOfTime."""
    for is_slow in (False, True):
        for timing, candidate in _timings(scenario):
            bounded = msgspec.structs.replace(candidate, max_turns=max_turns_of(candidate))
            for symptom in symptoms:
                sighting = None
                if symptom.is_slow == is_slow:
                    sighting = try_out(bounded, symptom, deadline)
                if sighting is not None:
                    found = symptom.found if isinstance(symptom, AnyOf) else symptom
                    assert found is not None
                    return Found(bounded, found, sighting, timing)
    return None


def anything(more: list[Symptom]) -> list[Symptom]:
    """Everything that can be wrong, what hurts most first; wrong KV last, as it takes the longest
    to see."""
    return [
        AnyOf([Raises(), Stalls(), Leaks()]),
        AnyOf([*more, Violates(checks_kv=False)]),
        Starves(),
        AnyOf([Violates(checks_kv=True)]),
    ]


def shrink(
    found: Found, deadline: float = float("inf"), tell: Tell = lambda num_requests, num_tries: None
) -> Shrunk:
    began = time.monotonic()
    search = Search(found.scenario, found.symptom, found.sighting, deadline, tell)
    try:
        reduce_all(search)
        is_minimal = True
    except OutOfTime:
        is_minimal = False
    return Shrunk(
        _with_default_bound(search.best, found.symptom, deadline if is_minimal else 0.0),
        found.symptom,
        search.sighting,
        search.num_tries,
        time.monotonic() - began,
        is_minimal,
    )


def _with_default_bound(scenario: Scenario, symptom: Symptom, deadline: float) -> Scenario:
    """The bound on turns matters only where a run goes round in circles; a reader has enough to
    read without it."""
    plain = msgspec.structs.replace(scenario, max_turns=10_000)
    try:
        return plain if try_out(plain, symptom, deadline) is not None else scenario
    except OutOfTime:
        return scenario


def _timings(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """The recorded timing is exact to the step, but two things that happened between two steps may
    have changed places; other timings make up for that. And where nothing went on any more, clients
    gave up at last: in steps that is at once, and would hide it."""
    yield "timed as recorded", scenario
    yield "with one turn to a step", one_turn_to_a_step(scenario)
    for num_turns in (1, -1):
        later = tuple(shifted(request, -num_turns) for request in scenario.requests)
        name = f"with arrivals half a step {'later' if num_turns > 0 else 'sooner'}"
        yield name, msgspec.structs.replace(scenario, requests=later)
    patient = tuple(without_abort(request) for request in scenario.requests)
    yield "with clients that never give up", msgspec.structs.replace(scenario, requests=patient)
