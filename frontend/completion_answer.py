"""Answers of /v1/completions, in OpenAI's shape."""

from typing import Any

from tokenreel.frontend.answer import Answer, ending, logprob
from tokenreel.frontend.engine_call import Choice
from tokenreel.messages.outputs import TextChunk, TokenLogprob


class CompletionAnswer(Answer):
    ID_PREFIX = "cmpl-"
    OBJECT = "text_completion"
    STREAMED_OBJECT = "text_completion"

    def __init__(self, unique: str, created: int, model: str, **options: bool) -> None:
        super().__init__(unique, created, model, **options)
        # By choice: the characters that its log-probabilities have spoken of.
        self._text_offsets: dict[int, int] = {}

    def opening(self, num_choices: int) -> bytes:
        return b""

    def final_events(self, choice: Choice, chunk: TextChunk) -> bytes:
        streamed = self.streamed_choice(choice.index, chunk.text, chunk.logprobs)
        return self.to_event(streamed | ending(chunk))

    def streamed_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, logprobs) if logprobs else None,
            "finish_reason": None,
        }

    def whole_choice(
        self, index: int, text: str, logprobs: list[TokenLogprob] | None, last: TextChunk
    ) -> dict[str, Any]:
        shown = None if logprobs is None else self._logprobs(index, logprobs)
        return {"index": index, "text": text, "logprobs": shown} | ending(last)

    def _logprobs(self, index: int, entries: list[TokenLogprob]) -> dict[str, list[Any]]:
        """`text_offset` counts from the start of the choice's own text, over its tokens."""
        text_offset = []
        offset = self._text_offsets.get(index, 0)
        for entry in entries:
            text_offset.append(offset)
            offset += len(entry.token)
        self._text_offsets[index] = offset
        return {
            "tokens": [entry.token for entry in entries],
            "token_logprobs": [logprob(entry.logprob) for entry in entries],
            "top_logprobs": [_top_logprobs(entry) for entry in entries],
            "text_offset": text_offset,
        }


def _top_logprobs(entry: TokenLogprob) -> dict[str, float]:
    """By token text; the chosen token is always there. Of tokens that read alike the likeliest
    counts."""
    by_text: dict[str, float] = {}
    for text, value, _ in entry.top:
        by_text.setdefault(text, logprob(value))
    by_text.setdefault(entry.token, logprob(entry.logprob))
    return by_text
