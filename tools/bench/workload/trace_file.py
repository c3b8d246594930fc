"""Arrivals and lengths from a trace file, in the form of the published traces.

One JSON object per line: `timestamp`, `input_length`, `output_length`, and perhaps `hash_ids`, one
for each block of the prompt, where equal ids stand for equal tokens (Mooncake's traces, blocks of
512 and milliseconds; Alibaba's Qwen traces, blocks of 16). vLLM's `timed_trace` reads the same.
"""

import random
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tokenreel.tools.bench.workload.lines import BadWorkload, decode_line, read_lines
from tokenreel.tools.bench.workload.prompts import Prompt, random_tokens

Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class TraceLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: Count
    output_length: Count
    hash_ids: list[int] = []


class TraceForm(msgspec.Struct, frozen=True, kw_only=True):
    """How the lines are to be read."""

    seconds_per_unit: float = 1.0
    """Of `timestamp`: 0.001 for milliseconds."""
    block_size: int = 16
    """Tokens for which one of `hash_ids` stands."""
    vocab_size: int
    seed: int = 0


def read_trace(path: Path, form: TraceForm, max_prompts: int | None) -> list[Prompt]:
    """The first `max_prompts` lines as prompts of random tokens, due as they came, from the first
    one on. Raises BadWorkload."""
    placed = [(place, decode_line(_decoder, place, line)) for place, line in read_lines(path)]
    lines = [line for _, line in placed][:max_prompts]
    if not lines:
        raise BadWorkload(f"{path} holds no request")
    for (_, before), (place, line) in zip(placed, placed[1:], strict=False):
        if line.timestamp < before.timestamp:
            raise BadWorkload(f"{place}: timestamps go back; sort the file by them")
    blocks = _Blocks(form)
    rng = random.Random(f"trace {form.seed}")
    return [
        Prompt(
            _tokens(line, blocks, rng, form),
            line.output_length,
            (line.timestamp - lines[0].timestamp) * form.seconds_per_unit,
        )
        for line in lines
    ]


_decoder = msgspec.json.Decoder(TraceLine)


class _Blocks:
    """The tokens that an id stands for: the same ones each time."""

    def __init__(self, form: TraceForm) -> None:
        self._form = form
        self._tokens: dict[int, list[int]] = {}

    def tokens(self, hash_id: int) -> list[int]:
        found = self._tokens.get(hash_id)
        if found is None:
            rng = random.Random(f"block {self._form.seed} {hash_id}")
            found = random_tokens(rng, self._form.block_size, self._form.vocab_size)
            self._tokens[hash_id] = found
        return found


def _tokens(line: TraceLine, blocks: _Blocks, rng: random.Random, form: TraceForm) -> list[int]:
    tokens: list[int] = []
    for hash_id in line.hash_ids:
        if len(tokens) >= line.input_length:
            break
        tokens += blocks.tokens(hash_id)
    tokens = tokens[: line.input_length]
    return tokens + random_tokens(rng, line.input_length - len(tokens), form.vocab_size)
