"""The frontend's side of the engine: submits requests, hands out what comes back, keeps credits.

Knows no HTTP. Sends through an `EngineLink`, which never waits; is told what arrives by
`on_message`. All methods run on one event loop's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from tokenreel.actors.runtime.channels import ChannelFull, FrameTooLarge
from tokenreel.frontend.engine_call import (
    EngineCall,
    EngineOverloaded,
    EngineRequest,
    EngineUnavailable,
    RequestFailed,
    RequestRefused,
)
from tokenreel.messages.codec import Message
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.lifecycle import ActorDied, DrainRequested, EngineFacts, SystemReady
from tokenreel.messages.outputs import TextEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    RequestAdmitted,
    RequestFinished,
    RequestOptions,
    RequestRejected,
    SubmitRequest,
)

MAX_PENDING_CHUNKS = 1024
"""Chunks of text, per choice, that may wait for a caller who does not take them."""
LAST_TEXT_TIMEOUT_S = 10.0
"""How much later than the end of its request the last text may come: they travel apart."""
CUT_SHORT_TIMEOUT_S = 2.0
"""How long callers have to learn that they were cut short, before the process may leave."""
ABORT_RETRY_S = 0.05


class EngineLink(Protocol):
    """How messages leave; both raise `ChannelFull` or `FrameTooLarge` and never wait."""

    def submit(self, request: SubmitRequest) -> None: ...

    def abort(self, request: AbortRequest) -> None: ...


class Prompt(msgspec.Struct, frozen=True):
    """Exactly one is given."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None


class EngineState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "engine_dead"


class EngineClientStatistics(msgspec.Struct, frozen=True):
    state: str
    max_in_flight: int
    num_in_flight: int
    """Requests whose credit is not back yet."""
    num_open_calls: int
    num_submitted: int
    num_finished: int
    num_rejected: int
    num_aborted: int
    num_overloaded: int
    """Calls refused because there were not enough credits."""
    num_stray: int
    """Messages about nobody here: late, repeated or wrong."""


class EngineClient:
    """`on_drained` hears, once, how many calls were cut short when all have left."""

    def __init__(
        self,
        link: EngineLink,
        loop: asyncio.AbstractEventLoop,
        epoch: int,
        *,
        on_drained: Callable[[int], None] = lambda num_cut_short: None,
        max_pending_chunks: int = MAX_PENDING_CHUNKS,
    ) -> None:
        self.state = EngineState.STARTING
        self.facts: EngineFacts | None = None
        self._link = link
        self._loop = loop
        self._epoch = epoch
        self._on_drained: Callable[[int], None] | None = on_drained
        self._max_pending_chunks = max_pending_chunks
        self._reason = "the engine is starting"
        self._requests: dict[int, EngineRequest] = {}
        """By number: those whose credit is out, or whose last text is still to come."""
        self._calls: dict[EngineCall, None] = {}
        self._unsent_aborts: deque[RequestKey] = deque()
        self._num_in_flight = 0
        self._num_cut_short = 0
        self._num_submitted = 0
        self._num_finished = 0
        self._num_rejected = 0
        self._num_aborted = 0
        self._num_overloaded = 0
        self._num_stray = 0

    def submit(
        self, prompts: Sequence[Prompt], options: RequestOptions, *, is_streaming: bool
    ) -> EngineCall:
        """Send one request per prompt, all or none. Raises `EngineUnavailable`,
        `EngineOverloaded` or `RequestRefused`. Whoever gets a call closes it."""
        self._claim_credits(len(prompts))
        call = EngineCall(
            self._loop,
            self._on_over,
            is_streaming=is_streaming,
            max_pending_chunks=self._max_pending_chunks * len(prompts) * options.n,
        )
        self._calls[call] = None
        for num_sent, prompt in enumerate(prompts):
            try:
                self._send(call, prompt, options)
            except Exception as error:
                # Whatever it was: a credit that goes out with no request never comes back.
                self._num_in_flight -= len(prompts) - num_sent
                call.close()
                raise _refusal(error) from error
        return call

    def check_available(self) -> None:
        """Raises `EngineUnavailable` unless newcomers are served."""
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.state.value, self._reason)

    def on_message(self, message: Message) -> None:
        """Take one message. What makes no sense is counted and dropped."""
        match message:
            case TextEmitted():
                self._on_text(message)
            case RequestAdmitted():
                if (request := self._find(message.key)) is not None:
                    request.call.take_admission(request, message.num_prompt_tokens)
            case RequestFinished():
                if (request := self._find_live(message.key)) is not None:
                    self._on_finished(request)
            case RequestRejected():
                if (request := self._find_live(message.key)) is not None:
                    self._on_rejected(request, message)
            case EngineFacts():
                self.facts = message
            case SystemReady():
                if self.state is EngineState.STARTING:
                    self.state = EngineState.READY
                    self._reason = ""
            case DrainRequested():
                self._drain(message.timeout_s)
            case ActorDied():
                self._on_actor_died(message)
            case _:
                self._num_stray += 1

    def stop(self) -> None:
        """Serve nobody any more, and tell those who still wait."""
        if self.state is not EngineState.DEAD:
            self.state = EngineState.DRAINING
            self._reason = "the server is shutting down"
        self._cut_short()

    def statistics(self) -> EngineClientStatistics:
        return EngineClientStatistics(
            state=self.state.value,
            max_in_flight=self.facts.max_in_flight if self.facts else 0,
            num_in_flight=self._num_in_flight,
            num_open_calls=len(self._calls),
            num_submitted=self._num_submitted,
            num_finished=self._num_finished,
            num_rejected=self._num_rejected,
            num_aborted=self._num_aborted,
            num_overloaded=self._num_overloaded,
            num_stray=self._num_stray,
        )

    def _claim_credits(self, num_requests: int) -> None:
        self.check_available()
        if self.facts is None:
            raise EngineUnavailable("starting", "the engine has not said yet what it can take")
        limit = self.facts.max_in_flight
        if num_requests > limit:
            message = f"{num_requests} prompts in one call; the engine takes at most {limit}"
            raise RequestRefused(400, "too_many_prompts", message, "prompt")
        if self._num_in_flight + num_requests > limit:
            self._num_overloaded += 1
            raise EngineOverloaded(
                f"the engine has {self._num_in_flight} requests in flight and takes at most {limit}"
            )
        self._num_in_flight += num_requests

    def _send(self, call: EngineCall, prompt: Prompt, options: RequestOptions) -> None:
        key = RequestKey(self._epoch, self._num_submitted + 1)
        self._link.submit(
            SubmitRequest(key, options, prompt.text, prompt.token_ids, prompt.messages)
        )
        self._num_submitted += 1
        self._requests[key.number] = call.add_request(key, options.n)

    def _find(self, key: RequestKey) -> EngineRequest | None:
        request = self._requests.get(key.number)
        if request is None or request.key != key:
            self._num_stray += 1
            return None
        return request

    def _find_live(self, key: RequestKey) -> EngineRequest | None:
        request = self._find(key)
        if request is not None and request.has_ended:
            self._num_stray += 1
            return None
        return request

    def _on_text(self, message: TextEmitted) -> None:
        # The one path that every token takes.
        requests, epoch = self._requests, self._epoch
        for chunk in message.chunks:
            frontend_epoch, number = chunk.key
            request = requests.get(number)
            if request is None or frontend_epoch != epoch:
                self._num_stray += 1
                continue
            if not request.call.take_chunk(request, chunk):
                self._num_stray += 1
            elif request.has_ended and not request.num_unfinished:
                del requests[number]

    def _on_finished(self, request: EngineRequest) -> None:
        self._num_finished += 1
        self._end(request)
        if request.num_unfinished and not request.call.is_over:
            # Its last text comes from another process and may be a moment behind.
            self._requests[request.key.number] = request
            self._loop.call_later(LAST_TEXT_TIMEOUT_S, self._give_up_on, request)

    def _on_rejected(self, request: EngineRequest, message: RequestRejected) -> None:
        self._num_rejected += 1
        self._end(request)
        refusal = RequestRefused(message.status, message.code, message.message, message.param)
        request.call.fail(refusal)

    def _end(self, request: EngineRequest) -> None:
        """The engine is through with it: its credit is back."""
        del self._requests[request.key.number]
        request.has_ended = True
        self._num_in_flight -= 1
        self._tell_when_drained()

    def _give_up_on(self, request: EngineRequest) -> None:
        if self._requests.pop(request.key.number, None) is not None:
            request.call.fail(RequestFailed("a part of the output was lost", "output_lost"))

    def _on_over(self, call: EngineCall) -> None:
        for request in call.requests:
            if request.may_be_running and not request.is_aborted:
                request.is_aborted = True
                self._unsent_aborts.append(request.key)
                self._num_aborted += 1
        if self.state is not EngineState.DEAD:
            self._send_aborts()
        if call.is_closed:
            self._calls.pop(call, None)
            self._tell_when_drained()

    def _send_aborts(self) -> None:
        while self._unsent_aborts:
            try:
                self._link.abort(AbortRequest(self._unsent_aborts[0]))
            except ChannelFull:
                self._loop.call_later(ABORT_RETRY_S, self._send_aborts)
                return
            self._unsent_aborts.popleft()

    def _drain(self, timeout_s: float) -> None:
        if self.state in (EngineState.DRAINING, EngineState.DEAD):
            return
        self.state = EngineState.DRAINING
        self._reason = "the server is shutting down"
        self._loop.call_later(timeout_s, self._cut_short)
        self._tell_when_drained()

    def _on_actor_died(self, message: ActorDied) -> None:
        if self.state is EngineState.DEAD:
            return
        self.state = EngineState.DEAD
        self._reason = f"the engine is dead: {message.role} {message.message}"
        self._cut_short()
        self._tell_when_drained()

    def _cut_short(self) -> None:
        open_calls = [call for call in self._calls if call.failure is None]
        self._num_cut_short += len(open_calls)
        for call in open_calls:
            call.fail(EngineUnavailable(self.state.value, self._reason))
        self._loop.call_later(CUT_SHORT_TIMEOUT_S, self._say_drained)

    def _tell_when_drained(self) -> None:
        if self._calls or self.state in (EngineState.STARTING, EngineState.READY):
            return
        # A dead engine gives no credit back.
        if self.state is EngineState.DEAD or not self._num_in_flight:
            self._say_drained()

    def _say_drained(self) -> None:
        if self._on_drained is not None:
            on_drained, self._on_drained = self._on_drained, None
            on_drained(self._num_cut_short)


def _refusal(error: Exception) -> Exception:
    """What a caller is told whose request could not be sent; a mistake of ours stays what it is."""
    match error:
        case ChannelFull():
            return EngineOverloaded(str(error))
        case FrameTooLarge():
            return RequestRefused(413, "request_too_large", str(error))
        case RecursionError():
            return RequestRefused(400, "invalid_value", "the request is nested too deeply")
        case _:
            return error
