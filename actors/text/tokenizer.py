"""The tokenizer of a model directory: text to ids, ids to text, and which ids end a text.

It reads tokenizer.json with the `tokenizers` library; transformers' AutoTokenizer would import
torch.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from tokenreel.actors.text.incremental import (
    ByteDetokenizer,
    IncrementalDetokenizer,
    WindowDetokenizer,
)
from tokenreel.actors.text.model_files import ModelFilesError, read_bytes, read_json
from tokenreel.actors.text.token_bytes import TokenPieces, read_byte_rules, token_string

SPECIAL_TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
HASH_SIZE = 16
NUM_UNPROBED_CHARS = 16 << 10
"""A text up to this size is tokenized at once, in some 5 ms."""


class TextTooLong(Exception):
    """The text has more tokens than allowed, how many was not found out. One clear line."""


class ModelTokenizer:
    """Immutable after loading, but for a table of tokens that fills with use."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tokenizer_hash: bytes = b"",
        special_tokens: dict[str, str] | None = None,
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        # A file may ask for both; a prompt is neither cut nor padded here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.tokenizer_hash = tokenizer_hash
        """blake2b over the bytes of tokenizer.json."""
        self.special_tokens = special_tokens or {}
        """The named ones, such as bos_token, as a chat template knows them."""
        self._mark_as_special(self.special_tokens.values())
        self.eos_token_ids = frozenset(eos_token_ids) | self._named_ids("eos_token")
        self.special_token_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.max_chars_per_token = max(
            (len(tokenizer.id_to_token(token_id) or "") for token_id in range(self.vocab_size)),
            default=1,
        )
        self._rules = read_byte_rules(tokenizer)
        self._pieces = self._token_pieces(skips_special_tokens=False)
        self._pieces_without_special = self._token_pieces(skips_special_tokens=True)

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Raises `ModelFilesError`."""
        content = _read_tokenizer_file(model_dir)
        try:
            tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # The library raises bare exceptions.
            raise ModelFilesError(
                f"{model_dir / 'tokenizer.json'} cannot be loaded: {error}; download it again"
            ) from error
        config = read_json(model_dir / "special_tokens_map.json")
        config |= read_json(model_dir / "tokenizer_config.json")
        return cls(
            tokenizer,
            tokenizer_hash=blake2b(content, digest_size=HASH_SIZE).digest(),
            special_tokens=_special_tokens(config),
            eos_token_ids=[
                token_id
                for name in ("generation_config.json", "config.json")
                for token_id in _eos_token_ids(model_dir / name)
            ],
        )

    def encode(self, text: str, *, add_special_tokens: bool, max_tokens: int) -> list[int]:
        """Raises `TextTooLong` as soon as it is certain that there would be more than `max_tokens`
        tokens, so that the time this takes is bounded by them and not by the text."""
        if len(text) > self.max_chars(max_tokens):
            raise TextTooLong(
                f"the prompt has {len(text)} characters, which cannot be {max_tokens} tokens or "
                f"fewer (the longest token has {self.max_chars_per_token} characters)"
            )
        # Cutting a text changes the tokens around the cut only, and there by less than this.
        most = max_tokens + self.max_chars_per_token
        num_chars = max(NUM_UNPROBED_CHARS, 4 * max_tokens)
        while num_chars < len(text):
            if len(self._encode(text[:num_chars], False)) > most:
                raise TextTooLong(
                    f"the prompt has more than {max_tokens} tokens in its first {num_chars} "
                    f"characters (of {len(text)})"
                )
            num_chars *= 2
        return self._encode(text, add_special_tokens)

    def max_chars(self, num_tokens: int) -> int:
        """The longest text that so many tokens can stand for."""
        return num_tokens * self.max_chars_per_token

    def detokenizer(
        self, prompt_tail: Iterable[int], *, skip_special_tokens: bool
    ) -> IncrementalDetokenizer:
        """For one sequence, whose first token follows `prompt_tail`."""
        pieces = self._pieces_without_special if skip_special_tokens else self._pieces
        if pieces is not None:
            return ByteDetokenizer(pieces, prompt_tail)
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        return WindowDetokenizer(self._tokenizer, skipped, prompt_tail)

    def token_text(self, token_id: int) -> tuple[str, bytes]:
        """What a token stands for in the middle of a text, special tokens included: as text, with
        U+FFFD where it is a part of a character only, and as bytes."""
        if self._pieces is not None:
            text, data, _ = self._pieces[token_id]
            return data.decode(errors="replace") if text is None else text, data
        if token_string(self._tokenizer, token_id) is None:
            return "", b""
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text, text.encode()

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        token_ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=add_special_tokens
        ).ids
        return token_ids

    def _token_pieces(self, skips_special_tokens: bool) -> TokenPieces | None:
        if self._rules is None:
            return None
        skipped = self.special_token_ids if skips_special_tokens else frozenset()
        return TokenPieces(self._tokenizer, self._rules, skipped)

    def _mark_as_special(self, tokens: Iterable[str]) -> None:
        """Old directories name special tokens that tokenizer.json holds as ordinary ones. (A token
        that the vocabulary lacks would get an id that the model does not know.)"""
        known = [token for token in tokens if self._tokenizer.token_to_id(token) is not None]
        self._tokenizer.add_special_tokens(known)

    def _named_ids(self, name: str) -> frozenset[int]:
        token_id = self._tokenizer.token_to_id(self.special_tokens.get(name, ""))
        return frozenset() if token_id is None else frozenset({token_id})


def _read_tokenizer_file(model_dir: Path) -> bytes:
    if not model_dir.is_dir():
        raise ModelFilesError(f"{model_dir} is no directory: give a Hugging Face model directory")
    path = model_dir / "tokenizer.json"
    if path.exists():
        return read_bytes(path)
    if (model_dir / "tokenizer.model").exists():
        raise ModelFilesError(
            f"{model_dir} has tokenizer.model but no tokenizer.json: convert it with transformers, "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    raise ModelFilesError(f"{model_dir} has no tokenizer.json: download it with the model")


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Each is written as a string, or as an object with its content; null means none."""
    tokens = {}
    for name in SPECIAL_TOKEN_NAMES:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _eos_token_ids(path: Path) -> list[int]:
    value = read_json(path).get("eos_token_id")
    token_ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in token_ids):
        raise ModelFilesError(f"{path}: eos_token_id should be a token id or a list of them")
    return token_ids
