"""The endpoints: what each URL does with a request."""

import os
from collections.abc import Callable
from importlib.metadata import version

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tokenreel.actors.runtime.clock import Clock
from tokenreel.frontend.answer import Answer
from tokenreel.frontend.chat_answer import ChatAnswer
from tokenreel.frontend.completion_answer import CompletionAnswer
from tokenreel.frontend.engine_call import CallerGone, EngineCall, EngineError, EngineUnavailable
from tokenreel.frontend.engine_client import EngineClient
from tokenreel.frontend.errors import to_api_error
from tokenreel.frontend.http_server import exchange_of
from tokenreel.frontend.request_body import read_body
from tokenreel.frontend.schemas import ParsedRequest, parse_chat, parse_completion, unknown_model
from tokenreel.frontend.sse import stream_answer
from tokenreel.messages.options import EngineOptions

Parse = Callable[[bytes, str], ParsedRequest]


def make_routes(engine: EngineClient, options: EngineOptions, clock: Clock) -> list[Route]:
    completions = Generation(engine, options, clock, parse_completion, CompletionAnswer)
    chat = Generation(engine, options, clock, parse_chat, ChatAnswer)
    information = Information(engine, options, clock)
    return [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", information.models),
        Route("/v1/models/{model_id:path}", information.model),
        Route("/health", information.health),
        Route("/version", information.version),
    ]


class Generation:
    """POST: a prompt in, text out. An ASGI application of its own, for its stream's sake."""

    def __init__(
        self,
        engine: EngineClient,
        options: EngineOptions,
        clock: Clock,
        parse: Parse,
        answer_type: type[Answer],
    ) -> None:
        self._engine = engine
        self._options = options
        self._clock = clock
        self._parse = parse
        self._answer_type = answer_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = await self._begin(scope, receive)
        if begun is None:
            return
        call, answer = begun
        exchange = exchange_of(scope)
        exchange.when_left(call.cancel)
        try:
            await _finish(call, answer, scope, send)
        except CallerGone:
            pass
        except EngineError as error:
            raise to_api_error(error) from None
        finally:
            call.close()
            exchange.when_left(None)

    async def _begin(self, scope: Scope, receive: Receive) -> tuple[EngineCall, Answer] | None:
        """None if the client left before the end of its body. The body and its prompts are not
        kept: many requests may wait, and long."""
        body = await read_body(scope, receive, self._options.max_body_bytes)
        if body is None:
            return None
        request = self._parse(body, self._options.served_model_name)
        try:
            call = self._engine.submit(
                request.prompts, request.options, is_streaming=request.stream
            )
        except EngineError as error:
            raise to_api_error(error) from None
        answer = self._answer_type(
            _answer_id(call),
            self._clock.wall_ns() // 1_000_000_000,
            self._options.served_model_name,
            has_logprobs=request.options.num_logprobs >= 0,
            include_usage=request.include_usage,
        )
        return call, answer


def _answer_id(call: EngineCall) -> str:
    """Unique, and with the key under which the journal knows the request: the first one, if the
    call has several prompts; theirs count up from it."""
    epoch, number = call.requests[0].key
    return f"{epoch}.{number}-{os.urandom(8).hex()}"


async def _finish(call: EngineCall, answer: Answer, scope: Scope, send: Send) -> None:
    await call.admitted()
    if call.is_streaming:
        await stream_answer(call, answer, scope, send)
    else:
        await send_json(send, answer.whole(call, await call.all_chunks()))


class Information:
    """GET: what is served here, and whether it works."""

    def __init__(self, engine: EngineClient, options: EngineOptions, clock: Clock) -> None:
        self._engine = engine
        self._model_id = options.served_model_name
        self._created = clock.wall_ns() // 1_000_000_000
        self._version = version("tokenreel")

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        model_id = request.path_params["model_id"]
        if model_id != self._model_id:
            raise unknown_model(model_id, self._model_id)
        return _json(self._card())

    async def health(self, request: Request) -> Response:
        try:
            self._engine.check_available()
        except EngineUnavailable as error:
            return _json({"status": error.reason, "reason": str(error)}, 503)
        return _json({"status": "ready"})

    async def version(self, request: Request) -> Response:
        return _json({"version": self._version})

    def _card(self) -> dict[str, object]:
        facts = self._engine.facts
        return {
            "id": self._model_id,
            "object": "model",
            "created": self._created,
            "owned_by": "tokenreel",
            "max_model_len": facts.max_model_len if facts else None,
        }


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def send_json(send: Send, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
