"""The web application of the view: the page's files, and the JSON API under it. Reads only.

Nothing here computes: questions go to `Recorded` on one thread, at most MAX_QUESTIONS at a time.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenreel.frontend.errors import ApiError
from tokenreel.frontend.host_check import HostCheck
from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.reading.journal import JournalMissing
from tokenreel.tools.replay.view.assets import read_assets
from tokenreel.tools.replay.view.recorded import KINDS, MIN_REST_S, NotRecorded, Recorded

MAX_QUESTIONS = 32
"""Waiting for an answer; one more is refused."""
MAX_BINS = 2000
MAX_QUERY_CHARACTERS = 100
MAX_NUMBER = (1 << 63) - 1

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

Answer = Callable[[Request], Any]


def make_app(api: "Api", host_check: HostCheck) -> ASGIApp:
    routes = [
        Route("/api/run", api.answering(api.run)),
        Route("/api/steps", api.answering(api.steps)),
        Route("/api/step/{step}", api.answering(api.step)),
        Route("/api/requests", api.answering(api.requests)),
        Route("/api/request/{request_id:path}", api.answering(api.request)),
        Route("/api/next", api.answering(api.next)),
    ]
    for path, (content, media_type) in read_assets().items():
        routes.append(Route(path, _file(content, media_type)))
    app = Starlette(
        routes=routes,
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_exception},
    )
    app.router.redirect_slashes = False
    return Guard(app, host_check)


class Guard:
    """Every answer carries the security headers; whoever calls this server by a name that is not
    its own gets none."""

    def __init__(self, app: ASGIApp, host_check: HostCheck) -> None:
        self._app = app
        self._host_check = host_check
        self._headers = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        if scope["type"] == "http" and not self._host_check.allows(scope):
            error = ApiError(421, "this is not a name of this machine", code="wrong_host")
            await _to_response(error)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


class Api:
    """What each URL below /api/ asks."""

    def __init__(self, open_recorded: Callable[[], Recorded]) -> None:
        """`open_recorded` is called, and its answers are made, on a thread of this object's own."""
        self._open_recorded = open_recorded
        self._opened: Recorded | None = None
        self._thread = ThreadPoolExecutor(1, "recorded")
        self._num_questions = 0

    async def follow(self) -> None:
        """Opens the journal as soon as it is there, and keeps up with it as long as it grows."""
        loop = asyncio.get_running_loop()
        while (rest_s := await loop.run_in_executor(self._thread, self._look)) is not None:
            await asyncio.sleep(rest_s)

    def answering(self, answer: Answer) -> Callable[[Request], Any]:
        """`answer` on the one thread; what it cannot answer is told in one line."""

        async def endpoint(request: Request) -> Response:
            if self._num_questions >= MAX_QUESTIONS:
                message = f"{MAX_QUESTIONS} questions wait for an answer already"
                raise ApiError(503, message, code="overloaded")
            self._num_questions += 1
            try:
                loop = asyncio.get_running_loop()
                body = await loop.run_in_executor(self._thread, self._encoded, answer, request)
            finally:
                self._num_questions -= 1
            return Response(body, media_type="application/json")

        return endpoint

    def run(self, request: Request) -> Any:
        return self._recorded.run()

    def steps(self, request: Request) -> Any:
        asked = request.query_params
        first, last = _number(asked, "from"), _number(asked, "until")
        num_bins = _number(asked, "bins")
        if first > last or not 1 <= num_bins <= MAX_BINS:
            raise ApiError(400, f"from <= until, and 1 to {MAX_BINS} bins", code="bad_range")
        return self._recorded.bins(first, last, num_bins)

    def step(self, request: Request) -> Any:
        return self._recorded.step(_number(request.path_params, "step"))

    def requests(self, request: Request) -> Any:
        return self._recorded.find_requests(_text(request.query_params, "query"))

    def request(self, request: Request) -> Any:
        return self._recorded.request(_text(request.path_params, "request_id"))

    def next(self, request: Request) -> Any:
        kind = request.query_params.get("kind", "")
        direction = request.query_params.get("direction", "next")
        if kind not in KINDS or direction not in ("next", "previous"):
            kinds = ", ".join(KINDS)
            message = f"kind is one of {kinds}; direction is next or previous"
            raise ApiError(400, message, code="bad_kind")
        step = _number(request.query_params, "step")
        return self._recorded.next_step(kind, step, direction == "next")

    def _look(self) -> float | None:
        """Seconds until the next look; None if there will be nothing new."""
        try:
            if self._opened is None:
                return MIN_REST_S if self._recorded.is_live else None
            return self._opened.look_again() if self._opened.is_live else None
        except (JournalDamaged, JournalMissing):  # not begun yet, or segments just went for room
            return MIN_REST_S

    @property
    def _recorded(self) -> Recorded:
        if self._opened is None:
            self._opened = self._open_recorded()
        return self._opened

    def _encoded(self, answer: Answer, request: Request) -> bytes:
        try:
            found = answer(request)
        except NotRecorded as error:
            raise ApiError(404, str(error), code="not_recorded") from None
        except (JournalDamaged, JournalMissing) as error:
            raise ApiError(503, str(error), code="journal") from None
        except UsageError as error:
            raise ApiError(400, str(error), code="usage") from None
        return found if isinstance(found, bytes) else msgspec.json.encode(found)


def _number(asked: Mapping[str, str], name: str) -> int:
    text = asked.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ApiError(400, f"{name} is a whole number of at most 19 digits", code="bad_number")
    return min(int(text), MAX_NUMBER)


def _text(asked: Mapping[str, str], name: str) -> str:
    text = asked.get(name, "")
    if len(text) > MAX_QUERY_CHARACTERS:
        message = f"{name} has at most {MAX_QUERY_CHARACTERS} characters"
        raise ApiError(400, message, code="long_query")
    return text


def _file(content: bytes, media_type: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return endpoint


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _to_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _to_response(ApiError(error.status_code, message, headers=error.headers))


def _to_response(error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers, media_type="application/json")
