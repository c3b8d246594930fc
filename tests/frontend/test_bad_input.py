"""Whatever a client sends gets a clear 4xx in OpenAI's shape, and harms nobody else."""

import json
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.frontend.errors import ApiError
from tokenreel.frontend.schemas import ChatBody, CompletionBody, parse_chat, parse_completion
from tokenreel.messages.codec import decode, encode
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.requests import SubmitRequest

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]


class Case(NamedTuple):
    path: str
    body: Any
    param: str | None
    message: str
    """How the message starts."""
    code: str | None = None
    status: int = 400


def completion(
    message: str, param: str | None = None, code: str | None = None, **body: Any
) -> Case:
    """A prompt that is fine, with one thing that is not."""
    param = param or next(name for name in body)
    return Case(COMPLETIONS, {"prompt": "x"} | body, param, message, code)


def chat(message: str, param: str | None = None, code: str | None = None, **body: Any) -> Case:
    param = param or next(name for name in body)
    return Case(CHAT, {"messages": HI} | body, param, message, code)


def raw(body: bytes, message: str, code: str | None = "invalid_json") -> Case:
    return Case(COMPLETIONS, body, None, message, code)


def unsupported(make: Any, **body: Any) -> Case:
    (name,) = body
    return make(f"{name}: not supported by this server", name, "unsupported", **body)


CASES = [
    # Not JSON, or not an object.
    raw(b"", "the body is empty", "empty_body"),
    raw(b"{", "the body is not valid JSON"),
    raw(b'{"prompt": "x"} {}', "the body is not valid JSON"),
    raw(b'{"prompt": "\\ud800"}', "the body is not valid JSON"),
    raw(b'{"prompt": "\xff"}', "the body is not valid JSON"),
    raw(b'{"prompt": "x", "temperature": NaN}', "the body is not valid JSON"),
    raw(b'{"x": ' + b"[" * 100_000, "the body is nested too deeply"),
    raw(b"[]", "the body: expected `object`, got `array`", None),
    raw(b"7", "the body: expected `object`, got `int`", None),
    # Prompts.
    Case(COMPLETIONS, {}, "prompt", "prompt: is required"),
    completion("prompt: expected", prompt=None),
    completion("prompt: expected", prompt=5),
    completion("prompt: expected", prompt={"a": 1}),
    completion("prompt: is empty", code="empty_prompt", prompt=""),
    completion("prompt: is empty", code="empty_prompt", prompt=[]),
    completion("prompt[1]: is empty", code="empty_prompt", prompt=["a", ""]),
    completion("prompt[0]: is empty", code="empty_prompt", prompt=[[]]),
    completion("prompt[1]: texts, token ids and lists", prompt=["a", 1]),
    completion("prompt[1]: texts, token ids and lists", prompt=[1, [1]]),
    completion("prompt[0]: expected `int` >= 0", prompt=[-1]),
    completion("prompt[0]: expected `int` <= 4294967295", prompt=[1 << 32]),
    completion("prompt[0]: expected", prompt=[1.5]),
    completion("prompt[0]: expected", prompt=[True]),
    completion("prompt[0]: expected", prompt=[None]),
    completion("prompt[0][0]: expected", prompt=[["a"]]),
    completion("prompt: 1025 prompts, at most 1024", prompt=["a"] * 1025),
    completion("n: 1024 prompts times n is more than 1024", "n", prompt=["a"] * 1024, n=2),
    # Messages.
    Case(CHAT, {}, "messages", "messages: is required"),
    chat("messages: expected `array`", messages="Hi"),
    chat("messages: expected `array` of length >= 1", messages=[]),
    chat("messages: expected `array` of length <= 4096", messages=HI * 4097),
    chat("messages[0]: expected `object`", "messages", messages=["Hi"]),
    chat("messages[0].role: is required", "messages[0].role", messages=[{}]),
    chat(
        "messages[0].role: invalid enum value 'boss'",
        "messages[0].role",
        messages=[{"role": "boss", "content": "x"}],
    ),
    chat("messages[0].content: is required", "messages[0].content", messages=[{"role": "user"}]),
    chat(
        "messages[0].content: expected",
        "messages[0].content",
        messages=[{"role": "user", "content": 5}],
    ),
    chat(
        "messages[0].content[0].type: only text is supported",
        "messages[0].content[0].type",
        "unsupported",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
    ),
    chat(
        "messages[0].content[0].text: is required",
        "messages[0].content[0].text",
        messages=[{"role": "user", "content": [{"type": "text"}]}],
    ),
    # Numbers.
    completion("n: expected `int` >= 1", n=0),
    completion("n: expected `int` <= 128", n=129),
    completion("n: expected `int | null`, got `str`", n="2"),
    completion("n: expected `int | null`, got `float`", n=1.5),
    completion("max_tokens: expected `int` >= 1", max_tokens=0),
    completion("max_tokens: expected `int` >= 1", max_tokens=-1),
    completion("max_tokens: expected `int` <= 2147483647", max_tokens=10**30),
    completion("max_tokens: expected `int | null`, got `bool`", max_tokens=True),
    chat("max_completion_tokens: expected `int` >= 1", max_completion_tokens=0),
    completion("min_tokens: expected `int` >= 0", min_tokens=-1),
    completion("min_tokens: 5 is more than max_tokens", min_tokens=5, max_tokens=4),
    completion("temperature: expected `float` >= 0.0", temperature=-0.1),
    completion("temperature: expected `float` <= 100.0", temperature=1e9),
    completion("temperature: expected `float | null`, got `str`", temperature="hot"),
    completion("top_p: expected `float` > 0.0", top_p=0),
    completion("top_p: expected `float` <= 1.0", top_p=1.1),
    completion("top_k: expected `int` >= -1", top_k=-2),
    completion("min_p: expected `float` <= 1.0", min_p=1.1),
    completion("min_p: expected `float` >= 0.0", min_p=-0.1),
    completion("presence_penalty: expected `float` <= 2.0", presence_penalty=2.1),
    completion("frequency_penalty: expected `float` >= -2.0", frequency_penalty=-2.1),
    completion("repetition_penalty: expected `float` >= 0.01", repetition_penalty=0),
    completion("repetition_penalty: expected `float` >= 0.01", repetition_penalty=1e-40),
    completion("repetition_penalty: expected `float` <= 100.0", repetition_penalty=101),
    completion("seed: expected a number of 64 bits", seed=1 << 64),
    completion("seed: expected a number of 64 bits", seed=-(1 << 63) - 1),
    Case(
        COMPLETIONS,
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        "seed",
        "seed: integer value out of range",
    ),
    completion("priority: expected `int` <= 2147483647", priority=1 << 31),
    # Logprobs.
    completion("logprobs: expected `int` <= 20", logprobs=21),
    completion("logprobs: expected `int` >= 0", logprobs=-1),
    completion("logprobs: expected `int | null`, got `bool`", logprobs=True),
    chat("logprobs: expected `bool | null`, got `int`", logprobs=3),
    chat("top_logprobs: expected `int` <= 20", "top_logprobs", logprobs=True, top_logprobs=21),
    chat("top_logprobs: needs logprobs to be true", top_logprobs=2),
    # Lists.
    completion("stop: expected `str` of length >= 1", stop=""),
    completion("stop[1]: expected `str` of length >= 1", stop=["a", ""]),
    completion("stop: expected `array` of length <= 16", stop=["a"] * 17),
    completion("stop[0]: expected `str` of length <= 1024", stop=["a" * 1025]),
    completion("stop[0]: expected `str`, got `int`", stop=[1]),
    completion("stop_token_ids: expected `array` of length <= 128", stop_token_ids=[1] * 129),
    completion("stop_token_ids[0]: expected `int` >= 0", stop_token_ids=[-1]),
    completion("logit_bias: in a key: expected `int`", logit_bias={"the": 1}),
    completion("logit_bias: in a key: expected `int` >= 0", logit_bias={"-1": 1}),
    completion("logit_bias[...]: expected `float` <= 100.0", logit_bias={"1": 101}),
    completion(
        "logit_bias: expected `object` of length <= 1024",
        logit_bias={str(i): 1 for i in range(1025)},
    ),
    # Switches and texts.
    completion("stream: expected `bool | null`, got `str`", stream="yes"),
    completion("ignore_eos: expected `bool | null`, got `int`", ignore_eos=1),
    completion("cache_salt: expected `str` of length >= 1", cache_salt=""),
    completion("cache_salt: expected `str` of length <= 256", cache_salt="s" * 257),
    completion("stream_options: needs stream to be true", stream_options={"include_usage": True}),
    completion(
        "stream_options.include_usage: expected `bool | null`",
        "stream_options.include_usage",
        stream=True,
        stream_options={"include_usage": 1},
    ),
    completion(
        "stream_options.continuous_usage_stats: not supported",
        "stream_options.continuous_usage_stats",
        "unsupported",
        stream=True,
        stream_options={"continuous_usage_stats": True},
    ),
    # Models.
    Case(
        COMPLETIONS,
        {"prompt": "x", "model": "other"},
        "model",
        "the model 'other' does not exist; this server has 'demo'",
        "model_not_found",
        404,
    ),
    completion("model: expected `str | null`, got `int`", model=3),
    # What this server cannot do.
    completion("best_of: not supported, unless it equals n", best_of=2),
    unsupported(completion, suffix="end"),
    unsupported(completion, echo=True),
    unsupported(completion, prompt_embeds="..."),
    unsupported(completion, prompt_logprobs=1),
    unsupported(completion, use_beam_search=True),
    unsupported(completion, allowed_token_ids=[1]),
    unsupported(completion, guided_json={}),
    unsupported(chat, tools=[{"type": "function", "function": {"name": "f"}}]),
    unsupported(chat, tool_choice="required"),
    unsupported(chat, functions=[{"name": "f"}]),
    unsupported(chat, response_format={"type": "json_object"}),
    unsupported(chat, structured_outputs={"json": {}}),
    unsupported(chat, modalities=["text", "audio"]),
    unsupported(chat, reasoning_effort="high"),
    unsupported(chat, chat_template="{{ messages }}"),
]


def named(case: Case) -> str:
    return f"{case.path.split('/')[2]}: {case.message[:60]}"


@pytest.mark.parametrize("case", [case for case in CASES if case.body != b""], ids=named)
def test_bad_input_names_the_field(case: Case) -> None:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    parse = parse_chat if case.path == CHAT else parse_completion
    with pytest.raises(ApiError) as caught:
        parse(body, "demo")
    error = caught.value
    assert error.message.startswith(case.message), error.message
    assert (error.status, error.param, error.code) == (case.status, case.param, case.code)


async def test_over_http_it_is_an_openai_error_and_a_stream_beside_it_goes_on(
    frontend: Any,
) -> None:
    frontend.engine.answers = None
    stream = await frontend.open(COMPLETIONS, {"prompt": "a", "stream": True})
    request = await frontend.engine.next_submit()
    frontend.engine.admit(request)
    await stream.read_until(b"\r\n\r\n")
    async with httpx.AsyncClient(base_url=frontend.url, timeout=20) as client:
        for i, case in enumerate(CASES):
            body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
            response = await client.post(case.path, content=body)
            assert response.status_code == case.status, case
            assert response.headers["content-type"] == "application/json"
            (error,) = response.json().values()
            assert error.pop("message").startswith(case.message), case
            expected = {"type": "invalid_request_error", "param": case.param, "code": case.code}
            assert error == expected, case
            frontend.engine.text(request.key, f"<{i}>")
            await stream.read_until(f"<{i}>".encode())
    frontend.engine.text(request.key, "", finish_reason=frontend.engine.LENGTH)
    frontend.engine.finish(request.key)
    await stream.read_until(b"data: [DONE]\n\n")
    assert frontend.engine.submitted.empty(), "none of them went further than the frontend"
    await stream.leave()


HARMLESS: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {"echo": False, "suffix": "", "best_of": 1, "logprobs": None, "stop": None}),
    (COMPLETIONS, {"user": "me", "metadata": {"a": "b"}, "whatever": [{}], "n": None}),
    (COMPLETIONS, {"best_of": 2, "n": 2, "stop": [], "logit_bias": {}, "max_tokens": None}),
    (COMPLETIONS, {"top_k": -1, "seed": -1, "temperature": 0, "top_p": 1, "stream": None}),
    (CHAT, {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}}),
    (CHAT, {"store": True, "service_tier": "auto", "user": "me", "modalities": ["text"]}),
    (CHAT, {"logprobs": False, "top_logprobs": None, "tools": None, "parallel_tool_calls": True}),
    (CHAT, {"logprobs": True, "top_logprobs": 0}),
]


@pytest.mark.parametrize(("path", "fields"), HARMLESS)
async def test_what_changes_nothing_is_taken(frontend: Any, path: str, fields: Any) -> None:
    response = await frontend.post(path, {"prompt": "x", "messages": HI} | fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("status", "code"), [(400, "context_length_exceeded"), (429, "queue_full"), (503, "closing")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_rejection_further_in_has_its_own_status(
    frontend: Any, stream: bool, status: int, code: str
) -> None:
    engine = frontend.engine
    engine.answers = lambda request: engine.reject(request.key, status, code, "prompt")
    response = await frontend.post(COMPLETIONS, {"prompt": "x", "stream": stream})
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, "prompt")
    assert ("retry-after" in response.headers) == (status != 400)


async def test_one_rejected_prompt_of_several_rejects_them_all(frontend: Any) -> None:
    engine = frontend.engine
    engine.answers = None
    opened = await frontend.open(COMPLETIONS, {"prompt": ["a", "b", "c"], "stream": True})
    first, second, third = [await engine.next_submit() for _ in range(3)]
    engine.admit(first)
    engine.reject(second.key, 400, "context_length_exceeded")
    assert b" 400 " in await opened.read_until(b"\r\n")
    assert {await engine.next_abort(), await engine.next_abort()} == {first.key, third.key}
    await opened.leave()


KEYS = st.text("ab19-", max_size=3)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20).filter(lambda text: text.isprintable()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab19-", max_size=3), inner)
    ),
    max_leaves=8,
)
COMPLETION_FIELDS = sorted(CompletionBody.__struct_fields__)
CHAT_FIELDS = sorted(ChatBody.__struct_fields__)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "boss"]) | JSON,
        "content": st.lists(
            st.fixed_dictionaries({}, optional={"type": st.just("text"), "text": JSON})
        )
        | JSON,
        "name": JSON,
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "function": st.fixed_dictionaries(
                        {"name": st.just("f")}, optional={"arguments": JSON.map(json.dumps)}
                    ),
                    "id": JSON,
                },
            )
        ),
    },
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(COMPLETION_FIELDS), JSON, max_size=5), JSON)
def test_any_json_in_any_completion_field_is_taken_or_refused(
    fields: dict[str, Any], prompt: Any
) -> None:
    taken_or_refused(parse_completion, {"prompt": prompt} | fields)
    taken_or_refused(parse_completion, {"prompt": "x"} | fields)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(CHAT_FIELDS), JSON, max_size=5), st.lists(MESSAGE | JSON))
def test_any_json_in_any_chat_field_is_taken_or_refused(
    fields: dict[str, Any], messages: list[Any]
) -> None:
    taken_or_refused(parse_chat, {"messages": messages} | fields)
    taken_or_refused(parse_chat, {"messages": HI} | fields)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    for parse in (parse_completion, parse_chat):
        with pytest.raises(ApiError) as caught:
            parse(body, "demo")
        assert caught.value.status == 400


def taken_or_refused(parse: Any, body: dict[str, Any]) -> None:
    """What is taken can also be sent on, and arrives as it was."""
    try:
        request = parse(msgspec.json.encode(body), "demo")
    except ApiError as error:
        assert error.status in (400, 404)
        assert error.message
        return
    for prompt in request.prompts:
        key = RequestKey(1, 1)
        sent = SubmitRequest(key, request.options, prompt.text, prompt.token_ids, prompt.messages)
        assert decode(encode(sent)) == sent
