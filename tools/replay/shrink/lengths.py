"""Shorter prompts, outputs and shared prefixes: down to block multiples and their neighbours."""

from collections.abc import Callable
from functools import partial

import msgspec

from tokenreel.actors.core.scenario import ScenarioRequest
from tokenreel.tools.replay.shrink.changes import for_all, for_one, lower
from tokenreel.tools.replay.shrink.search import Search

Rewrite = Callable[[ScenarioRequest, int], ScenarioRequest]
"""The request with one of its numbers brought down to this one, if it was above."""


def reduce_lengths_together(search: Search) -> None:
    """All requests at once: cheap, and makes every later try faster."""
    for_all(search, _end_by_length)
    for rewrite, numbers in _LENGTHS:
        longest = max((numbers(request) for request in search.best.requests), default=0)
        lower(longest, 1, search.best.config.block_size, partial(_cap_all, search, rewrite))


def reduce_lengths(search: Search) -> None:
    """Down to block multiples and their neighbours, then one by one."""
    for place in range(len(search.best.requests)):
        for rewrite, numbers in _LENGTHS:
            length = numbers(search.best.requests[place])
            accepts = partial(_cap_one, search, place, rewrite)
            lower(length, 1, search.best.config.block_size, accepts)


def _end_by_length(request: ScenarioRequest) -> ScenarioRequest:
    """It ends where it did, because of max_tokens and not of a stop token."""
    if request.ends_after is None:
        return request
    ends = request.ends_after if isinstance(request.ends_after, tuple) else (request.ends_after,)
    longest = max(end or request.max_tokens for end in ends)
    return msgspec.structs.replace(request, ends_after=None, max_tokens=longest)


def _cap_prompt(request: ScenarioRequest, cap: int) -> ScenarioRequest:
    return msgspec.structs.replace(request, num_prompt_tokens=min(request.num_prompt_tokens, cap))


def _cap_output(request: ScenarioRequest, cap: int) -> ScenarioRequest:
    return msgspec.structs.replace(request, max_tokens=min(request.max_tokens, cap))


def _cap_shared(request: ScenarioRequest, cap: int) -> ScenarioRequest:
    if isinstance(request.num_shared_tokens, tuple):
        return request
    shared = min(request.num_shared_tokens, cap)
    return msgspec.structs.replace(request, num_shared_tokens=shared)


def _num_shared(request: ScenarioRequest) -> int:
    """Nothing where there are several groups: they are reduced to one elsewhere, if that goes."""
    return request.num_shared_tokens if isinstance(request.num_shared_tokens, int) else 0


def _cap_all(search: Search, rewrite: Rewrite, cap: int) -> bool:
    return for_all(search, lambda request: rewrite(request, cap))


def _cap_one(search: Search, place: int, rewrite: Rewrite, cap: int) -> bool:
    return for_one(search, place, lambda request: rewrite(request, cap))


_LENGTHS: tuple[tuple[Rewrite, Callable[[ScenarioRequest], int]], ...] = (
    (_cap_prompt, lambda request: request.num_prompt_tokens),
    (_cap_output, lambda request: request.max_tokens),
    (_cap_shared, _num_shared),
)
