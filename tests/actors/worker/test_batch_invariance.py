"""On a CPU a sequence's logits have the same bits in every batch and under every schedule."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenreel.actors.worker import model_runner
from tokenreel.messages.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.1, top_p=0.9, seed=77)
ADJUSTED = SamplingParams(
    temperature=0.9, min_p=0.01, frequency_penalty=0.5, num_logprobs=2, seed=78
)
NUM_OUTPUTS = 6
BLOCK_SIZE = 4
FORMATS = [
    ("qwen3", "bfloat16", None),
    ("mistral_window", "float16", None),
    ("llama_biases_head_dim", "float32", "int8"),
    ("qwen3", "bfloat16", "int8"),
    ("mistral_window", "float32", "int8-weight-only"),
    ("llama_biases_head_dim", "bfloat16", "int8-weight-only"),
]
"""Each with one shape: kernels do not mix formats, and each format is seconds of compilation."""
SPLIT_TOKENS = 256
"""Of a context, by which attention is cut, and rows of a product that a thread takes at once."""


class Recorder:
    """A model that keeps the logits it last gave, of greedy rows too."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.last = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.logits(hidden)
        self.last = logits.clone()
        return logits

    def greedy(self, hidden: Any) -> Any:
        """What batches get in which nobody samples: the first largest of the same logits."""
        token_ids = self._model.greedy(hidden)
        assert token_ids.tolist() == self.logits(hidden).numpy().argmax(1).tolist()
        return token_ids


class Observed:
    """A driver, and the logits that each sequence's tokens were chosen from."""

    def __init__(self, driver_type: Callable[..., Any], model: Any, **options: Any) -> None:
        self._recorder = Recorder(model)
        self.driver = driver_type(self._recorder, **options)
        self._rows: dict[int, list[Tensor]] = {}

    def step(self, lengths: dict[Any, int]) -> None:
        self._recorder.last = torch.empty(0)
        output = self.driver.step(lengths)
        assert not output.failures
        for tokens, row in zip(output.outputs, self._recorder.last, strict=True):
            self._rows.setdefault(tokens.seq_id, []).append(row)

    def bits(self, sequence: Any) -> Tensor:
        """[outputs, vocab_size]"""
        return torch.stack(self._rows[sequence.seq_id]).view(torch.int32)

    def run_alone(self, prompt: list[int], sampling: SamplingParams, chunk: int = 1 << 20) -> Any:
        sequence = self.driver.add(prompt, sampling)
        while len(sequence.output) < NUM_OUTPUTS:
            missing = sequence.num_known - sequence.num_computed
            self.step({sequence.seq_id: min(chunk, missing)})
        return sequence


_UP_TO_3 = st.integers(0, 3)
_SELDOM = st.integers(0, 7).map(lambda number: number == 7)


def check_random_schedules(
    model: Any, new_driver: Callable[..., Any], random_tokens: Callable[..., list[int]]
) -> None:
    """The first sequence's blocks are the prefix of the second; the second and third are preempted
    and come back with some of their blocks or none."""

    @settings(derandomize=True, deadline=None, max_examples=6)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        first = random_tokens(19, 1)
        forked = first[:12] + random_tokens(data.draw(st.integers(1, 9), "forked"), 2)
        prompts = [first, forked, first[5:15]]
        samplings = data.draw(st.sampled_from([[GREEDY] * 3, [GREEDY, SAMPLED, ADJUSTED]]))
        samplings = data.draw(st.permutations(samplings), "samplings")
        alone = Observed(new_driver, model)
        expected = [alone.run_alone(*each) for each in zip(prompts, samplings, strict=True)]
        together = Observed(new_driver, model)
        found = run_together(data, together, prompts, samplings)
        for one, other in zip(expected, found, strict=True):
            assert one.output == other.output
            assert torch.equal(alone.bits(one), together.bits(other))

    run()


def run_together(
    data: st.DataObject,
    observed: Observed,
    prompts: list[list[int]],
    samplings: list[SamplingParams],
) -> list[Any]:
    """The sequences, once each has put out all it shall."""
    driver = observed.driver
    owner, sharer, other = (driver.add(p, s) for p, s in zip(prompts, samplings, strict=True))
    num_shared = data.draw(_UP_TO_3, "shared")
    while unfinished := [s for s in (owner, sharer, other) if len(s.output) < NUM_OUTPUTS]:
        if not sharer.blocks and num_shared and owner.num_computed >= num_shared * BLOCK_SIZE:
            sharer.blocks = owner.blocks[:num_shared]
            sharer.num_computed = num_shared * BLOCK_SIZE
        lengths = {}
        for sequence in data.draw(st.permutations(unfinished), "order"):
            if sequence is sharer and len(sharer.blocks) < num_shared:
                continue
            if sequence is not owner and sequence.is_added and data.draw(_SELDOM, "preempt"):
                least = num_shared if sequence is sharer else 0
                most = sequence.num_computed // BLOCK_SIZE
                driver.preempt(sequence, data.draw(st.integers(least, most), "kept"))
            missing = sequence.num_known - sequence.num_computed
            if length := missing - data.draw(st.integers(0, missing), "left"):
                lengths[sequence.seq_id] = length
        if lengths:
            observed.step(lengths)
    return [owner, sharer, other]


def test_no_schedule_changes_a_bit(
    variant: str,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    check_random_schedules(small_model(variant).decoder, new_driver, random_tokens)


@pytest.mark.parametrize(("shape", "dtype", "quantization"), FORMATS)
def test_no_schedule_changes_a_bit_in_any_number_format(
    shape: str,
    dtype: str,
    quantization: str | None,
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    directory = small_model(shape).directory
    model = load_decoder(directory, dtype, quantization=quantization)
    check_random_schedules(model, new_driver, random_tokens)


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", None), ("bfloat16", None), ("bfloat16", "int8")]
)
def test_long_contexts_are_the_same_however_they_are_cut_and_by_any_number_of_threads(
    dtype: str,
    quantization: str | None,
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """Attention splits such contexts, and hands the splits to several threads; a product's rows
    are handed out in parts."""
    directory = small_model("qwen3").directory
    room = {"max_model_len": 1024, "num_blocks": 128, "max_num_batched_tokens": 2048}

    def observe(num_threads: int, block_size: int) -> Observed:
        model = load_decoder(
            directory,
            dtype,
            quantization=quantization,
            num_threads=num_threads,
            max_model_len=room["max_model_len"],
        )
        return Observed(new_driver, model, block_size=block_size, **room)

    prompt = random_tokens(3 * SPLIT_TOKENS - 2)
    alone = observe(1, 16)
    expected = alone.bits(alone.run_alone(prompt, GREEDY))
    for num_threads, block_size, chunk in [(2, 16, 1024), (2, 32, 300), (1, 64, 255), (2, 16, 47)]:
        other = observe(num_threads, block_size)
        driver = other.driver
        companions = [driver.add(random_tokens(300, seed)) for seed in range(3)]
        other.step({companion.seq_id: 300 for companion in companions})
        sequence = driver.add(prompt)
        while len(sequence.output) < NUM_OUTPUTS:
            missing = sequence.num_known - sequence.num_computed
            lengths = {companion.seq_id: 1 for companion in companions}
            other.step(lengths | {sequence.seq_id: min(missing, chunk)})
        assert torch.equal(other.bits(sequence), expected)


def test_logits_in_parts_choose_the_same_tokens(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts of two rows, the last of one; log-probabilities find their sequences again."""
    model = small_model("llama").decoder
    samplings = [ADJUSTED, GREEDY, SAMPLED, ADJUSTED, GREEDY]

    def run() -> list[Any]:
        driver = new_driver(model)
        sequences = [driver.add(random_tokens(7, i), each) for i, each in enumerate(samplings)]
        outputs = [driver.step({s.seq_id: 7 for s in sequences})]
        outputs += [driver.step({s.seq_id: 1 for s in sequences}) for _ in range(3)]
        return [(output.outputs, output.logprobs) for output in outputs]

    whole = run()
    assert [len(logprobs) for _, logprobs in whole] == [2] * 4
    row_bytes = 4 * model.config.vocab_size
    monkeypatch.setattr(model_runner, "MAX_CPU_LOGITS_BYTES", 2 * row_bytes)
    assert run() == whole
