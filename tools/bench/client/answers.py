"""The bodies of answers: a stream of server-sent events, or one JSON object."""

from array import array
from typing import Any

import msgspec

MAX_REASON_CHARS = 100
ERROR_EVENT = b'data: {"error"'


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptDetails | None = None

    @property
    def num_cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class Body(msgspec.Struct):
    """What counts of an answer, or of one event: OpenAI's, vLLM's and llama.cpp's alike."""

    choices: list[Any] = []
    usage: Usage | None = None
    error: Any = None
    code: Any = None
    """vLLM has put an error's fields at the top."""


_decoder = msgspec.json.Decoder(Body)


class Finished(msgspec.Struct, frozen=True):
    """What became of an answer. Without `has_usage` the server told none."""

    failure: str | None
    usage: Usage
    has_usage: bool


class WholeAnswer:
    """An answer that is not streamed."""

    def __init__(self) -> None:
        self.status = 0
        self.stamps = array("d")
        """When it was there."""
        self._pieces: list[bytes] = []

    def feed(self, body: bytes, at_s: float) -> None:
        self._pieces.append(body)
        self.stamps[:] = array("d", [at_s])

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    def finish(self) -> Finished:
        if self.status != 200:
            return Finished(_refusal(self.status, self.body), Usage(), has_usage=False)
        found = _decode(self.body)
        failure = None
        if found is None:
            failure = "the answer is not the JSON that was expected"
        elif found.error:
            failure = f"error: {_error_code(found.error)}"
        elif found.usage is None:
            failure = "the server tells no usage"
        usage = found.usage if found else None
        return Finished(failure, usage or Usage(), has_usage=usage is not None)


class StreamedAnswer:
    """Server-sent events, of which only the times, the last one and an error are kept.

    An event may carry several tokens, and a server may hold a token back that is no whole
    character: how many tokens there were is what `usage` says, in the last event.
    """

    __slots__ = ("status", "stamps", "is_done", "_error", "_last", "_rest")

    def __init__(self) -> None:
        self.status = 0
        self.stamps = array("d")
        """When each event arrived; events that arrived together have one time."""
        self.is_done = False
        self._error = b""
        self._last = b""
        self._rest = b""

    def feed(self, body: bytes, at_s: float) -> None:
        if self.status != 200:
            self._rest += body
            return
        if self._rest:
            body, self._rest = self._rest + body, b""
        if b"\r" in body:  # JSON has none: this one ends its lines as Windows does.
            body = body.replace(b"\r\n", b"\n")
        if not body.endswith(b"\n\n"):
            body, end, rest = body.rpartition(b"\n\n")
            body, self._rest = body + end, rest
        for event in body.split(b"\n\n"):
            if event.startswith(b"data: {"):
                self.stamps.append(at_s)
                self._last = event
                if not self._error and event.startswith(ERROR_EVENT):
                    self._error = event
            elif event:
                self._feed_other(event, at_s)

    def _feed_other(self, event: bytes, at_s: float) -> None:
        for line in event.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.strip()
            if field == b"data" and value == b"[DONE]":
                self.is_done = True
            elif field in (b"data", b"error") and value:
                self.stamps.append(at_s)
                self._last = b"data:" + value

    def finish(self) -> Finished:
        """To be called once, at the end: takes the event that only tells the usage away."""
        if self.status != 200:
            return Finished(_refusal(self.status, self._rest), Usage(), has_usage=False)
        last = _decode(_data_of(self._last)) if self._last else None
        failure = self._failure(last)
        usage = last.usage if last else None
        if last is not None and not last.choices and self.stamps:
            self.stamps.pop()
        if failure is None and not self.stamps:
            failure = "the stream held no token"
        return Finished(failure, usage or Usage(), has_usage=usage is not None)

    def _failure(self, last: Body | None) -> str | None:
        first = _decode(_data_of(self._error)) if self._error else None
        error = (first and first.error) or (last and last.error)
        if error:
            return f"error in the stream: {_error_code(error)}"
        if self._last and last is None:
            return "an event is not the JSON that was expected"
        return None if self.is_done else "the stream ended without [DONE]"


def _data_of(event: bytes) -> bytes:
    """The JSON of an event; behind its line there may be other fields."""
    return event.partition(b"\n")[0][5:]


def _refusal(status: int, body: bytes) -> str:
    """A status other than 200 as one line of few."""
    found = _decode(body)
    code = _error_code(found.error or found.code) if found else ""
    return f"HTTP {status} {code}".rstrip()


def _error_code(error: Any) -> str:
    """OpenAI's error object, or whatever stands in its place, as a short line."""
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        error = code if isinstance(code, str) else message or code or "unknown"
    return " ".join(str(error or "").split())[:MAX_REASON_CHARS]


def _decode(body: bytes) -> Body | None:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
