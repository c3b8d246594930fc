"""The life of a request at the engine's door: submitted, admitted or rejected, aborted."""

from typing import Any

import msgspec

from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams


class RequestOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A client's options before defaults: None means "the model's generation_config decides".

    Types and ranges that need no model are checked by the frontend (names as in OpenAI's and
    vLLM's API); those that need one (token ids, lengths) by the input processor.
    """

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_logprobs: int = -1
    priority: int = 0
    cache_salt: str = ""
    add_special_tokens: bool | None = None
    """None: true for a text prompt, false for a rendered chat (its template writes them)."""
    add_generation_prompt: bool = True


class SubmitRequest(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """frontend -> input processor. Exactly one of the three prompts is given."""

    key: RequestKey
    options: RequestOptions
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None


class AdmitRequest(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """input processor -> engine core, journaled: a request with everything resolved.

    `block_hashes` holds the chain over the prompt's full blocks, starting from `cache_root`, which
    covers model, tokenizer and cache_salt. A lower `priority` is served first.
    """

    key: RequestKey
    prompt_token_ids: list[int]
    sampling: SamplingParams
    stopping: StoppingParams
    text: TextParams
    n: int
    priority: int
    cache_root: BlockHash
    block_hashes: list[BlockHash]


class AbortRequest(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """frontend -> engine core, journaled. May overtake its admit, which it then annuls."""

    key: RequestKey


class RequestAdmitted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """engine core -> frontend and detokenizer: from here on exactly one terminal event follows."""

    key: RequestKey
    seq_ids: tuple[SeqId, ...]
    num_prompt_tokens: int
    text: TextParams


class RequestRejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """input processor or engine core -> frontend: the request never started.

    `status` is the HTTP status, `code` a stable word such as "context_length_exceeded", `param`
    the request field at fault, if there is one.
    """

    key: RequestKey
    status: int
    code: str
    message: str
    param: str | None = None


class RequestFinished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """engine core -> frontend: all outputs are delivered, nothing of the request is left.

    It returns the request's credit (see `EngineFacts.max_in_flight`).
    """

    key: RequestKey
