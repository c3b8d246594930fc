"""The ASGI application: routes, the API key, and every error in OpenAI's shape."""

import base64
import binascii
import hashlib
import hmac
import traceback

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenreel.actors.runtime.clock import Clock
from tokenreel.frontend.debug_view import PREFIX as DEBUG
from tokenreel.frontend.debug_view import DebugView
from tokenreel.frontend.engine_client import EngineClient
from tokenreel.frontend.errors import ApiError
from tokenreel.frontend.routes import make_routes
from tokenreel.messages.options import EngineOptions


def make_app(
    engine: EngineClient,
    options: EngineOptions,
    clock: Clock,
    debug_view: DebugView | None = None,
) -> Starlette:
    middleware = []
    if options.api_key is not None:
        middleware.append(Middleware(RequireApiKey, options.api_key))
    app = Starlette(
        routes=[*make_routes(engine, options, clock), *_debug_routes(debug_view)],
        middleware=middleware,
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_exception,
            Exception: _on_exception,
        },
    )
    app.router.redirect_slashes = False
    return app


def _debug_routes(debug_view: DebugView | None) -> list[Route]:
    if debug_view is None:
        return []
    return [Route(path, debug_view, methods=["GET"]) for path in (DEBUG, DEBUG + "/{path:path}")]


class RequireApiKey:
    """Lets nobody at /v1/ without `Authorization: Bearer KEY`, and nobody at /debug without that or
    the key as a password, which is what a browser asks for."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        is_debug = path == DEBUG or path.startswith(f"{DEBUG}/")
        if (is_debug or path.startswith("/v1/")) and not self._may(scope, is_debug):
            await _to_response(_unauthorized(is_debug))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may(self, scope: Scope, takes_password: bool) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, credentials = value.partition(b" ")
                key = credentials.strip()
                is_known = scheme.lower() == b"bearer"
                if takes_password and scheme.lower() == b"basic":
                    key, is_known = _password(key), True
                # Digests have one length, so that the comparison takes one time.
                return hmac.compare_digest(_digest(key), self._digest) and is_known
        return False


def _password(credentials: bytes) -> bytes:
    """Of HTTP's Basic scheme, whatever the name beside it."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _unauthorized(takes_password: bool) -> ApiError:
    message = "the API key is missing or wrong: send the header 'Authorization: Bearer KEY'"
    asks_for = 'Basic realm="the API key as password", charset="UTF-8"'
    headers = {"www-authenticate": asks_for if takes_password else "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _to_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 404:
        return _to_response(ApiError(404, f"there is no {path} here", code="unknown_url"))
    if error.status_code == 405:
        message = f"{path} does not take {method}"
        headers = error.headers
        return _to_response(ApiError(405, message, code="method_not_allowed", headers=headers))
    return _to_response(ApiError(error.status_code, error.detail, headers=error.headers))


async def _on_exception(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return _to_response(ApiError(500, "the server made a mistake", code="internal_error"))


def _to_response(error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers, media_type="application/json")
