"""Finds stop strings in a growing text, and holds back only what may still become one.

The rule: the stop string that is complete first wins, that is the one whose last character comes
first in the text; of several that end with the same character, the longest. So the outcome depends
on the text alone and not on how tokens cut it. An Aho-Corasick automaton walks the text once: its
state is the longest suffix of the text that begins a stop string.
"""

from collections import deque
from functools import lru_cache
from typing import NamedTuple


class StopStrings:
    """The automaton for one set of non-empty strings. Immutable: sequences share it."""

    def __init__(self, strings: tuple[str, ...]) -> None:
        if not all(strings):
            raise ValueError("a stop string is empty")
        # One entry per state; state 0 is the empty suffix.
        self.edges: list[dict[str, int]] = [{}]
        self.fallback = [0]
        """The state of the longest proper suffix that begins a stop string."""
        self.ending: list[str | None] = [None]
        """The longest stop string that is complete in this state."""
        self._depth = [0]
        for string in strings:
            self._insert(string)
        self.num_held = [0] * len(self.edges)
        """Characters at the end of the text that may be the beginning of a stop string."""
        self._link()
        self.first_characters = frozenset(self.edges[0])

    def _insert(self, string: str) -> None:
        state = 0
        for character in string:
            target = self.edges[state].get(character)
            if target is None:
                target = self.edges[state][character] = len(self.edges)
                self.edges.append({})
                self.fallback.append(0)
                self.ending.append(None)
                self._depth.append(self._depth[state] + 1)
            state = target
        self.ending[state] = string

    def _link(self) -> None:
        """Breadth first, so that whatever a state falls back to is done."""
        queue = deque([0])
        while queue:
            state = queue.popleft()
            fallback = self.fallback[state]
            self.ending[state] = self.ending[state] or self.ending[fallback]
            is_beginning = bool(self.edges[state])
            self.num_held[state] = self._depth[state] if is_beginning else self.num_held[fallback]
            for character, target in self.edges[state].items():
                self.fallback[target] = self.step(fallback, character) if state else 0
                queue.append(target)

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (target := self.edges[state].get(character)) is None:
            if state == 0:
                return 0
            state = self.fallback[state]
        return target


@lru_cache(maxsize=64)
def compile_stop_strings(strings: tuple[str, ...]) -> StopStrings:
    """Clients send the same few strings again and again."""
    return StopStrings(strings)


class StopScan(NamedTuple):
    text: str
    """What may leave now."""
    matched: str | None
    """The stop string that is complete; `text` is then the last."""


class StopStringMatcher:
    """One sequence's place in the automaton, and the text that it holds back."""

    __slots__ = ("_held", "_include_match", "_state", "_strings")

    def __init__(self, strings: StopStrings, include_match: bool) -> None:
        self._strings = strings
        self._include_match = include_match
        """The matched string stays in the text, so there is nothing to hold back."""
        self._state = 0
        self._held = ""

    def push(self, text: str, may_match: bool = True) -> StopScan:
        """More text. With `may_match` false, a stop string that ends in it is ordinary text."""
        strings, state = self._strings, self._state
        if state == 0 and strings.first_characters.isdisjoint(text):
            return StopScan(text, None)
        for index, character in enumerate(text):
            state = strings.step(state, character)
            matched = strings.ending[state]
            if matched is not None and may_match:
                return self._cut(text[: index + 1], matched)
        self._state = state
        if self._include_match:
            return StopScan(text, None)
        text = self._held + text
        end = len(text) - strings.num_held[state]
        self._held = text[end:]
        return StopScan(text[:end], None)

    def flush(self) -> str:
        """The text held back, when no more will come."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _cut(self, text: str, matched: str) -> StopScan:
        text = self.flush() + text
        return StopScan(text if self._include_match else text[: -len(matched)], matched)
