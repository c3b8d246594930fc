"""Incremental detokenization: the text of a sequence, piece by piece, as its tokens come.

The text of an output after a prompt is defined as follows. Let T be the text of prompt tail and
output together, and S the part of the prompt tail's own text that no continuation can change (all
of it but an unfinished character at its end). Then the output's text is T without S; a character
belongs to it if its last byte does. A skipped special token is not there at all.

T is what the `tokenizers` library decodes, but for one case: in a run of byte tokens such as <0xE4>
the library gives up every character of the run as soon as one byte is wrong, also those that a
client has long seen; here, as in SentencePiece itself, only bytes in no character become U+FFFD.
"""

from codecs import utf_8_decode
from collections.abc import Iterable
from typing import Protocol

from tokenizers import Tokenizer

from tokenreel.actors.text.token_bytes import TokenPieces, token_string

REPLACEMENT = "\ufffd"
MAX_HELD_TOKENS = 8
"""Tokens that may wait for a character to be complete; no character has more than four bytes."""
NUM_CONTEXT_TOKENS = 6


class IncrementalDetokenizer(Protocol):
    def push(self, token_id: int) -> str:
        """The characters that this token settles; often one token's, sometimes none."""
        ...

    def flush(self) -> str:
        """What is left when no more tokens come: U+FFFD for an unfinished character."""
        ...


class ByteDetokenizer:
    """For decoders that `token_bytes` understands: a lookup per token, and UTF-8."""

    __slots__ = ("_is_at_start", "_num_to_strip", "_pending", "_pieces")

    def __init__(self, pieces: TokenPieces, prompt_tail: Iterable[int]) -> None:
        self._pieces = pieces
        self._pending = b""
        """The beginning of a character."""
        self._is_at_start = pieces.rules.is_start_special
        self._num_to_strip = pieces.rules.num_stripped_at_start
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        text, data, _ = self._pieces[token_id]
        if text is not None and not self._pending and not self._is_at_start:
            return text
        if self._is_at_start:
            data = self._take_at_start(token_id)
        text, num_used = utf_8_decode(self._pending + data, self._pieces.rules.errors, False)
        self._pending = (self._pending + data)[num_used:]
        return text

    def flush(self) -> str:
        text, _ = utf_8_decode(self._pending, self._pieces.rules.errors, True)
        self._pending = b""
        return text

    def _take_at_start(self, token_id: int) -> bytes:
        """The token's bytes, less the spaces that a text loses at its start."""
        piece = self._pieces.at_start(token_id)
        if piece.is_silent:
            return b""
        data = piece.data
        while self._num_to_strip and data.startswith(b" "):
            data = data[1:]
            self._num_to_strip -= 1
        if data or not self._num_to_strip:
            self._is_at_start = False
        return data


class WindowDetokenizer:
    """For any other decoder: decode the last few tokens with and without the new ones, and take
    the difference. Exact if a token's text depends on a few neighbours only."""

    __slots__ = ("_num_context", "_skipped", "_tokenizer", "_window")

    def __init__(
        self, tokenizer: Tokenizer, skipped: frozenset[int], prompt_tail: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._window: list[int] = []
        """Tokens whose text is out, as context, then those whose text is not."""
        self._num_context = 0
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        if token_id in self._skipped or token_string(self._tokenizer, token_id) is None:
            return ""
        self._window.append(token_id)
        text = self._new_text()
        num_held = len(self._window) - self._num_context
        if text.endswith(REPLACEMENT) and num_held < MAX_HELD_TOKENS:
            return ""
        return self._settle(text)

    def flush(self) -> str:
        return self._settle(self._new_text())

    def _new_text(self) -> str:
        known = self._decode(self._window[: self._num_context])
        return self._decode(self._window)[len(known) :]

    def _settle(self, text: str) -> str:
        self._window = self._window[-NUM_CONTEXT_TOKENS:]
        self._num_context = len(self._window)
        return text

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)
