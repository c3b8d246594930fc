"""How a scenario gets smaller: fewer requests, shorter, sooner, plainer ones, narrower limits.

Each reduction only ever makes something smaller, so that going through all of them again and again
comes to an end.
"""

from tokenreel.tools.replay.shrink.delta_debugging import ddmin
from tokenreel.tools.replay.shrink.features import reduce_features
from tokenreel.tools.replay.shrink.lengths import reduce_lengths, reduce_lengths_together
from tokenreel.tools.replay.shrink.limits import lower_pool_roughly, reduce_limits
from tokenreel.tools.replay.shrink.search import Search
from tokenreel.tools.replay.shrink.timing import reduce_timing


def reduce_all(search: Search) -> None:
    """Until nothing gets any smaller. Requests come last too: without any of those that are left
    the symptom is gone."""
    cut_what_comes_later(search)
    lower_pool_roughly(search)
    reduce_requests(search)
    before = None
    while before != search.best:
        before = search.best
        for reduce in (
            reduce_lengths_together,
            reduce_requests,
            reduce_features,
            reduce_timing,
            reduce_lengths,
            reduce_limits,
            reduce_requests,
        ):
            reduce(search)


def cut_what_comes_later(search: Search) -> None:
    """Nobody who comes behind the symptom has anything to do with it."""
    turn = search.sighting.turn
    search.accepts_requests([r for r in search.best.requests if r.arrival <= turn])


def reduce_requests(search: Search) -> None:
    if len(search.best.requests) > 1:
        ddmin(search.best.requests, search.accepts_requests)
