"""The demo model: its corpus, its tokenizer, a tiny training run, and the directory that ships."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenreel.tools import demo_arithmetic as arithmetic
from tokenreel.tools import demo_corpus as corpus
from tokenreel.tools import demo_stories as stories
from tokenreel.tools import evaluate_demo, train_demo

SHIPPED = Path(train_demo.__file__).parent / "demo_model"
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TINY = train_demo.Plan(
    num_steps=3, tokens_per_step=256, hidden_size=64, num_layers=1, num_tokenizer_samples=200
)


def texts(seed: int, num_samples: int = 50) -> list[str]:
    rng = Random(seed)
    return ["".join(part.text for part in corpus.sample(rng)) for _ in range(num_samples)]


def test_same_seed_same_corpus() -> None:
    assert texts(3) == texts(3)
    assert texts(3) != texts(4)


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (arithmetic.Problem(17, "+", 25), "17 + 25 = 42."),
        (arithmetic.Problem(5, "-", 12), "5 - 12 = -7."),
        (arithmetic.Problem(8, "*", 7), "8 * 7 = 56."),
        (arithmetic.Problem(84, "/", 9), "84 / 9 = 9 remainder 3."),
    ],
)
def test_answers_have_one_form(problem: arithmetic.Problem, answer: str) -> None:
    assert problem.answer == answer


def test_held_out_sums_are_never_trained_on() -> None:
    rng = Random(0)
    drawn = [arithmetic.problem(rng) for _ in range(2000)]
    assert not any(problem.is_held_out for problem in drawn)
    held_out = arithmetic.problem(rng, "+", is_held_out=True)
    assert held_out.is_held_out
    assert arithmetic.Problem(held_out.right, "+", held_out.left).is_held_out


def test_every_turn_that_is_learned_ends_itself() -> None:
    rng = Random(1)
    for _ in range(100):
        for segment in corpus.conversation(rng):
            assert not segment.is_learned or segment.text.endswith(corpus.END_OF_TURN)


def test_stories_fill_every_slot_and_keep_to_the_wish() -> None:
    rng = Random(2)
    assert not any("{" in stories.story(rng, num_plots=3) for _ in range(50))
    assert "fox named Bella" in stories.story(rng, "fox", "Bella")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny_demo_model")
    train_demo.train(TINY, out)
    return out


def test_tiny_run_writes_a_loadable_directory(tiny: Path) -> None:
    assert {path.name for path in tiny.iterdir()} >= FILES - {"README.md"}
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    asked = [[{"role": "user", "content": "Hello"}]]
    answers = evaluate_demo.answer_all(model, tokenizer, asked, is_greedy=True, max_new_tokens=4)
    assert len(answers) == 1


def test_same_seed_same_tokenizer_and_batches(tiny: Path) -> None:
    tokenizer = train_demo.train_tokenizer(TINY)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(tiny).get_vocab()
    first, second = (next(train_demo.batches(TINY, tokenizer)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_labels_are_the_next_tokens_of_answers_only() -> None:
    tokenizer = train_demo.train_tokenizer(TINY)
    inputs, labels = next(train_demo.batches(TINY, tokenizer))
    is_learned = labels[:, :-1] != train_demo.IGNORED
    assert torch.equal(labels[:, :-1][is_learned], inputs[:, 1:][is_learned])
    assert 0 < is_learned.sum() < is_learned.numel()


def test_shipped_directory_is_complete_and_small() -> None:
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) <= 6_000_000
    with safe_open(SHIPPED / "model.safetensors", framework="pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}
    assert "lm_head.weight" not in shapes  # tied to the embeddings
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) <= 3_000_000


def test_shipped_configuration_exercises_grouped_queries() -> None:
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["head_dim"] % 8 == 0
    assert config["max_position_embeddings"] >= 1024
    assert config["tie_word_embeddings"]


def test_shipped_tokenizer_splits_digits_and_gives_text_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert tokenizer.tokenize("1905+2") == ["1", "9", "0", "5", "+", "2"]
    text = "Bogotá 😀 17 + 25 = 42.\n\n  日本"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_shipped_chat_template_ends_turns_as_the_corpus_does() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    messages = [
        {"role": "system", "content": "Be concise."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "2 + 2"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe concise.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n2 + 2<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ends = json.loads((SHIPPED / "generation_config.json").read_text())["eos_token_id"]
    assert ends == tokenizer.convert_tokens_to_ids([corpus.END_OF_TURN, corpus.END_OF_TEXT])
    assert tokenizer.eos_token == corpus.END_OF_TURN


def test_shipped_model_answers_and_ends_its_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.bfloat16)
    asked_and_answered = {
        "What is 17 + 25?": "17 + 25 = 42.",
        "What is 8 * 7?": "8 * 7 = 56.",
        "What is the capital of France?": "The capital of France is Paris.",
        "Hello": "Hello! How can I help you?",
    }
    chats = [[{"role": "user", "content": question}] for question in asked_and_answered]
    answers = evaluate_demo.answer_all(model, tokenizer, chats, is_greedy=True)
    assert answers == list(asked_and_answered.values())
