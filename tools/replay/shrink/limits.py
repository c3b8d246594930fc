"""A smaller engine: narrower limits, smaller blocks, fewer features."""

from functools import partial

import msgspec

from tokenreel.actors.core.config import blocks_for
from tokenreel.actors.core.scenario import Scenario
from tokenreel.tools.replay.shrink.changes import lower, set_limit
from tokenreel.tools.replay.shrink.search import Search

SMALL_VOCABULARY = 1000


def lower_pool_roughly(search: Search) -> None:
    """A pool much larger than what is used makes every check of it slow."""
    lower(
        search.best.config.num_blocks,
        max(1, search.best.config.num_blocks // 256),
        1 << 30,
        partial(set_limit, search, "num_blocks"),
    )


def reduce_limits(search: Search) -> None:
    set_limit(search, "enable_prefix_caching", False)
    set_limit(search, "scheduling_policy", "fcfs")
    if search.best.config.vocab_size > SMALL_VOCABULARY:
        set_limit(search, "vocab_size", SMALL_VOCABULARY)
    _smaller_blocks(search)
    for name, floor in _LIMITS:
        lower(
            getattr(search.best.config, name),
            floor,
            search.best.config.block_size,
            partial(set_limit, search, name),
        )


_LIMITS = (
    ("num_blocks", 1),
    ("max_num_seqs", 1),
    ("max_num_batched_tokens", 1),
    ("pipeline_depth", 1),
    ("max_model_len", 2),
    ("max_in_flight", 1),
)


def _smaller_blocks(search: Search) -> None:
    """Everything that is counted in blocks keeps its number of blocks, and so gets shorter."""
    size = search.best.config.block_size
    for smaller in sorted({1, 2, 4, 8, 16} & set(range(size))):
        if search.accepts(_rescaled(search.best, size, smaller)):
            return
        if set_limit(search, "block_size", smaller):
            return


def _rescaled(scenario: Scenario, old: int, new: int) -> Scenario:
    def scaled(length: int) -> int:
        return max(1, blocks_for(length * new, old))

    config = msgspec.structs.replace(
        scenario.config,
        block_size=new,
        max_num_batched_tokens=scaled(scenario.config.max_num_batched_tokens),
    )
    requests = tuple(
        msgspec.structs.replace(
            request,
            num_prompt_tokens=scaled(request.num_prompt_tokens),
            max_tokens=scaled(request.max_tokens),
            num_shared_tokens=request.num_shared_tokens
            if isinstance(request.num_shared_tokens, tuple)
            else request.num_shared_tokens * new // old,
        )
        for request in scenario.requests
    )
    return msgspec.structs.replace(scenario, config=config, requests=requests)
