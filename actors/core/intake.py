"""Who may come in, and as what: an `AdmitRequest` is refused, or becomes sequences.

Whoever passes fits an empty pool, so that nothing admitted can be stuck for ever.
"""

import msgspec

from tokenreel.actors.core.config import CoreConfig, blocks_for
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.block_hash import chain, private_root
from tokenreel.messages.ids import BlockHash, SeqId
from tokenreel.messages.requests import AdmitRequest, RequestRejected
from tokenreel.messages.sampling import SamplingParams, derive_seed

NO_ROOT = BlockHash(b"")


def refusal(event: AdmitRequest, config: CoreConfig, num_requests: int) -> RequestRejected | None:
    """Why the core does not take this request in, or None if it does."""
    prompt, max_tokens = event.prompt_token_ids, event.stopping.max_tokens

    def refuse(status: int, code: str, message: str, param: str | None) -> RequestRejected:
        return RequestRejected(event.key, status, code, message, param)

    if not prompt:
        return refuse(400, "empty_prompt", "the prompt has no tokens", "prompt")
    if min(prompt) < 0 or max(prompt) >= config.vocab_size:
        message = f"a token id is outside the vocabulary [0, {config.vocab_size})"
        return refuse(400, "invalid_token_id", message, "prompt")
    if max_tokens < 1:
        return refuse(400, "invalid_value", "max_tokens must be at least 1", "max_tokens")
    if not 1 <= event.n <= config.max_num_seqs:
        message = f"n must be between 1 and {config.max_num_seqs} (max_num_seqs)"
        return refuse(400, "invalid_value", message, "n")
    if len(prompt) + max_tokens > config.max_model_len:
        message = (
            f"prompt ({len(prompt)} tokens) and max_tokens ({max_tokens}) together exceed "
            f"max_model_len ({config.max_model_len})"
        )
        return refuse(400, "context_length_exceeded", message, "prompt")
    num_blocks = blocks_for(len(prompt) + max_tokens, config.block_size)
    if num_blocks > config.num_blocks:
        message = f"{num_blocks} KV blocks are needed, the whole pool has {config.num_blocks}"
        return refuse(400, "context_length_exceeded", message, "prompt")
    if event.block_hashes and len(event.block_hashes) != len(prompt) // config.block_size:
        message = f"block_hashes do not fit block_size {config.block_size}"
        return refuse(500, "internal_error", message, None)
    if num_requests >= config.max_in_flight:
        message = f"{config.max_in_flight} requests are in flight already (max_in_flight)"
        return refuse(429, "queue_full", message, None)
    return None


def sequences_of(
    event: AdmitRequest, config: CoreConfig, level: int, arrival: int, first_seq_id: SeqId
) -> list[Sequence]:
    """The request's `n` sequences, the one that computes their prompt first."""
    root, hashes = _chain_of(event, config)
    return [
        Sequence(
            seq_id=SeqId(first_seq_id + index),
            key=event.key,
            order=(level, arrival, index),
            token_ids=list(event.prompt_token_ids),
            num_prompt_tokens=len(event.prompt_token_ids),
            sampling=_sampling_of(event, index),
            stopping=event.stopping,
            cache_root=root,
            hashes=list(hashes),
        )
        for index in range(event.n)
    ]


def _chain_of(event: AdmitRequest, config: CoreConfig) -> tuple[BlockHash, list[BlockHash]]:
    """The root and chain by which this request's blocks are shared: with everybody, with its own
    siblings alone, or not at all."""
    if config.enable_prefix_caching:
        return event.cache_root, event.block_hashes
    if event.n == 1:
        return NO_ROOT, []
    root = private_root(event.cache_root, *event.key)
    return root, chain(root, event.prompt_token_ids, config.block_size)


def _sampling_of(event: AdmitRequest, index: int) -> SamplingParams:
    if index == 0:
        return event.sampling
    seed = derive_seed(event.sampling.seed, index)
    return msgspec.structs.replace(event.sampling, seed=seed)
