"""What the README promises: one command, and an OpenAI client talks to the demo model."""

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from running_engine import RunningEngine, verify

QUESTION: Any = [{"role": "user", "content": "What is 17 + 25?"}]
STORY: Any = [{"role": "user", "content": "Tell me a story."}]
MODEL = "tokenreel-demo"
StartEngine = Callable[..., RunningEngine]


def test_start_ask_stop_and_verify_what_was_captured(start_engine: StartEngine) -> None:
    """The README's session, with no flag but those that keep it apart from other engines."""
    engine = start_engine().wait_until_ready()
    with engine.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert "42" in (answer.choices[0].message.content or "")
    engine.stop()
    assert engine.left_behind() == []
    verdict = verify(engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_health_is_503_while_the_model_loads_and_200_when_every_actor_is_ready(
    started: tuple[RunningEngine, httpx.Response],
) -> None:
    engine, early = started
    assert early.status_code == 503
    assert early.json()["status"] == "starting"
    with engine.http() as http:
        assert http.get("/health").json() == {"status": "ready"}


def test_it_prints_a_line_per_actor_then_the_address_and_a_command_to_try(
    engine: RunningEngine,
) -> None:
    # A start that compiles says so.
    *told, is_ready = [line for line in engine.lines if not line.startswith("compiling")][:6]
    roles = {"frontend", "input_processor", "engine_core", "worker", "detokenizer"}
    assert {line.split()[0] for line in told} == roles == set(engine.pids)
    assert is_ready.startswith(f"{MODEL} is ready at http://127.0.0.1:")
    assert any(line.startswith(f"  curl {engine.url}/v1/chat/completions") for line in engine.lines)


def test_a_sum_is_answered_and_the_model_ends_its_turn_by_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    (choice,) = answer.choices
    assert "42" in (choice.message.content or "")
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert answer.usage is not None and answer.usage.completion_tokens < 40


async def test_the_async_client_gets_the_same_answer(
    engine: RunningEngine, client: openai.OpenAI
) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    async with engine.async_client() as async_client:
        again = await async_client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0
        )
        stream = await async_client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert again.choices[0].message.content == whole.choices[0].message.content
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_story_streams_in_many_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY, temperature=0, max_tokens=200, stream=True
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 20
    assert len(text.split()) > 20
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_it_says_what_it_serves(engine: RunningEngine, client: openai.OpenAI) -> None:
    (card,) = client.models.list().data
    assert card.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    # 64 blocks of 16 tokens: less than the model's own context.
    assert card.model_extra == {"max_model_len": 1024}
    with engine.http() as http:
        assert set(http.get("/version").json()) == {"version"}


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/completion"])
def test_what_is_not_there_is_a_404_in_the_same_shape(engine: RunningEngine, path: str) -> None:
    with engine.http() as http:
        answer = http.get(path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
