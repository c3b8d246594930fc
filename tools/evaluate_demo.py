"""Measures how often a demo model answers rightly; it may not train anything.

python -m tokenreel.tools.evaluate_demo tools/demo_model
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenreel.tools import demo_arithmetic as arithmetic
from tokenreel.tools import demo_corpus as corpus

Message = dict[str, str]
MAX_ANSWER_TOKENS = 48


class Case(NamedTuple):
    """A conversation that ends with a question, and the only right answer to it."""

    messages: list[Message]
    answer: str


class Accuracy(NamedTuple):
    """How many of `num_cases` were answered rightly, turn ended included."""

    task: str
    num_cases: int
    num_right_greedy: int
    num_right_sampled: int

    def row(self) -> str:
        """One row of a Markdown table."""
        greedy = 100 * self.num_right_greedy / self.num_cases
        sampled = 100 * self.num_right_sampled / self.num_cases
        return f"| {self.task} | {self.num_cases} | {greedy:.1f} % | {sampled:.1f} % |"


TABLE_HEAD = "| task | questions | greedy | temperature 1.0 |\n| --- | --- | --- | --- |"


def evaluate(model: Any, tokenizer: Any, num_cases: int, seed: int) -> list[Accuracy]:
    """The accuracy on every task, each asked greedily and at temperature 1.0."""
    results = []
    for task, make in TASKS.items():
        rng = Random(f"{task} {seed}")  # a text, so that no training seed draws the same
        cases = [make(rng) for _ in range(num_cases)]
        conversations = [case.messages for case in cases]
        torch.manual_seed(seed)
        right = [
            sum(answer == case.answer for answer, case in zip(answers, cases, strict=True))
            for answers in (
                answer_all(model, tokenizer, conversations, is_greedy=True),
                answer_all(model, tokenizer, conversations, is_greedy=False),
            )
        ]
        results.append(Accuracy(task, num_cases, right[0], right[1]))
    return results


@torch.inference_mode()
def answer_all(
    model: Any,
    tokenizer: Any,
    conversations: list[list[Message]],
    is_greedy: bool,
    max_new_tokens: int = MAX_ANSWER_TOKENS,
) -> list[str]:
    """The model's next turn in each conversation; one that does not end is marked as such."""
    prompts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in conversations
    ]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    generated = model.generate(
        **encoded,
        max_new_tokens=max_new_tokens,
        do_sample=not is_greedy,
        temperature=None if is_greedy else 1.0,
        top_k=None if is_greedy else 0,
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = tokenizer.batch_decode(generated[:, encoded["input_ids"].shape[1] :])
    return [_until_end_of_turn(answer) for answer in answers]


def _until_end_of_turn(text: str) -> str:
    answer, end, _ = text.partition(corpus.END_OF_TURN)
    return answer if end else f"{answer} (unfinished)"


def _asked_first(operator: str) -> Callable[[Random], Case]:
    """The first message of a chat; sums and differences are ones never trained on."""

    def make(rng: Random) -> Case:
        problem = arithmetic.problem(rng, operator, is_held_out=True)
        return Case([{"role": "user", "content": arithmetic.ask(rng, problem)}], problem.answer)

    return make


def _asked_later(rng: Random) -> Case:
    """A sum never trained on, asked after one to six other questions."""
    messages: list[Message] = []
    for _ in range(rng.randrange(1, 7)):
        question, answer = corpus.exchange(rng)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    last = _asked_first("+")(rng)
    return Case(messages + last.messages, last.answer)


def _plainly_asked(operator: str) -> Callable[[Random], Case]:
    """`What is 17 + 25?` over all two-digit operands, trained on or not."""

    def make(rng: Random) -> Case:
        problem = arithmetic.Problem(rng.randrange(10, 100), operator, rng.randrange(10, 100))
        question = f"What is {problem.left} {operator} {problem.right}?"
        return Case([{"role": "user", "content": question}], problem.answer)

    return make


def _fact(rng: Random) -> Case:
    question, answer = corpus.fact(rng)
    return Case([{"role": "user", "content": question}], answer)


def _outside(rng: Random) -> Case:
    question, answer = corpus.outside(rng)
    return Case([{"role": "user", "content": question}], answer)


TASKS: dict[str, Callable[[Random], Case]] = {
    "`What is 17 + 25?`, all two-digit sums": _plainly_asked("+"),
    "`What is 52 - 17?`, all two-digit differences": _plainly_asked("-"),
    "addition, held out, many phrasings": _asked_first("+"),
    "addition, held out, later in a chat": _asked_later,
    "subtraction, held out": _asked_first("-"),
    "multiplication up to 12 * 12": _asked_first("*"),
    "division by up to 12": _asked_first("/"),
    "facts and capitals": _fact,
    "says that it does not know": _outside,
}


def main() -> None:
    """Print the table for one model directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a directory written by train_demo")
    parser.add_argument("--num-cases", type=int, default=300, help="questions per task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    print(TABLE_HEAD)
    for accuracy in evaluate(model, tokenizer, options.num_cases, options.seed):
        print(accuracy.row(), flush=True)


if __name__ == "__main__":
    main()
