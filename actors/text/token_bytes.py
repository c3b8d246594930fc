"""The bytes that each token stands for, read off a tokenizer's decoder.

For the decoders of language models (byte-level BPE, SentencePiece with byte fallback, Metaspace)
the text of a sequence is nothing but the UTF-8 reading of its tokens' bytes in a row, the first
token apart. So one lookup per token replaces decoding the sequence again and again.
"""

import codecs
import re
from typing import Any, NamedTuple

import msgspec
from tokenizers import Tokenizer

EACH_BYTE = "tokenreel.each_byte"
"""Error handler: one U+FFFD for every byte that is in no character, as SentencePiece does."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each_byte)


class ByteRules(NamedTuple):
    """How a decoder turns token strings into bytes."""

    byte_level: bool = False
    """Each character of a token stands for a byte, by GPT-2's table."""
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    """A token such as <0xE4> stands for that byte."""
    dropped_at_start: str = ""
    """The first token of a text loses this character wherever it has it (Metaspace)."""
    num_stripped_at_start: int = 0
    """The text loses up to so many leading spaces."""

    @property
    def errors(self) -> str:
        """What to do with bytes that are in no character: the name of a codec's error handler.
        `replace` puts one U+FFFD for each maximal ill-formed part, as the library itself does."""
        return EACH_BYTE if self.byte_fallback else "replace"

    @property
    def is_start_special(self) -> bool:
        return bool(self.dropped_at_start or self.num_stripped_at_start)


def read_byte_rules(tokenizer: Tokenizer) -> ByteRules | None:
    """None if the decoder is of another kind, so that only the library can tell the text."""
    if tokenizer.decoder is None:
        return None
    config = msgspec.json.decode(tokenizer.decoder.__getstate__())
    steps = config["decoders"] if config["type"] == "Sequence" else [config]
    match [step for step in steps if step["type"] != "Fuse"]:
        case [{"type": "ByteLevel"}]:
            return ByteRules(byte_level=True)
        case [{"type": "Metaspace"} as step] if len(steps) == 1:
            mark = step["replacement"]
            dropped = "" if step["prepend_scheme"] == "never" else mark
            return ByteRules(replacements=((mark, " "),), dropped_at_start=dropped)
        case _:
            return _sentencepiece_rules(steps)


def _sentencepiece_rules(steps: list[dict[str, Any]]) -> ByteRules | None:
    """Replace..., ByteFallback, Fuse, Strip: each at most once (Replace: any number), in order."""
    rest = list(steps)
    replacements = []
    while rest and rest[0]["type"] == "Replace" and "String" in rest[0]["pattern"]:
        step = rest.pop(0)
        replacements.append((step["pattern"]["String"], step["content"]))
    if not rest or rest.pop(0)["type"] != "ByteFallback":
        return None
    if rest and rest.pop(0)["type"] != "Fuse":
        return None
    num_stripped = 0
    if rest and rest[0]["type"] == "Strip" and (rest[0]["content"], rest[0]["stop"]) == (" ", 0):
        num_stripped = rest.pop(0)["start"]
    if rest:
        return None
    return ByteRules(
        replacements=tuple(replacements), byte_fallback=True, num_stripped_at_start=num_stripped
    )


class Piece(NamedTuple):
    """One token: its bytes, and their text if they are whole characters."""

    text: str | None
    data: bytes
    is_silent: bool = False
    """Not there at all: a skipped special token, or an id without a token."""


_SILENT = Piece("", b"", True)


class TokenPieces(dict[int, Piece]):
    """Token id -> what it stands for in the middle of a text. Filled as tokens come up, so that a
    process holds what its traffic uses and not a vocabulary."""

    def __init__(self, tokenizer: Tokenizer, rules: ByteRules, skipped: frozenset[int]) -> None:
        super().__init__()
        self.rules = rules
        self._tokenizer = tokenizer
        self._skipped = skipped

    def __missing__(self, token_id: int) -> Piece:
        token = None if token_id in self._skipped else token_string(self._tokenizer, token_id)
        if token is None:
            return _SILENT  # Not kept: nobody shall fill the table with ids that do not exist.
        piece = self[token_id] = _piece(_token_bytes(token, self.rules))
        return piece

    def at_start(self, token_id: int) -> Piece:
        """As `self[token_id]`, for the first token of a text."""
        dropped = self.rules.dropped_at_start
        if self[token_id].is_silent or not dropped:
            return self[token_id]
        token = token_string(self._tokenizer, token_id) or ""
        return _piece(_token_bytes(token.replace(dropped, ""), self.rules))


def token_string(tokenizer: Tokenizer, token_id: int) -> str | None:
    """A token as the vocabulary writes it; None for any number that is no token id."""
    return tokenizer.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None


def _piece(data: bytes) -> Piece:
    try:
        return Piece(data.decode(), data)
    except UnicodeDecodeError:
        return Piece(None, data)


def _token_bytes(token: str, rules: ByteRules) -> bytes:
    if rules.byte_level:
        try:
            return bytes([_BYTE_OF_CHARACTER[character] for character in token])
        except KeyError:  # A token that was added as plain text.
            return token.encode()
    for old, new in rules.replacements:
        token = token.replace(old, new)
    if rules.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(match[1], 16)])
    return token.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the others take characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_level_alphabet()
