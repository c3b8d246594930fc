"""A model directory's tokenizer is loaded, or one line says what is wrong with it."""

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenreel.actors.text.model_files import ModelFilesError
from tokenreel.actors.text.sampling_defaults import SamplingDefaults
from tokenreel.actors.text.tokenizer import ModelTokenizer, TextTooLong

MakeModelDir = Callable[..., Path]
PLENTY = 10_000


def test_encoding_is_the_librarys(
    make_model_dir: MakeModelDir, tokenizers_by_kind: dict[str, Tokenizer]
) -> None:
    model = ModelTokenizer.load(make_model_dir("sentencepiece"))
    for text in ("the cat", "日本語 <s>", ""):
        for special in (False, True):
            expected = tokenizers_by_kind["sentencepiece"].encode(text, add_special_tokens=special)
            ids = model.encode(text, add_special_tokens=special, max_tokens=PLENTY)
            assert ids == expected.ids


def test_special_tokens_are_added_as_tokenizer_json_says(make_model_dir: MakeModelDir) -> None:
    model = ModelTokenizer.load(make_model_dir("sentencepiece"))
    assert model.encode("the", add_special_tokens=True, max_tokens=PLENTY)[0] == 1
    assert model.encode("the", add_special_tokens=False, max_tokens=PLENTY)[0] != 1


def test_truncation_and_padding_in_the_file_do_not_reach_a_prompt(
    make_model_dir: MakeModelDir,
) -> None:
    model_dir = make_model_dir()
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(model_dir / "tokenizer.json"))
    model = ModelTokenizer.load(model_dir)
    ids = model.encode("one two three four five six", add_special_tokens=True, max_tokens=PLENTY)
    text = model.detokenizer([], skip_special_tokens=False)
    assert "".join(map(text.push, ids)) == "one two three four five six"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {2}),
        ({"generation_config": {"eos_token_id": 0}}, {0, 2}),
        ({"generation_config": {"eos_token_id": [0, 1]}}, {0, 1, 2}),
        ({"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": [0]}}, {0, 2, 7}),
        ({"config": {"eos_token_id": None}}, {2}),
        ({"tokenizer_config": {}}, set()),
        ({"tokenizer_config": {"eos_token": {"content": "<|endoftext|>"}}}, {0}),
        ({"tokenizer_config": {}, "special_tokens_map": {"eos_token": "<|endoftext|>"}}, {0}),
        ({"tokenizer_config": {"eos_token": "not in the vocabulary"}}, set()),
    ],
)
def test_whatever_ends_a_text_is_collected_from_three_files(
    make_model_dir: MakeModelDir, files: dict[str, dict[str, object]], expected: set[int]
) -> None:
    assert ModelTokenizer.load(make_model_dir(**files)).eos_token_ids == expected


def test_the_hash_covers_the_bytes_of_the_file(make_model_dir: MakeModelDir) -> None:
    model_dir = make_model_dir()
    content = (model_dir / "tokenizer.json").read_bytes()
    expected = blake2b(content, digest_size=16).digest()
    assert ModelTokenizer.load(model_dir).tokenizer_hash == expected
    (model_dir / "tokenizer.json").write_bytes(content + b"\n")
    assert ModelTokenizer.load(model_dir).tokenizer_hash != expected


def test_a_named_special_token_is_special_even_if_the_file_forgot(
    make_model_dir: MakeModelDir,
) -> None:
    model_dir = make_model_dir(tokenizer_config={"eos_token": "<think>"})
    model = ModelTokenizer.load(model_dir)
    assert model.eos_token_ids <= model.special_token_ids
    ids = model.encode("the<think>", add_special_tokens=False, max_tokens=PLENTY)
    text = model.detokenizer([], skip_special_tokens=True)
    assert "".join(map(text.push, ids)) == "the"


def test_token_bytes_in_a_row_are_the_text(make_model_dir: MakeModelDir) -> None:
    for kind in ("byte_level", "sentencepiece", "gemma_like"):
        model = ModelTokenizer.load(make_model_dir(kind))
        ids = model.encode("a 日本語 😀 ü", add_special_tokens=False, max_tokens=PLENTY)
        assert (
            b"".join(model.token_text(token_id)[1] for token_id in ids).decode().lstrip()
            == "a 日本語 😀 ü"
        )


def test_a_text_that_can_never_fit_is_refused_before_it_is_tokenized(
    make_model_dir: MakeModelDir,
) -> None:
    model = ModelTokenizer.load(make_model_dir())
    with pytest.raises(TextTooLong, match="characters, which cannot be 10 tokens"):
        model.encode("a" * 1_000_000, add_special_tokens=False, max_tokens=10)


def test_a_text_whose_beginning_is_too_long_is_not_tokenized_to_its_end(
    make_model_dir: MakeModelDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelTokenizer.load(make_model_dir())
    encoded: list[int] = []
    encode = model._encode

    def watched(text: str, add_special_tokens: bool) -> list[int]:
        encoded.append(len(text))
        return encode(text, add_special_tokens)

    monkeypatch.setattr(model, "_encode", watched)
    text = "!" * model.max_chars(20_000)
    with pytest.raises(TextTooLong, match="in its first 80000 characters"):
        model.encode(text, add_special_tokens=False, max_tokens=20_000)
    assert encoded == [80_000]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.text("ab cdé日\n", min_size=1, max_size=20), st.integers(1, 5000))
def test_a_text_that_fits_is_never_refused(text: str, times: int) -> None:
    model = _MODEL
    text *= times
    ids = model._encode(text, False)
    assert model.encode(text, add_special_tokens=False, max_tokens=len(ids)) == ids


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="nowhere is no directory: give"):
        ModelTokenizer.load(tmp_path / "nowhere")


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"has no tokenizer\.json: download"):
        ModelTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ModelFilesError, match=r"no tokenizer\.json: convert it with transformers"):
        ModelTokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"model": 1}'])
def test_a_broken_tokenizer_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFilesError, match=r"tokenizer\.json cannot be loaded") as error:
        ModelTokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config", "{", "is not valid JSON"),
        ("tokenizer_config", "[]", "should hold a JSON object"),
        ("config", '{"eos_token_id": "two"}', "should be a token id or a list"),
        ("generation_config", '{"eos_token_id": [1, -2]}', "should be a token id or a list"),
    ],
)
def test_a_broken_file_beside_it_is_named(
    make_model_dir: MakeModelDir, name: str, content: str, message: str
) -> None:
    model_dir = make_model_dir()
    (model_dir / f"{name}.json").write_text(content)
    with pytest.raises(ModelFilesError, match=message):
        ModelTokenizer.load(model_dir)


def test_sampling_defaults_come_from_generation_config(tmp_path: Path) -> None:
    assert SamplingDefaults.load(tmp_path) == SamplingDefaults()
    content = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert SamplingDefaults.load(tmp_path) == SamplingDefaults(0.6, 20, 0.95)


@pytest.mark.parametrize("name", SamplingDefaults.__struct_fields__)
@pytest.mark.parametrize("value", ["hot", -2, True, [1]])
def test_a_sampling_default_that_makes_no_sense_is_named(
    tmp_path: Path, name: str, value: object
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ModelFilesError, match=rf"{name} is .*, which is no value for it"):
        SamplingDefaults.load(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("repetition_penalty", 0), ("top_k", 1e30)])
def test_a_sampling_default_that_would_break_every_request_is_named(
    tmp_path: Path, name: str, value: float
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ModelFilesError, match=rf"{name} is .*, which is no value for it"):
        SamplingDefaults.load(tmp_path)


def _byte_model() -> ModelTokenizer:
    tokenizer = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                "decoder": {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                "model": {
                    "type": "BPE",
                    "vocab": {
                        token: index
                        for index, token in enumerate(
                            [*"abcdĠĊÃ©æĹ¥", "ab", "cd", "Ġab", "Ġabcd", "abcd", "aa", "aaaa"]
                        )
                    },
                    "merges": [["a", "b"], ["c", "d"], ["Ġ", "ab"], ["Ġab", "cd"], ["ab", "cd"]]
                    + [["a", "a"], ["aa", "aa"]],
                },
            }
        )
    )
    return ModelTokenizer(tokenizer)


_MODEL = _byte_model()
