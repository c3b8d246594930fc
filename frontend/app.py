"""The ASGI application: routes, the API key, and every error in OpenAI's shape."""

import hashlib
import hmac
import traceback

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenreel.actors.runtime.clock import Clock
from tokenreel.frontend.engine_client import EngineClient
from tokenreel.frontend.errors import ApiError
from tokenreel.frontend.routes import make_routes
from tokenreel.messages.options import EngineOptions


def make_app(engine: EngineClient, options: EngineOptions, clock: Clock) -> Starlette:
    middleware = []
    if options.api_key is not None:
        middleware.append(Middleware(RequireApiKey, options.api_key))
    app = Starlette(
        routes=make_routes(engine, options, clock),
        middleware=middleware,
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_exception,
            Exception: _on_exception,
        },
    )
    app.router.redirect_slashes = False
    return app


class RequireApiKey:
    """Lets nobody at /v1/ without `Authorization: Bearer KEY`."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/") and not self._may(scope):
            await _to_response(_unauthorized())(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                # Digests have one length, so that the comparison takes one time.
                is_right = hmac.compare_digest(_digest(key.strip()), self._digest)
                return is_right and scheme.lower() == b"bearer"
        return False


def _unauthorized() -> ApiError:
    message = "the API key is missing or wrong: send the header 'Authorization: Bearer KEY'"
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


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
