"""Answers of /v1/chat/completions, in OpenAI's shape."""

from typing import Any

from tokenreel.frontend.answer import Answer, ending, logprob
from tokenreel.frontend.engine_call import Choice
from tokenreel.messages.outputs import TextChunk, TokenLogprob


class ChatAnswer(Answer):
    ID_PREFIX = "chatcmpl-"
    OBJECT = "chat.completion"
    STREAMED_OBJECT = "chat.completion.chunk"

    def opening(self, num_choices: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return b"".join([self.to_event(_streamed(i, delta)) for i in range(num_choices)])

    def final_events(self, choice: Choice, chunk: TextChunk) -> bytes:
        last_event = self.to_event(_streamed(choice.index, {}) | ending(chunk))
        if not chunk.text and not chunk.logprobs:
            return last_event
        streamed = self.streamed_choice(choice.index, chunk.text, chunk.logprobs)
        return self.to_event(streamed) + last_event

    def streamed_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None
    ) -> dict[str, Any]:
        streamed = _streamed(index, {"content": text})
        if logprobs:
            streamed["logprobs"] = _logprobs(logprobs)
        return streamed

    def whole_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None, last: TextChunk
    ) -> dict[str, Any]:
        shown = None if logprobs is None else _logprobs(logprobs)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": shown} | ending(last)


def _streamed(index: int, delta: dict[str, str]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _logprobs(entries: list[TokenLogprob]) -> dict[str, Any]:
    return {"content": [_shown(entry) for entry in entries], "refusal": None}


def _shown(entry: TokenLogprob) -> dict[str, Any]:
    top = [_token(text, value, data) for text, value, data in entry.top]
    return _token(entry.token, entry.logprob, entry.bytes) | {"top_logprobs": top}


def _token(text: str, value: float, data: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": logprob(value), "bytes": list(data)}
