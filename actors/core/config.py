"""What the core is told once, before the first event: limits and facts, all of them integers."""

import msgspec

LOGIC_VERSION = 1
"""Counts the changes of what the scheduler decides. A journal names the one that wrote it."""


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Names as vLLM's users know them. Build it with `fitted`, which checks it."""

    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_in_flight: int
    """Requests admitted and not yet delivered: running, waiting and finished ones together."""
    vocab_size: int
    enable_prefix_caching: bool = True
    scheduling_policy: str = "fcfs"
    pipeline_depth: int = 2


class ConfigError(ValueError):
    """The limits contradict each other; the message says which, and what to change."""


def blocks_for(num_tokens: int, block_size: int) -> int:
    """The blocks that hold `num_tokens` tokens: the one unit of every capacity check."""
    return -(-num_tokens // block_size)


def fitted(config: CoreConfig) -> CoreConfig:
    """`config` with `max_model_len` lowered so that one full sequence fits the pool.

    Raises ConfigError if a limit is not positive or the pool has no block at all.
    """
    for name in (
        "num_blocks",
        "block_size",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_in_flight",
        "vocab_size",
        "pipeline_depth",
    ):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 1")
    capacity = config.num_blocks * config.block_size
    if capacity < 2:
        raise ConfigError("the KV pool holds one token; a sequence needs room for two at least")
    return msgspec.structs.replace(config, max_model_len=min(config.max_model_len, capacity))
