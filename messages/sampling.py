"""How a token is chosen and when a sequence ends: the request's parameters, fully resolved.

The input processor fills every default, so that the core and the worker never guess.
"""

from enum import IntEnum

import msgspec

MASK_64 = (1 << 64) - 1


class FinishReason(IntEnum):
    """Why a sequence ended. `STOP` covers EOS, stop token ids and stop strings."""

    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3


class SamplingParams(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the worker's sampler needs. The core carries it and never looks inside.

    temperature 0 means greedy; top_k 0, top_p 1 and min_p 0 mean "off"; num_logprobs is -1 for
    none, 0 for the sampled token's own, k for the k most likely as well. `seed` is a u64 that is
    never absent: the input processor draws one for a request without. Stop token ids are masked
    out of the logits until `min_tokens` tokens have been put out.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_logprobs: int = -1
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()


class StoppingParams(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When the core ends a sequence.

    `stop_token_ids` holds the model's EOS ids too, unless the request ignores them; a stop token
    counts as output. It ends the sequence only at output index >= `min_tokens`.
    """

    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()


class TextParams(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the detokenizer needs. `prompt_tail` is the last few prompt tokens, the context in
    which the first output token is decoded (a leading space depends on it)."""

    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0
    prompt_tail: tuple[int, ...] = ()


def derive_seed(seed: int, index: int) -> int:
    """The seed of a request's `index`-th sequence: the request's own for 0, a mix of both after.

    A u64. The mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014).
    """
    if index == 0:
        return seed & MASK_64
    z = (seed + index * 0x9E3779B97F4A7C15) & MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)
