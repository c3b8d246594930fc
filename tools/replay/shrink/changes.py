"""One change to the best scenario so far, put to the test."""

from collections.abc import Callable, Iterator

import msgspec

from tokenreel.actors.core.scenario import ScenarioRequest
from tokenreel.tools.replay.shrink.search import Search


def for_all(search: Search, rewrite: Callable[[ScenarioRequest], ScenarioRequest]) -> bool:
    return search.accepts_requests([rewrite(request) for request in search.best.requests])


def for_one(
    search: Search, place: int, rewrite: Callable[[ScenarioRequest], ScenarioRequest]
) -> bool:
    requests = list(search.best.requests)
    requests[place] = rewrite(requests[place])
    return search.accepts_requests(requests)


def set_number(search: Search, place: int, name: str, value: int) -> bool:
    return for_one(search, place, lambda r: msgspec.structs.replace(r, **{name: value}))


def set_limit(search: Search, name: str, value: object) -> bool:
    config = msgspec.structs.replace(search.best.config, **{name: value})
    return search.accepts(msgspec.structs.replace(search.best, config=config))


def lower(value: int, floor: int, unit: int, accepts: Callable[[int], bool]) -> None:
    """The smallest number that is accepted, tried in an order that finds it soon."""
    while value > floor:
        for smaller in _smaller(value, floor, unit):
            if accepts(smaller):
                value = smaller
                break
        else:
            return


def _smaller(value: int, floor: int, unit: int) -> Iterator[int]:
    """Numbers in [floor, value): the smallest, multiples of `unit` and their neighbours, halves,
    and the next below."""
    multiples = (unit, 2 * unit, value // (2 * unit) * unit, (value - 1) // unit * unit)
    near = [multiple + step for multiple in multiples for step in (-1, 0, 1)]
    found = {floor, floor + 1, *near, value // 2, value * 3 // 4, value - 1}
    yield from sorted(number for number in found if floor <= number < value)
