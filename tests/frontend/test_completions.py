"""POST /v1/completions over a real socket: OpenAI's shapes, whole and streamed."""

import json
import re
from typing import Any

import pytest

PATH = "/v1/completions"
TEXT = "Hello w\N{LATIN SMALL LETTER O WITH DIAERESIS}rld!"
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 4,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
}


def events_of(body: str) -> list[Any]:
    """The JSON of every event; the last must be [DONE]."""
    *events, done, end = body.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_a_whole_answer_has_openais_shape(frontend: Any) -> None:
    response = await frontend.post(PATH, {"model": "demo", "prompt": "Say it"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert re.fullmatch(r"cmpl-\d+\.\d+-[0-9a-f]{16}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "text": TEXT,
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("one", [("one", None)]),
        (["one", "two"], [("one", None), ("two", None)]),
        ([1, 2, 3], [(None, (1, 2, 3))]),
        ([[1, 2], [3]], [(None, (1, 2)), (None, (3,))]),
    ],
)
async def test_every_kind_of_prompt_is_taken(frontend: Any, prompt: Any, sent: Any) -> None:
    response = await frontend.post(PATH, {"prompt": prompt, "n": 2})
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(2 * len(sent)))
    assert {choice["text"] for choice in choices} == {TEXT}
    submitted = [await frontend.engine.next_submit() for _ in sent]
    assert [(request.text, request.token_ids) for request in submitted] == sent
    assert response.json()["usage"]["prompt_tokens"] == 5 * len(sent)
    assert response.json()["usage"]["completion_tokens"] == 4 * 2 * len(sent)


async def test_a_stream_says_the_same_as_the_whole_answer(frontend: Any) -> None:
    response = await frontend.post(PATH, {"prompt": ["a", "b"], "n": 2, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    texts = {index: "" for index in range(4)}
    reasons: dict[int, Any] = {}
    for event in events_of(response.text):
        assert event["object"] == "text_completion"
        assert "usage" not in event
        (choice,) = event["choices"]
        assert choice["index"] not in reasons, "nothing comes after the last chunk"
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"] is not None:
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {index: TEXT for index in range(4)}
    assert reasons == {index: "stop" for index in range(4)}


async def test_all_events_of_one_answer_carry_one_id(frontend: Any) -> None:
    response = await frontend.post(PATH, {"prompt": "a", "stream": True})
    events = events_of(response.text)
    assert {event["id"][:5] for event in events} == {"cmpl-"}
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1


async def test_usage_comes_last_in_a_stream_that_asks_for_it(frontend: Any) -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}}
    *events, last = events_of((await frontend.post(PATH, body)).text)
    assert all(event["usage"] is None for event in events)
    assert (last["choices"], last["usage"]) == ([], USAGE)


async def test_logprobs_have_openais_four_lists(frontend: Any) -> None:
    response = await frontend.post(PATH, {"prompt": "a", "logprobs": 2})
    logprobs = response.json()["choices"][0]["logprobs"]
    tokens = logprobs["tokens"]
    assert "".join(tokens) == TEXT
    assert logprobs["token_logprobs"] == [-0.25] * 4
    assert logprobs["text_offset"] == [0, 3, 6, 11]
    assert logprobs["top_logprobs"] == [{f"{t}0": -0.5, f"{t}1": -1.5, t: -0.25} for t in tokens]


async def test_streamed_logprobs_are_the_whole_ones_in_pieces(frontend: Any) -> None:
    whole = await frontend.post(PATH, {"prompt": "a", "logprobs": 1})
    streamed = await frontend.post(PATH, {"prompt": "a", "logprobs": 1, "stream": True})
    pieces = [event["choices"][0]["logprobs"] for event in events_of(streamed.text)]
    joined = {name: [x for piece in pieces for x in piece[name]] for name in pieces[0]}
    assert joined == whole.json()["choices"][0]["logprobs"]


async def test_minus_infinity_is_written_as_a_number(frontend: Any) -> None:
    engine = frontend.engine

    def answer(request: Any) -> None:
        engine.admit(request)
        entry = engine.logprob("x", float("-inf"))
        engine.text(request.key, "x", logprobs=[entry], finish_reason=engine.LENGTH)
        engine.finish(request.key)

    engine.answers = answer
    response = await frontend.post(PATH, {"prompt": "a", "logprobs": 0})
    assert response.json()["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]
    assert response.json()["choices"][0]["finish_reason"] == "length"


async def test_the_stop_that_matched_is_told(frontend: Any) -> None:
    engine = frontend.engine

    def answer(request: Any) -> None:
        engine.admit(request)
        engine.text(request.key, "x", finish_reason=engine.STOP, stop_reason="END")
        engine.finish(request.key)

    engine.answers = answer
    response = await frontend.post(PATH, {"prompt": "a", "stop": "END"})
    (choice,) = response.json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")


async def test_text_that_json_must_escape_arrives_as_it_was(frontend: Any) -> None:
    text = 'a "b" \\ \n\r\t \0 \x1f \u2028 \U0001f600'
    engine = frontend.engine

    def answer(request: Any) -> None:
        engine.admit(request)
        engine.text(request.key, text)
        engine.text(request.key, "", finish_reason=engine.STOP)
        engine.finish(request.key)

    engine.answers = answer
    events = events_of((await frontend.post(PATH, {"prompt": "a", "stream": True})).text)
    assert "".join(event["choices"][0]["text"] for event in events) == text


async def test_chunks_without_text_are_not_sent(frontend: Any) -> None:
    """Half a character is held back by the detokenizer."""
    engine = frontend.engine

    def answer(request: Any) -> None:
        engine.admit(request)
        engine.text(request.key, "")
        engine.text(request.key, "\N{GRINNING FACE}")
        engine.text(request.key, "", finish_reason=engine.LENGTH)
        engine.finish(request.key)

    engine.answers = answer
    events = events_of((await frontend.post(PATH, {"prompt": "a", "stream": True})).text)
    said = [(e["choices"][0]["text"], e["choices"][0]["finish_reason"]) for e in events]
    assert said == [("\N{GRINNING FACE}", None), ("", "length")]


async def test_parameters_reach_the_engine_as_they_were_given(frontend: Any) -> None:
    given = {
        "n": 2,
        "max_tokens": 7,
        "min_tokens": 3,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 1.5,
        "seed": 42,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "priority": -3,
        "cache_salt": "mine",
        "add_special_tokens": False,
    }
    lists = {"stop": ["x", "y"], "stop_token_ids": [5, 6], "logit_bias": {"7": 2}, "logprobs": 3}
    response = await frontend.post(PATH, {"prompt": "a"} | given | lists)
    assert response.status_code == 200
    options = (await frontend.engine.next_submit()).options
    assert {name: getattr(options, name) for name in given} == given
    assert options.stop == ("x", "y")
    assert options.stop_token_ids == (5, 6)
    assert options.logit_bias == ((7, 2.0),)
    assert options.num_logprobs == 3


async def test_without_parameters_the_model_decides(frontend: Any) -> None:
    await frontend.post(PATH, {"prompt": "a"})
    options = (await frontend.engine.next_submit()).options
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "add_special_tokens")
    assert {getattr(options, name) for name in names} == {None}
    assert (options.n, options.num_logprobs, options.stop) == (1, -1, ())
