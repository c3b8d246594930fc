"""Everything sooner: arrivals without pauses, aborts without delay."""

from functools import partial

import msgspec

from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.tools.replay.shrink.changes import for_all, lower, set_number
from tokenreel.tools.replay.shrink.search import Search


def reduce_timing(search: Search) -> None:
    """Everything at once if it goes; else shorter pauses between arrivals, sooner aborts."""
    search.accepts(one_turn_to_a_step(search.best))
    for_all(search, lambda r: shifted(r, r.arrival))
    for place in range(len(search.best.requests)):
        _shorten_pause(search, place)
    for place in range(len(search.best.requests)):
        request = search.best.requests[place]
        earliest = search.best.requests[place - 1].arrival if place else 0
        lower(request.arrival, earliest, 1, partial(set_number, search, place, "arrival"))
        if request.abort_turn is not None:
            lower(request.abort_turn, 0, 1, partial(set_number, search, place, "abort_turn"))


def one_turn_to_a_step(scenario: Scenario) -> Scenario:
    """What came while a step was under way comes before the next one."""
    per_step = scenario.turns_per_step
    requests = tuple(_scaled_turns(request, per_step) for request in scenario.requests)
    return msgspec.structs.replace(scenario, turns_per_step=1, requests=requests)


def _scaled_turns(request: ScenarioRequest, divisor: int) -> ScenarioRequest:
    abort_turn = request.abort_turn
    return msgspec.structs.replace(
        request,
        arrival=request.arrival // divisor,
        abort_turn=None if abort_turn is None else abort_turn // divisor,
        abort_delay=request.abort_delay // divisor,
        stop_delay=request.stop_delay // divisor,
    )


def _shorten_pause(search: Search, place: int) -> None:
    """This request and all behind it come sooner."""
    arrivals = [request.arrival for request in search.best.requests]
    pause = arrivals[place] - (arrivals[place - 1] if place else 0)

    def accepts(shorter: int) -> bool:
        now = search.best.requests
        gain = now[place].arrival - (now[place - 1].arrival if place else 0) - shorter
        later = [shifted(request, gain) for request in now[place:]]
        return search.accepts_requests([*now[:place], *later])

    lower(pause, 0, 1, accepts)


def shifted(request: ScenarioRequest, num_turns: int) -> ScenarioRequest:
    abort_turn = request.abort_turn
    return msgspec.structs.replace(
        request,
        arrival=max(0, request.arrival - num_turns),
        abort_turn=None if abort_turn is None else max(0, abort_turn - num_turns),
    )
