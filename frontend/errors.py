"""Errors as OpenAI's clients expect them: one JSON shape, with the status that fits."""

from collections.abc import Mapping

import msgspec

from tokenreel.frontend.engine_call import (
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    RequestFailed,
    RequestRefused,
)

RETRY_AFTER_S = 1
"""What a client is told to wait after a 429 or 503, in seconds."""

_encoder = msgspec.json.Encoder()


class ApiError(Exception):
    """An answer other than success. `param` names the field at fault, if one is; `code` is a
    stable word for programs, `message` a sentence for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))

    @property
    def body(self) -> bytes:
        return _encoder.encode(
            {
                "error": {
                    "message": self.message,
                    "type": _type_of(self.status),
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: `param` breaks a rule, which `message` states."""
    return ApiError(400, message, param=param, code=code)


def to_api_error(error: EngineError) -> ApiError:
    """What an HTTP client is told when the engine does not serve its request."""
    if isinstance(error, RequestRefused):
        status = error.status if 400 <= error.status <= 599 else 500
        return ApiError(status, str(error), code=error.code, param=error.param)
    if isinstance(error, EngineOverloaded):
        return ApiError(429, str(error), code="too_many_requests")
    if isinstance(error, EngineUnavailable):
        return ApiError(503, str(error), code=error.reason)
    if isinstance(error, RequestFailed):
        return ApiError(500, str(error), code=error.code)
    return ApiError(500, str(error), code="internal_error")
