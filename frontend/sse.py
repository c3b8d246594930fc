"""Streamed answers: server-sent events, written straight to the server as they come."""

from starlette.types import Scope, Send

from tokenreel.frontend.answer import Answer
from tokenreel.frontend.engine_call import Choice, EngineCall, EngineError
from tokenreel.frontend.errors import to_api_error
from tokenreel.frontend.http_server import exchange_of
from tokenreel.messages.outputs import TextChunk

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


async def stream_answer(call: EngineCall, answer: Answer, scope: Scope, send: Send) -> None:
    """Answer an admitted call. What has come meanwhile goes out in one piece. A failure from here
    on is told in band, without the closing [DONE]: the status has been sent."""
    exchange = exchange_of(scope)

    def write_now(choice: Choice, chunk: TextChunk) -> bool:
        if not exchange.may_write or chunk.logprobs:
            return False
        if event := answer.plain_event(choice, chunk):
            exchange.write(event)
        return True

    await send(_START)
    opening = answer.opening(call.num_choices)
    if opening:
        await send({"type": "http.response.body", "body": opening, "more_body": True})
    try:
        while chunks := await call.next_chunks(write_now):
            events = b"".join([answer.event(choice, chunk) for choice, chunk in chunks])
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
        last = answer.closing(call)
    except EngineError as error:
        last = b"data: %b\n\n" % to_api_error(error).body
    await send({"type": "http.response.body", "body": last, "more_body": False})
