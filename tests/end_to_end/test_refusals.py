"""Whatever a client sends to a running engine: a clear answer at once, and nobody else suffers."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from running_engine import RunningEngine

MODEL = "tokenreel-demo"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello!"}]
API_KEY = "the-right-key"
MAX_BODY_BYTES = 65536


class Refusal(NamedTuple):
    name: str
    path: str
    body: Any
    status: int
    code: str | None
    param: str | None


def completion(name: str, code: str | None, param: str, **fields: Any) -> Refusal:
    return Refusal(name, COMPLETIONS, {"prompt": "x"} | fields, 400, code, param)


def chat(name: str, code: str | None, param: str, **fields: Any) -> Refusal:
    return Refusal(name, CHAT, {"messages": HELLO} | fields, 400, code, param)


REFUSALS = [
    Refusal("no JSON", COMPLETIONS, b'{"prompt": "x"', 400, "invalid_json", None),
    Refusal("no object", CHAT, b"[1]", 400, None, None),
    Refusal("no body", CHAT, b"", 400, "empty_body", None),
    Refusal("no UTF-8", COMPLETIONS, b'{"prompt": "\xff"}', 400, "invalid_json", None),
    Refusal("no prompt", COMPLETIONS, {}, 400, None, "prompt"),
    Refusal("no messages", CHAT, {}, 400, None, "messages"),
    Refusal(
        "a model that is not here", CHAT, {"model": "gpt-4", "messages": HELLO},
        404, "model_not_found", "model",
    ),
    completion("an empty prompt", "empty_prompt", "prompt", prompt=""),
    completion("an empty list of prompts", "empty_prompt", "prompt", prompt=[]),
    completion("an empty prompt in a list", "empty_prompt", "prompt", prompt=["x", ""]),
    completion("a number for a prompt", None, "prompt", prompt=7),
    completion("mixed prompts", None, "prompt", prompt=["x", 1]),
    # 1024 tokens fit the pool, 2048 the model.
    completion(
        "a prompt that never fits the pool", "context_length_exceeded", "prompt", prompt=[5] * 1100
    ),
    completion(
        "a prompt longer than the model", "context_length_exceeded", "prompt", prompt=[5] * 5000
    ),
    completion(
        "a text longer than the model", "context_length_exceeded", "prompt", prompt="word " * 90000
    ),
    completion(
        "no room for max_tokens", "context_length_exceeded", "max_tokens", max_tokens=1024
    ),
    completion(
        "a token outside the vocabulary", "invalid_token_id", "prompt", prompt=[5, 10**6]
    ),
    completion("a negative token", None, "prompt", prompt=[-1]),
    completion(
        "a stop token outside the vocabulary", "invalid_token_id", "stop_token_ids",
        stop_token_ids=[10**6],
    ),
    completion(
        "a bias outside the vocabulary", "invalid_token_id", "logit_bias",
        logit_bias={"1000000": 1},
    ),
    completion("n of 0", None, "n", n=0),
    completion("n above the server's rows", "invalid_value", "n", n=17),
    completion("n above all reason", None, "n", n=10**9),
    completion("n as text", None, "n", n="two"),
    completion("no tokens asked for", None, "max_tokens", max_tokens=0),
    completion("negative max_tokens", None, "max_tokens", max_tokens=-5),
    completion("endless max_tokens", None, "max_tokens", max_tokens=10**30),
    completion("min_tokens above max_tokens", None, "min_tokens", min_tokens=5, max_tokens=4),
    completion("negative temperature", None, "temperature", temperature=-0.1),
    completion("huge temperature", None, "temperature", temperature=1e308),
    completion("top_p of 0", None, "top_p", top_p=0),
    completion("a seed of 70 bits", None, "seed", seed=1 << 70),
    completion("an empty stop string", None, "stop", stop=[""]),
    completion("too many stop strings", None, "stop", stop=["a"] * 1000),
    completion("too many logprobs", None, "logprobs", logprobs=1000),
    chat("a role that is none", None, "messages", messages=[{"role": 5, "content": "x"}]),
    chat("rivals without logprobs", None, "top_logprobs", top_logprobs=2),
    chat("stream options without a stream", None, "stream_options", stream_options={}),
]  # fmt: skip


@pytest.fixture(scope="module")
def refused(
    engine: RunningEngine,
) -> tuple[str, str, dict[str, httpx.Response]]:
    """Every refusal, asked for while a stream goes on: what the stream said before and then."""
    options: Any = {
        "model": MODEL, "prompt": "Once upon a time", "max_tokens": 500, "temperature": 1,
        "seed": 8, "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    with engine.client() as client, engine.http() as http:
        undisturbed = client.completions.create(**options).choices[0].text
        stream = iter(client.completions.create(**options, stream=True))
        disturbed, answers = next(stream).choices[0].text, {}
        for refusal in REFUSALS:
            answers[refusal.name] = post(http, refusal.path, refusal.body)
            disturbed += next(stream).choices[0].text
        disturbed += "".join(chunk.choices[0].text for chunk in stream)
    return undisturbed, disturbed, answers


def post(http: httpx.Client, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(path, content=content, headers={"content-type": "application/json"} | headers)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Checks OpenAI's shape."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return error


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_bad_request_gets_its_status_and_the_field_at_fault(
    refused: tuple[str, str, dict[str, httpx.Response]], refusal: Refusal
) -> None:
    answer = refused[2][refusal.name]
    error = error_of(answer)
    found = (answer.status_code, error["code"], (error["param"] or "").partition("[")[0] or None)
    assert found == (refusal.status, refusal.code, refusal.param), error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_stream_beside_them_did_not_notice(
    refused: tuple[str, str, dict[str, httpx.Response]],
) -> None:
    undisturbed, disturbed, _ = refused
    assert disturbed == undisturbed


def test_a_method_that_is_not_served_is_a_405(engine: RunningEngine) -> None:
    with engine.http() as http:
        answer = http.get(CHAT)
    assert answer.status_code == 405
    assert error_of(answer)["code"] == "method_not_allowed"


def test_the_openai_client_raises_its_own_exceptions(client: openai.OpenAI) -> None:
    messages: Any = HELLO
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=messages, temperature=-1)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=messages)


@pytest.fixture(scope="module")
def strict_engine() -> Iterator[RunningEngine]:
    """Takes three requests at a time, small bodies, and those who know the key."""
    with RunningEngine(
        *("--stub-worker", "--max-num-seqs", "2", "--max-num-queued-reqs", "1"),
        *("--max-body-bytes", str(MAX_BODY_BYTES)),
        environment={"TOKENREEL_API_KEY": API_KEY},
    ) as engine:
        yield engine.wait_until_ready()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", API_KEY, f"Basic {API_KEY}"])
def test_without_the_right_key_it_is_a_401(
    strict_engine: RunningEngine, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    with strict_engine.http() as http:
        answer = post(http, path, {}, **headers)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"


def test_the_key_opens_the_door_and_health_needs_none(strict_engine: RunningEngine) -> None:
    with strict_engine.client(API_KEY) as client, strict_engine.http() as http:
        assert client.models.list().data[0].id == MODEL
        assert http.get("/health").status_code == 200
    with strict_engine.client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_the_key_is_in_no_journal_and_in_no_process_list(strict_engine: RunningEngine) -> None:
    for path in strict_engine.journal.iterdir():
        assert API_KEY.encode() not in path.read_bytes()
    for pid in strict_engine.pids.values():
        with open(f"/proc/{pid}/cmdline", "rb") as line, open(f"/proc/{pid}/environ", "rb") as rest:
            assert API_KEY.encode() not in line.read() + rest.read()


def test_a_body_over_the_limit_is_a_413(strict_engine: RunningEngine) -> None:
    with strict_engine.http() as http:
        body = {"prompt": "x" * MAX_BODY_BYTES}
        answer = post(http, COMPLETIONS, body, authorization=f"Bearer {API_KEY}")
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in error_of(answer)["message"]


def test_more_than_the_queue_takes_is_a_429_at_once_and_the_others_are_served(
    strict_engine: RunningEngine,
) -> None:
    request: Any = {"model": MODEL, "prompt": "x", "max_tokens": 4, "stream": True}
    with strict_engine.client(API_KEY) as client, strict_engine.http() as http:
        strict_engine.freeze("worker")
        try:
            streams = [client.completions.create(**request) for _ in range(3)]
            answer = post(http, COMPLETIONS, request, authorization=f"Bearer {API_KEY}")
        finally:
            strict_engine.thaw("worker")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert error_of(answer)["type"] == "rate_limit_error"
        reasons = [list(stream)[-1].choices[0].finish_reason for stream in streams]
        assert reasons == ["length"] * 3


def test_every_request_gives_its_place_back(strict_engine: RunningEngine) -> None:
    body = {"prompt": "x", "max_tokens": 3}
    with strict_engine.http() as http:
        answers = [
            post(http, COMPLETIONS, body, authorization=f"Bearer {API_KEY}") for _ in range(20)
        ]
    assert [answer.status_code for answer in answers] == [200] * 20
