"""Plainer requests: without aborts, stops, priorities and prefixes, or with smaller ones."""

from collections.abc import Callable
from functools import partial

import msgspec

from tokenreel.actors.core.scenario import ScenarioRequest
from tokenreel.tools.replay.shrink.changes import for_all, for_one, lower, set_number
from tokenreel.tools.replay.shrink.search import Search


def reduce_features(search: Search) -> None:
    """Aborts, stops, priorities and the like: without them if it goes, else with smaller ones."""
    for plainer in _PLAINER:
        for_all(search, plainer)
        for place in range(len(search.best.requests)):
            for_one(search, place, plainer)
    for place in range(len(search.best.requests)):
        for name, floor in _COUNTS:
            value = getattr(search.best.requests[place], name)
            if isinstance(value, int):
                lower(value, floor, 1, partial(set_number, search, place, name))
    _rank_priorities(search)


def without_abort(request: ScenarioRequest) -> ScenarioRequest:
    return msgspec.structs.replace(request, abort_turn=None, abort_after=None, abort_delay=0)


def _without(**defaults: object) -> Callable[[ScenarioRequest], ScenarioRequest]:
    return lambda request: msgspec.structs.replace(request, **defaults)


def _innermost_prefix(request: ScenarioRequest) -> ScenarioRequest:
    groups = request.prefixes()
    if len(groups) < 2:
        return request
    group, length = groups[-1]
    return msgspec.structs.replace(request, prefix_group=group, num_shared_tokens=length)


def _outermost_prefix(request: ScenarioRequest) -> ScenarioRequest:
    groups = request.prefixes()
    if len(groups) < 2:
        return request
    group, length = groups[0]
    return msgspec.structs.replace(request, prefix_group=group, num_shared_tokens=length)


_PLAINER = (
    without_abort,
    _without(stop_after=None, stop_delay=0),
    _without(ends_after=None),
    _without(fails_at=None),
    _without(stop_token_ids=()),
    _without(n=1),
    _without(priority=0),
    _without(prefix_group=0, num_shared_tokens=0),
    _outermost_prefix,
    _innermost_prefix,
    _without(abort_delay=0),
    _without(stop_delay=0),
)
_COUNTS = (
    ("n", 1),
    ("abort_after", 1),
    ("abort_delay", 0),
    ("stop_after", 1),
    ("stop_delay", 0),
    ("ends_after", 1),
    ("fails_at", 1),
)


def _rank_priorities(search: Search) -> None:
    ranks = sorted({request.priority for request in search.best.requests})
    for_all(search, lambda r: msgspec.structs.replace(r, priority=ranks.index(r.priority)))
