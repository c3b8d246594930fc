"""The text of one sequence: tokens in, text that may leave out, until a stop string ends it."""

from tokenreel.actors.text.incremental import IncrementalDetokenizer
from tokenreel.actors.text.stop_strings import StopStringMatcher, compile_stop_strings
from tokenreel.messages.sampling import TextParams


class SequenceText:
    """Tokens after the one that completes a stop string are not looked at; `num_tokens` counts up
    to it. The first `params.min_tokens` tokens complete none."""

    __slots__ = ("_detokenizer", "_matcher", "_min_tokens", "matched", "num_chars", "num_tokens")

    def __init__(self, detokenizer: IncrementalDetokenizer, params: TextParams) -> None:
        self._detokenizer = detokenizer
        self._matcher = (
            StopStringMatcher(
                compile_stop_strings(params.stop),
                includes_match=params.include_stop_str_in_output,
            )
            if params.stop
            else None
        )
        self._min_tokens = params.min_tokens
        self.num_tokens = 0
        self.num_chars = 0
        """Characters that have left."""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def push(self, token_ids: list[int]) -> str:
        """The text that may leave after these tokens."""
        text = ""
        for token_id in token_ids:
            if self.matched is not None:
                break
            self.num_tokens += 1
            text += self._scan(self._detokenizer.push(token_id))
        self.num_chars += len(text)
        return text

    def push_silent(self) -> None:
        """A token that counts, and is no text: a stop token."""
        self.num_tokens += 1

    def finish(self) -> str:
        """The rest, when no token will come; nothing after a match."""
        if self.matched is not None:
            return ""
        text = self._scan(self._detokenizer.flush())
        if self._matcher is not None:
            text += self._matcher.flush()
        self.num_chars += len(text)
        return text

    def _scan(self, text: str) -> str:
        if self._matcher is None or not text:
            return text
        scan = self._matcher.push(text, may_match=self.num_tokens > self._min_tokens)
        self.matched = scan.matched
        return scan.text
