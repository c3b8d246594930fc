"""The unmodified openai client works, sync and async."""

import asyncio
import inspect
from typing import Any

import openai
import pytest

TEXT = "Hello w\N{LATIN SMALL LETTER O WITH DIAERESIS}rld!"
HI: Any = [{"role": "user", "content": "Hi"}]


class Clients:
    """The same calls on the synchronous client (in a thread) and on the asynchronous one."""

    def __init__(self, kind: str, url: str, api_key: str) -> None:
        options: Any = {"base_url": f"{url}/v1", "api_key": api_key, "max_retries": 0}
        self.client: Any = (openai.OpenAI if kind == "sync" else openai.AsyncOpenAI)(**options)

    async def call(self, path: str, **arguments: Any) -> Any:
        """The answer; of a stream, the list of its chunks."""
        if isinstance(self.client, openai.OpenAI):
            return await asyncio.to_thread(self._call, path, arguments)
        answer = await self._method(path)(**arguments)
        return [chunk async for chunk in answer] if arguments.get("stream") else answer

    async def close(self) -> None:
        closing = self.client.close()
        if inspect.isawaitable(closing):
            await closing

    def _call(self, path: str, arguments: Any) -> Any:
        answer = self._method(path)(**arguments)
        return list(answer) if arguments.get("stream") else answer

    def _method(self, path: str) -> Any:
        method = self.client
        for name in path.split("."):
            method = getattr(method, name)
        return method


@pytest.fixture(params=["sync", "async"])
async def make_client(request: pytest.FixtureRequest) -> Any:
    made: list[Clients] = []

    def make(url: str, api_key: str = "none") -> Clients:
        made.append(Clients(request.param, url, api_key))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def client(make_client: Any, frontend: Any) -> Clients:
    made: Clients = make_client(frontend.url)
    return made


async def test_completions(client: Clients) -> None:
    answer = await client.call(
        "completions.create", model="demo", prompt=["a", "b"], n=2, logprobs=2
    )
    assert [choice.text for choice in answer.choices] == [TEXT] * 4
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.text_offset == [0, 3, 6, 11]
    assert answer.usage.total_tokens == 2 * 5 + 4 * 4
    assert answer.usage.prompt_tokens_details.cached_tokens == 6


async def test_streamed_completions(client: Clients) -> None:
    *chunks, last = await client.call(
        "completions.create",
        model="demo",
        prompt="a",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert [chunk.usage for chunk in chunks] == [None] * 4
    assert (last.choices, last.usage.completion_tokens) == ([], 4)


async def test_chat(client: Clients) -> None:
    answer = await client.call(
        "chat.completions.create", model="demo", messages=HI, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", TEXT)
    assert [entry.token for entry in choice.logprobs.content] == ["Hel", "lo ", "wörld", "!"]
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert choice.finish_reason == "stop"


async def test_streamed_chat(client: Clients) -> None:
    first, *chunks, last = await client.call(
        "chat.completions.create", model="demo", messages=HI, stream=True
    )
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == TEXT
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "stop")


async def test_models(client: Clients) -> None:
    assert [model.id for model in (await client.call("models.list")).data] == ["demo"]
    model = await client.call("models.retrieve", model="demo")
    assert (model.id, model.object, model.max_model_len) == ("demo", "model", 2048)


async def test_engine_parameters_go_in_extra_body(client: Clients, frontend: Any) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "ignore_eos": True, "priority": 2}
    await client.call("chat.completions.create", model="demo", messages=HI, extra_body=extra)
    options = (await frontend.engine.next_submit()).options
    assert (options.top_k, options.min_p, options.ignore_eos, options.priority) == (5, 0.1, True, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_have_the_clients_own_classes(client: Clients, stream: bool) -> None:
    chat = "chat.completions.create"
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.call(chat, model="other", messages=HI, stream=stream)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.call(chat, model="demo", messages=HI, temperature=-1, stream=stream)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await client.call("models.retrieve", model="other")


@pytest.mark.parametrize("stream", [False, True])
async def test_too_many_requests_is_a_rate_limit(
    client: Clients, frontend: Any, stream: bool
) -> None:
    engine = frontend.engine
    engine.answers = None
    opened = await frontend.open("/v1/completions", {"prompt": ["a"] * 8})
    requests = [await engine.next_submit() for _ in range(8)]
    with pytest.raises(openai.RateLimitError):
        await client.call("completions.create", model="demo", prompt="a", stream=stream)
    for request in requests:
        engine.complete(request)
    await opened.read_until(b"}}")
    await opened.leave()


async def test_the_api_key(make_client: Any, start_ready: Any) -> None:
    frontend = await start_ready(api_key="secret")
    right = make_client(frontend.url, "secret")
    assert (await right.call("completions.create", model="demo", prompt="a")).choices
    wrong = make_client(frontend.url, "secreT")
    with pytest.raises(openai.AuthenticationError) as caught:
        await wrong.call("completions.create", model="demo", prompt="a")
    assert caught.value.code == "invalid_api_key"


async def test_a_failure_in_band_is_an_api_error(client: Clients, frontend: Any) -> None:
    engine = frontend.engine

    def answer(request: Any) -> None:
        engine.admit(request)
        engine.text(request.key, "one")
        engine.text(request.key, "", finish_reason=engine.ERROR, error="the logits are not finite")
        engine.finish(request.key)

    engine.answers = answer
    with pytest.raises(openai.APIError, match="the logits are not finite"):
        await client.call("chat.completions.create", model="demo", messages=HI, stream=True)
    with pytest.raises(openai.InternalServerError, match="the logits are not finite"):
        await client.call("chat.completions.create", model="demo", messages=HI)


async def test_closing_a_stream_early_aborts(make_client: Any, frontend: Any) -> None:
    client = make_client(frontend.url).client
    if isinstance(client, openai.OpenAI):
        client = client.with_options()
        await asyncio.to_thread(_take_one_and_close, client, frontend)
    else:
        frontend.engine.answers = frontend.engine.admit
        stream = await client.chat.completions.create(model="demo", messages=HI, stream=True)
        await anext(aiter(stream))
        await stream.close()
    request = await frontend.engine.next_submit()
    assert await frontend.engine.next_abort() == request.key


def _take_one_and_close(client: openai.OpenAI, frontend: Any) -> None:
    frontend.engine.answers = frontend.engine.admit
    stream = client.chat.completions.create(model="demo", messages=HI, stream=True)
    next(iter(stream))
    stream.close()
