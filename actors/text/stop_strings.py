"""Finds stop strings in a growing text, and holds back only what may still become one.

The rule: the stop string that is complete first wins, that is the one whose last character comes
first in the text; of several that end with the same character, the longest. So the outcome depends
on the text alone and not on how tokens cut it. Each string is followed by Knuth, Morris and Pratt's
method: the text is walked once, and what is remembered is how much of each string its end is.
"""

from array import array
from functools import lru_cache
from typing import NamedTuple


class StopString:
    """One string to look for. Immutable: sequences share it."""

    __slots__ = ("_fallback", "size", "text")

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a stop string is empty")
        self.text = text
        self.size = len(text)
        self._fallback = array("i", [0, 0])
        """At k: the most characters, fewer than k, that text[:k] both begins and ends with."""
        for place in range(1, self.size):
            self._fallback.append(self.step(self._fallback[place], text[place]))

    def step(self, num_matched: int, character: str) -> int:
        """How many of the first characters end a text, after one more character of it."""
        text = self.text
        if num_matched == self.size:
            num_matched = self._fallback[num_matched]
        while text[num_matched] != character:
            if num_matched == 0:
                return 0
            num_matched = self._fallback[num_matched]
        return num_matched + 1

    def num_open(self, num_matched: int) -> int:
        """Of the end of a text, the characters that may still become the string."""
        return self._fallback[num_matched] if num_matched == self.size else num_matched


@lru_cache(maxsize=64)
def compile_stop_strings(strings: tuple[str, ...]) -> tuple[StopString, ...]:
    """Clients send the same few strings again and again."""
    return tuple(StopString(string) for string in strings)


class StopScan(NamedTuple):
    text: str
    """What may leave now."""
    matched: str | None
    """The stop string that is complete; `text` is then the last."""


class StopStringMatcher:
    """How far one sequence is in each string, and the text that it holds back."""

    __slots__ = (
        "_first_characters",
        "_held",
        "_includes_match",
        "_is_idle",
        "_num_matched",
        "_strings",
    )

    def __init__(self, strings: tuple[StopString, ...], *, includes_match: bool) -> None:
        self._strings = strings
        self._first_characters = {string.text[0] for string in strings}
        self._includes_match = includes_match
        """The matched string stays in the text, so there is nothing to hold back."""
        self._num_matched = [0] * len(strings)
        self._is_idle = True
        """No string has begun."""
        self._held = ""

    def push(self, text: str, *, may_match: bool = True) -> StopScan:
        """More text. With `may_match` false, a stop string that ends in it is ordinary text."""
        if self._is_idle and self._first_characters.isdisjoint(text):
            return StopScan(text, None)
        for index, character in enumerate(text):
            matched = self._step(character)
            if matched and may_match:
                return self._cut(text[: index + 1], matched)
        self._is_idle = not any(self._num_matched)
        if self._includes_match:
            return StopScan(text, None)
        text = self._held + text
        end = len(text) - max(map(StopString.num_open, self._strings, self._num_matched))
        self._held = text[end:]
        return StopScan(text[:end], None)

    def flush(self) -> str:
        """The text held back, when no more will come."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> str:
        """The longest string that ends here; empty if none does."""
        matched = ""
        for place, string in enumerate(self._strings):
            num_matched = self._num_matched[place] = string.step(
                self._num_matched[place], character
            )
            if num_matched == string.size > len(matched):
                matched = string.text
        return matched

    def _cut(self, text: str, matched: str) -> StopScan:
        text = self.flush() + text
        return StopScan(text if self._includes_match else text[: -len(matched)], matched)
