"""Small tokenizers of the kinds that language models have, trained in a moment, and a model
directory around one of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "the cat sat on the mat and the dog ate the cake ",
    "counting one two three four five six seven eight nine ten ",
    "naïve café über straße Ελλάδα Москва 日本語の文章 你好世界 😀😁🙂 👩‍👩‍👧 ",
] * 4
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it: BPE over bytes, characters split where it likes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think>", "plain added", "é"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2 and Mistral have it: words begin with ▁, unknown characters become bytes."""
    return _with_byte_tokens(
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )


def gemma_like() -> Tokenizer:
    """Byte fallback without the prepended space."""
    return _with_byte_tokens(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        normalizers.Replace(" ", "▁"),
    )


def metaspace() -> Tokenizer:
    """Spaces only, without bytes: unknown characters are lost."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """Not a language model's kind: its decoder is left to the library."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _with_byte_tokens(decoder: decoders.Decoder, normalizer: normalizers.Normalizer) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.train_from_iterator(
        [text.replace("日本語", "").replace("😀", "") for text in CORPUS],
        trainers.BpeTrainer(vocab_size=250, show_progress=False),
    )
    learned = json.loads(trained.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    vocab = {token: index for index, token in enumerate(special + byte_tokens + words)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "gemma_like": gemma_like,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
}


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    return {kind: make() for kind, make in TOKENIZERS.items()}


@pytest.fixture
def make_model_dir(tmp_path: Path, tokenizers_by_kind: dict[str, Tokenizer]) -> Callable[..., Path]:
    """Writes the text side of a model directory; keywords are files to add or replace."""

    def make(kind: str = "byte_level", **files: dict[str, Any]) -> Path:
        tokenizers_by_kind[kind].save(str(tmp_path / "tokenizer.json"))
        eos = "<|im_end|>" if kind == "byte_level" else "</s>"
        contents: dict[str, dict[str, Any]] = {
            "tokenizer_config": {"eos_token": eos, "chat_template": CHATML},
            "config": {},
        }
        for name, content in (contents | files).items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return make
