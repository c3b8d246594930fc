"""Request bodies: JSON in, prompts and `RequestOptions` out, or a 400 that names the field.

Checks what needs no model: types, ranges, numbers of things. Token ids and lengths are the input
processor's. Unknown fields are ignored; known ones that are not supported are refused by name.
"""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tokenreel.frontend.chat_messages import ChatMessage, to_template_messages
from tokenreel.frontend.engine_client import Prompt
from tokenreel.frontend.errors import ApiError, bad_request
from tokenreel.messages.requests import RequestOptions
from tokenreel.messages.sampling import MASK_64

MAX_PROMPTS = 1024
MAX_N = 128
MAX_CHOICES = 1024
"""Prompts times n."""
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_MESSAGES = 4096
MAX_TOKENS = (1 << 31) - 1
MAX_TEMPERATURE = 100
MIN_REPETITION_PENALTY = 0.01
"""Logits are divided by it, and must stay finite."""
MAX_REPETITION_PENALTY = 100
MAX_PRIORITY = (1 << 31) - 1
MAX_CACHE_SALT_CHARS = 256
MAX_TOKEN_ID = (1 << 32) - 1

TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
NumTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
NumLogprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]


class ParsedRequest(msgspec.Struct, frozen=True):
    """What a body asks for."""

    prompts: tuple[Prompt, ...]
    options: RequestOptions
    stream: bool
    include_usage: bool


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: Any = None


class GenerationBody(msgspec.Struct, kw_only=True):
    """The fields that completions and chat completions share; null means the default."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] | None = None
    max_tokens: NumTokens | None = None
    max_completion_tokens: NumTokens | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_TOKEN_ID)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MAX_LOGIT_BIAS)] | None = None
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=MAX_CACHE_SALT_CHARS)] | None = None

    # Not supported: see `_HARMLESS`.
    allowed_token_ids: Any = None
    bad_words: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    kv_transfer_params: Any = None
    logits_processors: Any = None
    prompt_logprobs: Any = None
    response_format: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    structured_outputs: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None
    vllm_xargs: Any = None


class CompletionBody(GenerationBody, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: NumLogprobs | None = None
    best_of: Any = None

    # Not supported: see `_HARMLESS`.
    echo: Any = None
    prompt_embeds: Any = None
    suffix: Any = None


class ChatBody(GenerationBody, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    add_generation_prompt: bool | None = None

    # Not supported: see `_HARMLESS`.
    audio: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    continue_final_message: Any = None
    documents: Any = None
    echo: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    reasoning_effort: Any = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None


# Fields that would change the answer if they were supported, with the values that would not.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "kv_transfer_params": (),
    "logits_processors": ([],),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "vllm_xargs": ({},),
    "web_search_options": (),
}

_completion_decoder = msgspec.json.Decoder(CompletionBody)
_chat_decoder = msgspec.json.Decoder(ChatBody)
BodyT = TypeVar("BodyT", bound=GenerationBody)


def parse_completion(body: bytes, served_model_name: str) -> ParsedRequest:
    """Raises `ApiError`: 400, or 404 for a model that is not served."""
    fields = _decode(_completion_decoder, body)
    _check(fields, served_model_name)
    if fields.best_of is not None and fields.best_of != (fields.n or 1):
        raise bad_request("best_of: not supported, unless it equals n", "best_of")
    prompts = _prompts(fields.prompt)
    if len(prompts) * (fields.n or 1) > MAX_CHOICES:
        message = f"n: {len(prompts)} prompts times n is more than {MAX_CHOICES} choices"
        raise bad_request(message, "n")
    num_logprobs = -1 if fields.logprobs is None else fields.logprobs
    return _parsed(fields, prompts, _options(fields, num_logprobs, True))


def parse_chat(body: bytes, served_model_name: str) -> ParsedRequest:
    """Raises `ApiError`: 400, or 404 for a model that is not served."""
    fields = _decode(_chat_decoder, body)
    _check(fields, served_model_name)
    num_logprobs = -1
    if fields.logprobs:
        num_logprobs = fields.top_logprobs or 0
    elif fields.top_logprobs:
        raise bad_request("top_logprobs: needs logprobs to be true", "top_logprobs")
    prompt = Prompt(messages=to_template_messages(fields.messages))
    add_generation_prompt = fields.add_generation_prompt is not False
    return _parsed(fields, (prompt,), _options(fields, num_logprobs, add_generation_prompt))


def _decode(decoder: msgspec.json.Decoder[BodyT], body: bytes) -> BodyT:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply", code="invalid_json") from None


_AT = re.compile(r"^(?P<problem>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_INDEX = re.compile(r"(\[[^\]]*\])+$")
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")


def _validation_error(text: str) -> ApiError:
    """msgspec says: Expected `int`, got `str` - at `$.n`."""
    found = _AT.match(text)
    problem, path = text, ""
    if found is not None:
        problem, path = found["problem"], found["path"] or ""
    if missing := _MISSING.match(problem):
        path = f"{path}.{missing['name']}" if path else missing["name"]
        problem = "is required"
    problem = problem[:1].lower() + problem[1:]
    if found is not None and found["key"]:
        problem = f"in a key: {problem}"
    if not path:
        return bad_request(f"the body: {problem}")
    return bad_request(f"{path}: {problem}", _INDEX.sub("", path))


def _check(fields: GenerationBody, served_model_name: str) -> None:
    if fields.model is not None and fields.model != served_model_name:
        raise unknown_model(fields.model, served_model_name)
    for name, harmless in _HARMLESS.items():
        value = getattr(fields, name, None)
        if value is not None and value not in harmless:
            raise bad_request(f"{name}: not supported by this server", name, "unsupported")
    if fields.stream_options is not None:
        if not fields.stream:
            raise bad_request("stream_options: needs stream to be true", "stream_options")
        if fields.stream_options.continuous_usage_stats:
            name = "stream_options.continuous_usage_stats"
            raise bad_request(f"{name}: not supported by this server", name, "unsupported")


def unknown_model(name: str, served_model_name: str) -> ApiError:
    message = f"the model {_short(name)} does not exist; this server has {served_model_name!r}"
    return ApiError(404, message, code="model_not_found", param="model")


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "...")


def _prompts(prompt: str | list[Any]) -> tuple[Prompt, ...]:
    """A text, texts, token ids, or lists of token ids."""
    if isinstance(prompt, str):
        return (_text_prompt(prompt, "prompt"),)
    if not prompt:
        raise _empty("prompt")
    kind = type(prompt[0])
    for i, part in enumerate(prompt):
        if type(part) is not kind:
            message = f"prompt[{i}]: texts, token ids and lists of token ids cannot be mixed"
            raise bad_request(message, "prompt")
    if kind is int:
        return (Prompt(token_ids=tuple(prompt)),)
    if len(prompt) > MAX_PROMPTS:
        raise bad_request(f"prompt: {len(prompt)} prompts, at most {MAX_PROMPTS}", "prompt")
    if kind is str:
        return tuple(_text_prompt(text, f"prompt[{i}]") for i, text in enumerate(prompt))
    for i, token_ids in enumerate(prompt):
        if not token_ids:
            raise _empty(f"prompt[{i}]")
    return tuple(Prompt(token_ids=tuple(token_ids)) for token_ids in prompt)


def _text_prompt(text: str, where: str) -> Prompt:
    if not text:
        raise _empty(where)
    return Prompt(text=text)


def _empty(where: str) -> ApiError:
    return bad_request(f"{where}: is empty", "prompt", "empty_prompt")


def _parsed(
    fields: GenerationBody, prompts: tuple[Prompt, ...], options: RequestOptions
) -> ParsedRequest:
    stream_options = fields.stream_options or StreamOptions()
    return ParsedRequest(
        prompts=prompts,
        options=options,
        stream=bool(fields.stream),
        include_usage=bool(stream_options.include_usage),
    )


def _options(
    fields: GenerationBody, num_logprobs: int, add_generation_prompt: bool
) -> RequestOptions:
    max_tokens = fields.max_completion_tokens or fields.max_tokens
    min_tokens = fields.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad_request(f"min_tokens: {min_tokens} is more than max_tokens", "min_tokens")
    stop = fields.stop
    return RequestOptions(
        n=fields.n or 1,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=fields.temperature,
        top_k=None if fields.top_k is None else max(fields.top_k, 0),
        top_p=fields.top_p,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=fields.repetition_penalty,
        seed=_seed(fields.seed),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        ignore_eos=bool(fields.ignore_eos),
        include_stop_str_in_output=bool(fields.include_stop_str_in_output),
        skip_special_tokens=fields.skip_special_tokens is not False,
        logit_bias=tuple((fields.logit_bias or {}).items()),
        num_logprobs=num_logprobs,
        priority=fields.priority or 0,
        cache_salt=fields.cache_salt or "",
        add_special_tokens=fields.add_special_tokens,
        add_generation_prompt=add_generation_prompt,
    )


def _seed(seed: int | None) -> int | None:
    """Any 64-bit number, signed or not, as an unsigned one."""
    if seed is None:
        return None
    if not -(1 << 63) <= seed <= MASK_64:
        raise bad_request("seed: expected a number of 64 bits", "seed")
    return seed & MASK_64
