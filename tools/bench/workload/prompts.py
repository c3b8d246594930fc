"""Prompts: random token ids, with shared prefixes if wanted, or the lines of a file."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tokenreel.tools.bench.workload.lines import BadWorkload, decode_line, read_lines

FIRST_TOKEN_ID = 10
"""Those below are special tokens in most vocabularies."""


class Prompt(msgspec.Struct, frozen=True):
    """`content` is a text, a list of token ids, or a batch of such lists. `num_output_tokens` is of
    each sequence. `due_s` counts from the start of the load."""

    content: str | list[int] | list[list[int]]
    num_output_tokens: int
    due_s: float = 0.0
    num_sequences: int = 1


class RandomPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """Random token ids below `vocab_size`, lengths uniform within `range_ratio` of their means.

    Each prompt opens with one of `num_prefixes` prefixes of `prefix_len` tokens, which come on top
    of `input_len`, as in vLLM's bench.
    """

    input_len: int
    output_len: int
    range_ratio: float = 0.0
    prefix_len: int = 0
    num_prefixes: int = 1
    vocab_size: int
    seed: str

    def make(self, num_prompts: int) -> list[Prompt]:
        """The first prompts of a series that the seed alone decides."""
        rng = random.Random(self.seed)
        prefixes = [self._tokens(rng, self.prefix_len) for _ in range(self.num_prefixes)]
        return [
            Prompt(
                rng.choice(prefixes) + self._tokens(rng, self._length(rng, self.input_len)),
                self._length(rng, self.output_len),
            )
            for _ in range(num_prompts)
        ]

    def _tokens(self, rng: random.Random, num_tokens: int) -> list[int]:
        return random_tokens(rng, num_tokens, self.vocab_size)

    def _length(self, rng: random.Random, mean: int) -> int:
        spread = round(mean * self.range_ratio)
        return max(1, rng.randint(mean - spread, mean + spread))


def batch_of(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of token ids as one request, all with the output length of the first."""
    contents: Any = [prompt.content for prompt in prompts]
    return Prompt(contents, prompts[0].num_output_tokens, num_sequences=len(prompts))


def random_tokens(rng: random.Random, num_tokens: int, vocab_size: int) -> list[int]:
    first = min(FIRST_TOKEN_ID, vocab_size - 1)
    return [first + int(rng.random() * (vocab_size - first)) for _ in range(num_tokens)]


def read_prompts(path: Path, num_prompts: int | None, output_len: int) -> list[Prompt]:
    """The prompts of a file, from the top again where it has too few. Raises BadWorkload.

    Lines of a `.jsonl` are objects with `prompt`, a text or token ids, and perhaps
    `output_tokens`, as in vLLM's custom data set; of any other file each line is a prompt.
    """
    is_json = path.suffix == ".jsonl"
    prompts = [
        _prompt_of(place, line, output_len) if is_json else Prompt(line, output_len)
        for place, line in read_lines(path)
    ]
    if not prompts:
        raise BadWorkload(f"{path} holds no prompt")
    wanted = len(prompts) if num_prompts is None else num_prompts
    return [prompts[number % len(prompts)] for number in range(wanted)]


class _Line(msgspec.Struct):
    prompt: str | list[int]
    output_tokens: Annotated[int, Meta(ge=1)] | None = None


_decoder = msgspec.json.Decoder(_Line)


def _prompt_of(place: str, line: str, output_len: int) -> Prompt:
    found = decode_line(_decoder, place, line)
    if not found.prompt:
        raise BadWorkload(f"{place}: the prompt is empty")
    return Prompt(found.prompt, found.output_tokens or output_len)
