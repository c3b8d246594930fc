"""What completions and chat completions have in common on the wire: envelope, usage, events.

An `Answer` is made for one HTTP call and turns its chunks of text into JSON, whole or as
server-sent events. Writing one small event is what a server of tokens does most, so whatever does
not change from one to the next is encoded once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from tokenreel.frontend.engine_call import Choice, EngineCall
from tokenreel.messages.outputs import TextChunk, TokenLogprob
from tokenreel.messages.sampling import FinishReason

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have (vLLM's choice)."""
DONE_EVENT = b"data: [DONE]\n\n"

encode_json = msgspec.json.Encoder().encode
_PLACEHOLDER = "\N{SYMBOL FOR SUBSTITUTE}"


class Answer(ABC):
    """How one call is answered."""

    ID_PREFIX: ClassVar[str]
    OBJECT: ClassVar[str]
    STREAMED_OBJECT: ClassVar[str]

    def __init__(
        self,
        unique: str,
        created: int,
        model: str,
        *,
        has_logprobs: bool = False,
        include_usage: bool = False,
    ) -> None:
        self._envelope = {"id": self.ID_PREFIX + unique, "created": created, "model": model}
        self._has_logprobs = has_logprobs
        self._include_usage = include_usage
        # By choice: what stands before and after the text of its plain events.
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    @abstractmethod
    def opening(self, num_choices: int) -> bytes:
        """The events that come before any text."""

    @abstractmethod
    def final_events(self, choice: Choice, chunk: TextChunk) -> bytes:
        """The events for a choice's last chunk."""

    @abstractmethod
    def streamed_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None
    ) -> dict[str, Any]:
        """A choice's share of a streamed chunk that is not its last."""

    @abstractmethod
    def whole_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None, last: TextChunk
    ) -> dict[str, Any]:
        """A choice of an answer that is not streamed."""

    def event(self, choice: Choice, chunk: TextChunk) -> bytes:
        """The server-sent events that say `chunk`; none if there is nothing to say."""
        if chunk.finish_reason is not None:
            return self.final_events(choice, chunk)
        if chunk.logprobs:
            streamed = self.streamed_choice(choice.index, chunk.text, chunk.logprobs)
            return self.to_event(streamed)
        return self.plain_event(choice, chunk)

    def plain_event(self, choice: Choice, chunk: TextChunk) -> bytes:
        """As `event`, of a chunk that is not the last and has no log-probabilities."""
        if not chunk.text:
            return b""
        frame = self._frames.get(choice.index) or self._make_frame(choice.index)
        return b"%b%b%b" % (frame[0], encode_json(chunk.text), frame[1])

    def closing(self, call: EngineCall) -> bytes:
        """The events that come after all text."""
        if not self._include_usage:
            return DONE_EVENT
        chunk = self._chunk([])
        chunk["usage"] = usage(call)
        return b"data: %b\n\n%b" % (encode_json(chunk), DONE_EVENT)

    def whole(self, call: EngineCall, chunks: Sequence[tuple[Choice, TextChunk]]) -> bytes:
        """The body of an answer that is not streamed, from all chunks of the call."""
        by_choice: dict[int, list[TextChunk]] = {}
        for choice, chunk in chunks:
            by_choice.setdefault(choice.index, []).append(chunk)
        choices = [self._whole_choice(index, by_choice[index]) for index in sorted(by_choice)]
        body = self._envelope | {"object": self.OBJECT, "choices": choices, "usage": usage(call)}
        return encode_json(body)

    def to_event(self, choice: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % encode_json(self._chunk([choice]))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._envelope | {"object": self.STREAMED_OBJECT, "choices": choices}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _make_frame(self, index: int) -> tuple[bytes, bytes]:
        event = self.to_event(self.streamed_choice(index, _PLACEHOLDER, None))
        before, _, after = event.rpartition(encode_json(_PLACEHOLDER))
        frame = self._frames[index] = before, after
        return frame

    def _whole_choice(self, index: int, chunks: list[TextChunk]) -> dict[str, Any]:
        text = "".join([chunk.text for chunk in chunks])
        logprobs = None
        if self._has_logprobs:
            logprobs = [entry for chunk in chunks for entry in chunk.logprobs or ()]
        return self.whole_choice(index, text, logprobs, chunks[-1])


def ending(chunk: TextChunk) -> dict[str, Any]:
    """How a choice ended. `stop_reason`, which OpenAI does not have, is the stop string or token
    id that matched."""
    word = "length" if chunk.finish_reason is FinishReason.LENGTH else "stop"
    return {"finish_reason": word, "stop_reason": chunk.stop_reason}


def usage(call: EngineCall) -> dict[str, Any]:
    num_prompt_tokens = call.num_prompt_tokens
    num_completion_tokens = call.num_completion_tokens
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": call.num_cached_tokens},
    }


def logprob(value: float) -> float:
    return max(value, LOWEST_LOGPROB)
