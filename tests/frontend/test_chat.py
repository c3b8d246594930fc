"""POST /v1/chat/completions over a real socket: OpenAI's shapes, whole and streamed."""

import json
from typing import Any

PATH = "/v1/chat/completions"
TEXT = "Hello w\N{LATIN SMALL LETTER O WITH DIAERESIS}rld!"
MESSAGES = [{"role": "user", "content": "Hi"}]


def events_of(body: str) -> list[Any]:
    *events, done, end = body.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_a_whole_answer_has_openais_shape(frontend: Any) -> None:
    response = await frontend.post(PATH, {"model": "demo", "messages": MESSAGES})
    assert response.status_code == 200
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 4,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


async def test_a_stream_opens_with_the_role_and_ends_with_the_reason(frontend: Any) -> None:
    response = await frontend.post(PATH, {"messages": MESSAGES, "stream": True, "n": 2})
    by_choice: dict[int, list[Any]] = {0: [], 1: []}
    for event in events_of(response.text):
        assert event["object"] == "chat.completion.chunk"
        assert event["id"].startswith("chatcmpl-")
        (choice,) = event["choices"]
        by_choice[choice["index"]].append(choice)
    for first, *middle, last in by_choice.values():
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"]["content"] for choice in middle) == TEXT
        assert {choice["finish_reason"] for choice in (first, *middle)} == {None}
        assert (last["delta"], last["finish_reason"]) == ({}, "stop")


async def test_usage_comes_last_in_a_stream_that_asks_for_it(frontend: Any) -> None:
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    *events, last = events_of((await frontend.post(PATH, body)).text)
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4


async def test_logprobs_list_every_token_with_its_bytes(frontend: Any) -> None:
    response = await frontend.post(
        PATH, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    )
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == TEXT
    assert content[0] == {
        "token": "Hel",
        "logprob": -0.25,
        "bytes": list(b"Hel"),
        "top_logprobs": [{"token": "Hel0", "logprob": -0.5, "bytes": list(b"Hel0")}],
    }


async def test_streamed_logprobs_are_the_whole_ones_in_pieces(frontend: Any) -> None:
    body = {"messages": MESSAGES, "logprobs": True}
    whole = (await frontend.post(PATH, body)).json()["choices"][0]["logprobs"]["content"]
    events = events_of((await frontend.post(PATH, body | {"stream": True})).text)
    pieces = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for piece in pieces if piece for entry in piece["content"]] == whole


async def test_messages_reach_the_template_as_plain_text(frontend: Any) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "name": "Ann",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    response = await frontend.post(PATH, {"messages": messages, "add_generation_prompt": False})
    assert response.status_code == 200
    request = await frontend.engine.next_submit()
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert request.messages == (
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    )
    assert request.options.add_generation_prompt is False


async def test_max_completion_tokens_goes_before_max_tokens(frontend: Any) -> None:
    body = {"messages": MESSAGES, "max_tokens": 9, "max_completion_tokens": 7}
    await frontend.post(PATH, body)
    assert (await frontend.engine.next_submit()).options.max_tokens == 7
