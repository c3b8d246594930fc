"""One caller's business with the engine: what is due, what has come, and how it failed.

Knows no HTTP and sends nothing: `EngineClient` feeds it, and hears from it when it is over.
"""

import asyncio
from collections.abc import Callable

import msgspec

from tokenreel.messages.ids import RequestKey
from tokenreel.messages.outputs import TextChunk
from tokenreel.messages.sampling import FinishReason


class EngineError(Exception):
    """Why the engine does not, or no longer, serve a call."""


class EngineUnavailable(EngineError):
    """Nobody is served now; `reason` is "starting", "draining" or "engine_dead"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EngineOverloaded(EngineError):
    """As many requests are in flight as may be: try again later."""


class RequestRefused(EngineError):
    """The request itself is at fault. `status` is an HTTP status, as in `RequestRejected`."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class RequestFailed(EngineError):
    """It was accepted and then broke; others were not harmed."""

    def __init__(self, message: str, code: str = "request_failed") -> None:
        super().__init__(message)
        self.code = code


class CallerGone(Exception):
    """The caller left (`EngineCall.cancel`): nobody reads the answer."""


class Choice:
    """How far the text of one choice has come. `index` counts over the whole call."""

    __slots__ = ("index", "is_finished", "num_chars", "num_tokens")

    def __init__(self, index: int) -> None:
        self.index = index
        self.num_chars = 0
        self.num_tokens = 0
        self.is_finished = False


TakeNow = Callable[[Choice, TextChunk], bool]
"""Takes a chunk that is not a choice's last, or declines it."""


class EngineRequest:
    """One prompt of a call, as the engine knows it."""

    __slots__ = (
        "call",
        "choices",
        "has_ended",
        "is_aborted",
        "is_admitted",
        "key",
        "num_cached_tokens",
        "num_unfinished",
    )

    def __init__(self, key: RequestKey, call: "EngineCall", first_index: int, n: int) -> None:
        self.key = key
        self.call = call
        self.choices = [Choice(first_index + i) for i in range(n)]
        self.num_unfinished = n
        self.num_cached_tokens = 0
        self.is_admitted = False
        self.is_aborted = False
        self.has_ended = False
        """The engine is through with it: it was rejected or finished, and its credit is back."""

    @property
    def may_be_running(self) -> bool:
        return self.num_unfinished > 0 and not self.has_ended


class EngineCall:
    """One or more prompts submitted together: they are answered together or fail together.

    Await `admitted`, then either `next_chunks` until it returns nothing, or `all_chunks`. Each
    raises `EngineError`, or `CallerGone` after `cancel`. `close` at the end, however it came: it
    aborts what still runs. While `next_chunks` waits, its `take_now` is offered each chunk as it
    comes, and what that takes wakes nobody: most tokens cost no turn of the caller's task.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_over: Callable[["EngineCall"], None],
        *,
        is_streaming: bool,
        max_pending_chunks: int,
    ) -> None:
        """`on_over` is called when nothing more is wanted of the engine, and once more when the
        call is closed after a failure: it aborts the requests that may still run."""
        self.requests: list[EngineRequest] = []
        self.is_closed = False
        self.failure: EngineError | CallerGone | None = None
        self.num_prompt_tokens = 0
        self._loop = loop
        self._on_over = on_over
        self.is_streaming = is_streaming
        self._max_pending_chunks = max_pending_chunks
        self._num_unadmitted = 0
        self._num_unfinished = 0
        self._pending: list[tuple[Choice, TextChunk]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._take_now: TakeNow | None = None

    async def admitted(self) -> None:
        """Return when the engine has accepted every prompt."""
        while self._num_unadmitted and self.failure is None:
            await self._wait()
        if self.failure is not None:
            raise self.failure

    async def next_chunks(self, take_now: TakeNow | None = None) -> list[tuple[Choice, TextChunk]]:
        """What has come since the last call, at least one chunk, and `take_now` did not take;
        empty when all has come. `take_now` must not raise; it may decline (False) at any time."""
        while not self._pending:
            if self.failure is not None:
                raise self.failure
            if not self._num_unfinished:
                return []
            self._take_now = take_now
            try:
                await self._wait()
            finally:
                self._take_now = None
        chunks, self._pending = self._pending, []
        return chunks

    async def all_chunks(self) -> list[tuple[Choice, TextChunk]]:
        """Everything, once it has all come."""
        while self._num_unfinished and self.failure is None:
            await self._wait()
        if self.failure is not None:
            raise self.failure
        chunks, self._pending = self._pending, []
        return chunks

    def fail(self, error: EngineError | CallerGone, *, drop_pending: bool = False) -> None:
        """End it: who waits sees `error`, after the chunks that have come unless dropped."""
        if self.is_over:
            return
        self.failure = error
        if drop_pending:
            self._pending.clear()
        self._on_over(self)
        self._wake()

    def cancel(self) -> None:
        """The caller left."""
        self.fail(CallerGone("the caller left"), drop_pending=True)

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._pending.clear()
        self._on_over(self)

    @property
    def is_over(self) -> bool:
        """Nothing that comes now is wanted."""
        return self.is_closed or self.failure is not None

    @property
    def num_choices(self) -> int:
        return sum(len(request.choices) for request in self.requests)

    @property
    def num_completion_tokens(self) -> int:
        return sum(choice.num_tokens for request in self.requests for choice in request.choices)

    @property
    def num_cached_tokens(self) -> int:
        return sum(request.num_cached_tokens for request in self.requests)

    # What follows is for the client.

    def add_request(self, key: RequestKey, n: int) -> EngineRequest:
        request = EngineRequest(key, self, len(self.requests) * n, n)
        self.requests.append(request)
        self._num_unadmitted += 1
        self._num_unfinished += n
        return request

    def take_admission(self, request: EngineRequest, num_prompt_tokens: int) -> None:
        if request.is_admitted:
            return
        request.is_admitted = True
        self.num_prompt_tokens += num_prompt_tokens
        self._num_unadmitted -= 1
        if not self._num_unadmitted:
            self._wake()

    def take_chunk(self, request: EngineRequest, chunk: TextChunk) -> bool:
        """False if the chunk was dropped: it fits nothing, or nobody waits for it any more."""
        if self.is_over:
            return False
        if not 0 <= chunk.choice < len(request.choices):
            return False
        choice = request.choices[chunk.choice]
        if choice.is_finished:
            return False
        if chunk.char_offset != choice.num_chars:
            if chunk.char_offset > choice.num_chars:
                self.fail(RequestFailed("a part of the output was lost", "output_lost"))
                return False
            chunk = _without_overlap(choice, chunk)
        if chunk.finish_reason is FinishReason.ERROR or chunk.finish_reason is FinishReason.ABORT:
            # It does not count as finished: if the detokenizer broke, the engine still runs it.
            self.fail(RequestFailed(chunk.error or "the engine ended the request early"))
            return True
        self._append(request, choice, chunk)
        return True

    def _append(self, request: EngineRequest, choice: Choice, chunk: TextChunk) -> None:
        choice.num_chars += len(chunk.text)
        choice.num_tokens = chunk.num_tokens
        if chunk.num_cached_tokens > request.num_cached_tokens and chunk.choice == 0:
            request.num_cached_tokens = chunk.num_cached_tokens
        if chunk.finish_reason is not None:
            choice.is_finished = True
            request.num_unfinished -= 1
            self._num_unfinished -= 1
        elif self._take_now is not None and not self._pending and self._take_now(choice, chunk):
            return
        self._pending.append((choice, chunk))
        if self.is_streaming:
            if len(self._pending) > self._max_pending_chunks:
                self.fail(self._overflow(), drop_pending=True)
            self._wake()
        elif not self._num_unfinished:
            self._wake()

    def _overflow(self) -> RequestFailed:
        limit = self._max_pending_chunks
        message = f"the client reads too slowly: more than {limit} chunks were waiting for it"
        return RequestFailed(message, "slow_reader")

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _without_overlap(choice: Choice, chunk: TextChunk) -> TextChunk:
    """What of a chunk has not come before."""
    logprobs = chunk.logprobs
    if logprobs is not None:
        num_new_tokens = max(chunk.num_tokens - choice.num_tokens, 0)
        logprobs = logprobs[len(logprobs) - num_new_tokens :] if num_new_tokens else []
    return msgspec.structs.replace(
        chunk,
        char_offset=choice.num_chars,
        text=chunk.text[choice.num_chars - chunk.char_offset :],
        num_tokens=max(chunk.num_tokens, choice.num_tokens),
        logprobs=logprobs,
    )
