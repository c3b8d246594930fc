"""Streams are read right however they are cut, whoever wrote them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.tools.bench.client.answers import StreamedAnswer, WholeAnswer

EVENT = b'data: {"choices":[{"index":0,"text":"data: {\\n\\n"}],"usage":null}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = EVENT * 3 + USAGE + DONE


def answer_of(*pieces: bytes, status: int = 200) -> StreamedAnswer:
    """Each piece arrives a second after the one before."""
    answer = StreamedAnswer()
    answer.status = status
    for second, piece in enumerate(pieces):
        answer.feed(piece, float(second))
    return answer


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=12), st.booleans())
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts: list[int], is_crlf: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if is_crlf else STREAM
    edges = [0, *sorted(cuts), len(stream)]
    answer = answer_of(*(stream[a:b] for a, b in zip(edges, edges[1:], strict=False)))
    finished = answer.finish()
    assert finished.failure is None
    assert len(answer.stamps) == 3
    assert (finished.usage.completion_tokens, finished.usage.num_cached_tokens) == (5, 4)


def test_an_event_has_the_time_at_which_its_last_byte_came() -> None:
    answer = answer_of(EVENT, EVENT[:30], EVENT[30:] + EVENT, USAGE, DONE)
    answer.finish()
    assert list(answer.stamps) == [0.0, 2.0, 2.0]


def test_without_usage_the_events_are_counted() -> None:
    answer = answer_of(EVENT, EVENT, DONE)
    assert not answer.finish().has_usage
    assert len(answer.stamps) == 2


def test_comments_and_other_fields_are_no_tokens() -> None:
    answer = answer_of(b": ping\n\n", b"event: x\ndata:" + EVENT[5:], b"id: 3\n\n", DONE)
    assert answer.finish().failure is None
    assert len(answer.stamps) == 1


def test_an_event_may_have_an_id_and_its_usage_nothing_of_the_prompt() -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": null, "completion_tokens": 1}}'
    finished = answer_of(EVENT, usage + b"\nid: 7\n\n", DONE).finish()
    assert (finished.failure, finished.usage.completion_tokens) == (None, 1)


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ([EVENT], "the stream ended without [DONE]"),
        ([DONE], "the stream held no token"),
        ([USAGE, DONE], "the stream held no token"),
        ([EVENT, b"data: {broken\n\n", DONE], "an event is not the JSON that was expected"),
        (
            [EVENT, b'data: {"error": {"message": "m", "code": "output_lost"}}\n\n'],
            "error in the stream: output_lost",
        ),
        (
            [EVENT, b'data: {"error": {"code": "first"}}\n\ndata: {"error": 2}\n\n', USAGE, DONE],
            "error in the stream: first",
        ),
        ([EVENT, b'error: {"code": 500, "message": "m"}\n\n'], "the stream ended without [DONE]"),
    ],
)
def test_a_stream_that_is_not_whole_has_failed(pieces: list[bytes], failure: str) -> None:
    assert answer_of(*pieces).finish().failure == failure


def test_a_refusal_is_told_by_status_and_code() -> None:
    body = b'{"error": {"message": "m", "type": "rate_limit_error", "code": "too_many_requests"}}'
    assert answer_of(body, status=429).finish().failure == "HTTP 429 too_many_requests"
    assert answer_of(b"<html>", status=502).finish().failure == "HTTP 502"


def test_a_whole_answer_has_its_usage_and_one_time() -> None:
    answer = WholeAnswer()
    answer.status = 200
    answer.feed(b'{"choices": [], "usage": {"prompt', 1.0)
    answer.feed(b'_tokens": 3, "completion_tokens": 9}}', 2.0)
    finished = answer.finish()
    assert (finished.failure, finished.usage.completion_tokens) == (None, 9)
    assert list(answer.stamps) == [2.0]


def test_a_whole_answer_whose_tokens_nobody_can_count_has_failed() -> None:
    answer = WholeAnswer()
    answer.status = 200
    answer.feed(b'{"choices": [{"text": "one two three"}]}', 1.0)
    assert answer.finish().failure == "the server tells no usage"
