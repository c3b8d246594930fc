"""Text comes out piece by piece, and the pieces are exactly the text."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenreel.actors.text.incremental import ByteDetokenizer, WindowDetokenizer
from tokenreel.actors.text.token_bytes import token_string
from tokenreel.actors.text.tokenizer import ModelTokenizer

BYTE_KINDS = ["byte_level", "sentencepiece", "gemma_like", "metaspace"]
KINDS = [*BYTE_KINDS, "wordpiece"]
FOREVER = settings(derandomize=True, deadline=None, max_examples=300)
TEXTS = [
    "the cat sat",
    "naïve café",
    "日本語の文章 😀",
    "👩‍👩‍👧",
    "  two  spaces ",
    "a\nb",
    "\U0010ffff x",
]

UNFINISHED = re.compile(
    rb"(?:[\xc2-\xdf]|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3](?:[\x80-\xbf][\x80-\xbf]?)?"
    rb"|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)\Z"
)
"""The beginning of a UTF-8 character, at the end of the text."""


PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ODD = [byte for byte in range(256) if byte not in PLAIN]
BYTES_BY_CHARACTER = dict(
    zip(map(chr, [*PLAIN, *range(256, 256 + len(ODD))]), PLAIN + ODD, strict=True)
)
"""GPT-2's table of bytes, written by characters."""


class Reference:
    """The definition in `incremental`, spelled out slowly: decode everything, and cut."""

    def __init__(self, tokenizer: Tokenizer, kind: str, skips_special: bool) -> None:
        self.tokenizer = tokenizer
        self.kind = kind
        self.skips_special = skips_special

    def output_text(self, tail: list[int], output: list[int]) -> str:
        return self.text(tail + output)[len(self.settled(tail)) :]

    def text(self, token_ids: list[int]) -> str:
        known = [token for token in token_ids if token_string(self.tokenizer, token) is not None]
        return self._repair_byte_runs(known)

    def settled(self, tail: list[int]) -> str:
        """The tail's text without an unfinished character, which is one U+FFFD per byte or one."""
        text, data = self.text(tail), self._last_bytes(tail)
        if match := UNFINISHED.search(data):
            width = len(match[0]) if self.kind in ("sentencepiece", "gemma_like") else 1
            return text[:-width]
        return text

    def _kept(self, token_ids: list[int]) -> list[str]:
        added = self.tokenizer.get_added_tokens_decoder()
        return [
            token
            for token_id in token_ids
            if not (self.skips_special and token_id in added and added[token_id].special)
            and (token := token_string(self.tokenizer, token_id)) is not None
        ]

    def _repair_byte_runs(self, token_ids: list[int]) -> str:
        """As the library decodes, after bytes that are in no character were replaced."""
        tokens: list[str] = []
        run = b""
        for token in [*self._kept(token_ids), None]:
            match = re.fullmatch("<0x(..)>", token or "") if "byte" not in self.kind else None
            if match:
                run += bytes([int(match[1], 16)])
                continue
            if run:
                tokens += repaired(run)
                run = b""
            if token is not None:
                tokens.append(token)
        decoder = self.tokenizer.decoder
        text: str = decoder.decode(tokens)
        return text

    def _last_bytes(self, token_ids: list[int]) -> bytes:
        """The bytes at the end of the text, for the kinds that have partial characters."""
        tokens = self._kept(token_ids)
        if self.kind == "byte_level":
            return b"".join(map(byte_level_bytes, tokens))
        data = b""
        for token in tokens:
            match = re.fullmatch("<0x(..)>", token)
            data = data + bytes([int(match[1], 16)]) if match else b""
        return data


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token, unless it was added as plain text."""
    try:
        return bytes(BYTES_BY_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode()


def repaired(run: bytes) -> list[str]:
    """Byte tokens for the characters there are, from the left; U+FFFD for every other byte."""
    tokens: list[str] = []
    while run:
        for size in (1, 2, 3, 4):
            try:
                run[:size].decode()
            except UnicodeDecodeError:
                continue
            tokens += [f"<0x{byte:02X}>" for byte in run[:size]]
            run = run[size:]
            break
        else:
            tokens.append("\ufffd")
            run = run[1:]
    return tokens


def stream(model: ModelTokenizer, tail: list[int], output: list[int], skip: bool) -> list[str]:
    detokenizer = model.detokenizer(tail, skip_special_tokens=skip)
    return [detokenizer.push(token) for token in output] + [detokenizer.flush()]


@pytest.fixture(scope="module")
def model_of(tokenizers_by_kind: dict[str, Tokenizer]) -> Callable[[str], ModelTokenizer]:
    models = {kind: ModelTokenizer(tokenizer) for kind, tokenizer in tokenizers_by_kind.items()}
    return models.__getitem__


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_decoder_gets_the_detokenizer_that_understands_it(
    kind: str, model_of: Callable[[str], ModelTokenizer]
) -> None:
    expected = ByteDetokenizer if kind in BYTE_KINDS else WindowDetokenizer
    detokenizer = model_of(kind).detokenizer([], skip_special_tokens=True)
    assert isinstance(detokenizer, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_random_tokens_stream_exactly_the_text_that_decoding_them_gives(
    kind: str,
    model_of: Callable[[str], ModelTokenizer],
    tokenizers_by_kind: dict[str, Tokenizer],
) -> None:
    tokenizer, model = tokenizers_by_kind[kind], model_of(kind)
    # Ids past the end stand for a padded embedding: there is no token behind them.
    token_ids = st.integers(0, tokenizer.get_vocab_size() + 3)

    @FOREVER
    @given(st.lists(token_ids, max_size=8), st.lists(token_ids, max_size=24), st.booleans())
    def check(tail: list[int], output: list[int], skip: bool) -> None:
        reference = Reference(tokenizer, kind, skip)
        assert "".join(stream(model, tail, output, skip)) == reference.output_text(tail, output)

    check()


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "gemma_like"])
def test_random_bytes_stream_exactly_the_text_that_decoding_them_gives(
    kind: str,
    model_of: Callable[[str], ModelTokenizer],
    tokenizers_by_kind: dict[str, Tokenizer],
) -> None:
    tokenizer, model = tokenizers_by_kind[kind], model_of(kind)
    by_bytes = {
        model.token_text(token_id)[1]: token_id for token_id in reversed(range(model.vocab_size))
    }
    whole = st.text(max_size=3).map(str.encode)
    broken = st.binary(max_size=3)
    chunks = st.lists(st.one_of(whole, broken), max_size=8).map(b"".join)

    @FOREVER
    @given(chunks, chunks, st.booleans())
    def check(tail: bytes, output: bytes, skip: bool) -> None:
        tail_ids = [by_bytes[bytes([byte])] for byte in tail][-8:]
        output_ids = [by_bytes[bytes([byte])] for byte in output]
        expected = Reference(tokenizer, kind, skip).output_text(tail_ids, output_ids)
        assert "".join(stream(model, tail_ids, output_ids, skip)) == expected

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_whole_text_is_what_the_library_decodes(
    kind: str,
    skip: bool,
    model_of: Callable[[str], ModelTokenizer],
    tokenizers_by_kind: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers_by_kind[kind]
    for text in TEXTS:
        token_ids = tokenizer.encode(text).ids
        streamed = "".join(stream(model_of(kind), [], token_ids, skip))
        assert streamed == tokenizer.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_continues_its_prompt(
    kind: str,
    model_of: Callable[[str], ModelTokenizer],
    tokenizers_by_kind: dict[str, Tokenizer],
) -> None:
    """So the space between prompt and output is neither lost nor doubled."""
    tokenizer = tokenizers_by_kind[kind]
    token_ids = tokenizer.encode("the cat sat on the mat").ids
    whole = tokenizer.decode(token_ids)
    for cut in range(2, len(token_ids)):
        streamed = "".join(stream(model_of(kind), token_ids[:cut], token_ids[cut:], True))
        assert tokenizer.decode(token_ids[:cut]) + streamed == whole


@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_every_character_leaves_with_the_token_that_completes_it(
    kind: str, model_of: Callable[[str], ModelTokenizer]
) -> None:
    model = model_of(kind)
    token_ids = model.encode("the cat 日本 sat", add_special_tokens=False, max_tokens=100)
    *pieces, rest = stream(model, token_ids[:1], token_ids[1:], True)
    assert rest == ""
    waiting = b""
    for token_id, piece in zip(token_ids[1:], pieces, strict=True):
        waiting = (waiting + model.token_text(token_id)[1]).removeprefix(piece.encode())
        assert waiting == b"" or UNFINISHED.fullmatch(waiting)


def test_a_character_split_over_tokens_comes_whole(
    model_of: Callable[[str], ModelTokenizer],
) -> None:
    model = model_of("sentencepiece")
    first = model.encode("😀", add_special_tokens=False, max_tokens=9)[-4:]
    assert stream(model, [300], first, True) == ["", "", "", "😀", ""]


def test_an_unfinished_character_is_replaced_at_the_end_and_not_before(
    model_of: Callable[[str], ModelTokenizer],
) -> None:
    model = model_of("byte_level")
    ids = {model.token_text(token_id)[1]: token_id for token_id in range(model.vocab_size)}
    lead = [ids[bytes([byte])] for byte in "😀".encode()[:3]]
    assert stream(model, [], lead, True) == ["", "", "", "\ufffd"]
    assert stream(model, [], [*lead, ids[b"a"]], True) == ["", "", "", "\ufffda", ""]


def test_good_characters_survive_a_bad_byte_in_their_run(
    model_of: Callable[[str], ModelTokenizer],
) -> None:
    model = model_of("sentencepiece")
    run = [3 + byte for byte in "é".encode() + b"\xff" + "é".encode()]
    assert "".join(stream(model, [300], run, True)) == "é\ufffdé"


def test_special_tokens_are_skipped_or_kept_as_asked(
    model_of: Callable[[str], ModelTokenizer],
) -> None:
    model = model_of("byte_level")
    ids = model.encode("the<|im_end|> cat<think>", add_special_tokens=False, max_tokens=20)
    assert "".join(stream(model, [], ids, True)) == "the cat<think>"
    assert "".join(stream(model, [], ids, False)) == "the<|im_end|> cat<think>"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token_id", [-1, 1 << 20, 1 << 32, 1 << 70])
def test_an_id_without_a_token_is_no_text(
    kind: str, token_id: int, model_of: Callable[[str], ModelTokenizer]
) -> None:
    model = model_of(kind)
    assert stream(model, [], [token_id], True) == ["", ""]
    assert model.token_text(token_id) == ("", b"")
