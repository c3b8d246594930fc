"""Steps against transformers: whatever the batch and the schedule, the tokens are the model's."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.worker.impossible_step import ImpossibleStep
from tokenreel.actors.worker.models.model import Model
from tokenreel.messages.ids import Row, StepId
from tokenreel.messages.sampling import SamplingParams
from tokenreel.messages.steps import ScheduledSequence, StepScheduled

CLEAR_MARGIN = 1e-3
"""Between the reference's best two logits: ten times the tolerance on a logit."""

GREEDY = SamplingParams(temperature=0.0)
SEEDED = SamplingParams(temperature=0.8, top_p=0.95, seed=1234)


def assert_greedy(model: Any, sequence: Any) -> None:
    """Every output token is the reference's best, wherever that is clear."""
    logits = model.reference_logits(sequence.tokens)[len(sequence.prompt) - 1 : -1]
    best = torch.topk(logits, 2)
    is_clear = best.values[:, 0] - best.values[:, 1] > CLEAR_MARGIN
    found = torch.tensor(sequence.output)
    assert is_clear.float().mean() > 0.75, "a test of nothing"
    assert torch.equal(found[is_clear], best.indices[:, 0][is_clear])


def test_mixed_lengths_share_a_batch(
    variant: str,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """Prompts end before, at and after a block boundary; one joins while others decode."""
    model = small_model(variant)
    driver = new_driver(model.decoder)
    prompts = [random_tokens(length, length) for length in (1, 4, 5, 19)]
    sequences = [driver.add(prompt) for prompt in prompts]
    driver.step({s.seq_id: len(s.prompt) for s in sequences})
    driver.decode(sequences, 5)
    late = driver.add(random_tokens(23, 7))
    running = {s.seq_id: 1 for s in sequences}
    driver.step(running | {late.seq_id: 11})
    driver.step(running | {late.seq_id: 12})
    driver.decode([*sequences, late], 8)
    for sequence in [*sequences, late]:
        assert_greedy(model, sequence)
    assert not driver.failures


def test_logprobs_are_the_references(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("qwen3")
    driver = new_driver(model.decoder)
    asking = SamplingParams(temperature=0.7, seed=5, num_logprobs=3, presence_penalty=1.0)
    sequences = [driver.add(random_tokens(9)), driver.add(random_tokens(6, 1), asking)]
    output = driver.step({s.seq_id: len(s.prompt) for s in sequences})
    (entry,) = output.logprobs
    assert entry.seq_id == sequences[1].seq_id
    logits = model.reference_logits(sequences[1].prompt)[-1]
    expected = torch.log_softmax(logits, -1)
    top = torch.topk(expected, 3)
    assert entry.top_ids == [top.indices.tolist()]
    assert entry.top[0] == pytest.approx(top.values.tolist(), abs=1e-4)
    assert entry.sampled[0] == pytest.approx(expected[sequences[1].output[0]].item(), abs=1e-4)


def test_a_prefix_in_shared_blocks_is_not_computed_again(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("mistral_window")
    driver = new_driver(model.decoder)
    first = driver.add(random_tokens(14))
    driver.step({first.seq_id: 14})
    driver.decode([first], 3)
    shared = first.blocks[:3]
    second = driver.add(first.prompt[:12] + random_tokens(5, 3), prefix_blocks=shared)
    driver.step({first.seq_id: 1, second.seq_id: 5})
    driver.decode([first, second], 6)
    assert_greedy(model, first)
    assert_greedy(model, second)


def test_a_preempted_sequence_goes_on_where_it_was(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("qwen2_window")
    prompts = [random_tokens(10), random_tokens(7, 1)]
    alone = [new_driver(model.decoder).generate(prompt, 12, SEEDED) for prompt in prompts]
    driver = new_driver(model.decoder)
    sequences = [driver.add(prompt, SEEDED) for prompt in prompts]
    victim, other = sequences
    driver.step({s.seq_id: len(s.prompt) for s in sequences})
    driver.decode(sequences, 4)
    driver.preempt(victim)
    driver.decode([other], 2)
    driver.step({victim.seq_id: 9, other.seq_id: 1})
    driver.step({victim.seq_id: len(victim.tokens) - 9, other.seq_id: 1})
    driver.decode([victim], 6)
    driver.decode([other], 3)
    assert [victim.output, other.output] == alone


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_step_may_be_launched_before_the_last_one_is_known(
    is_async: bool,
    penalty: float,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
    load_decoder: Callable[..., Model],
) -> None:
    """Its tokens are the ones that the worker itself sampled."""
    decoder = load_decoder(small_model("llama").directory, is_compiled=not is_async)
    prompts = [random_tokens(6), random_tokens(3, 1)]
    params = SamplingParams(
        temperature=0.9, seed=3, repetition_penalty=penalty, num_logprobs=1 if penalty > 1 else -1
    )
    expected = [new_driver(decoder).generate(prompt, 8, params) for prompt in prompts]
    driver = new_driver(decoder, is_async=is_async)
    first, second = (driver.add(prompt, params) for prompt in prompts)
    both = {first.seq_id: 1, second.seq_id: 1}
    lengths = [{first.seq_id: 6}, {second.seq_id: 3, first.seq_id: 1}, *[both] * 6]
    pending = [driver.runner.launch(driver.compose(length)) for length in lengths]
    pending.append(driver.runner.launch(driver.compose({second.seq_id: 1})))
    for step in pending:
        assert step.is_done()
        driver.commit(step.collect())
    assert [first.output, second.output] == expected


def test_a_late_token_does_not_reach_the_next_owner_of_its_row(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
    load_decoder: Callable[..., Model],
) -> None:
    model = small_model("llama")
    decoder = load_decoder(model.directory, is_compiled=False)
    driver = new_driver(decoder, max_num_seqs=1, is_async=True)
    first = driver.add(random_tokens(6))
    late = driver.runner.launch(driver.compose({first.seq_id: 6}))
    driver.remove(first)
    second = driver.add(random_tokens(12, 1))
    driver.step({second.seq_id: 4})
    driver.commit(late.collect())
    driver.step({second.seq_id: 8})
    driver.decode([second], 4)
    assert_greedy(model, second)


def test_a_row_forgets_who_had_it_before(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama")
    driver = new_driver(model.decoder, max_num_seqs=1)
    loaded = SamplingParams(seed=9, logit_bias=((3, 50.0),), min_tokens=30, stop_token_ids=(5,))
    first = driver.add(random_tokens(30), loaded)
    driver.step({first.seq_id: 30})
    driver.decode([first], 3)
    assert first.output == [3] * 4
    driver.remove(first)
    second = driver.add(random_tokens(5, 1))
    driver.step({second.seq_id: 5})
    driver.decode([second], 5)
    assert_greedy(model, second)


def test_logits_that_are_not_finite_fail_their_sequence_alone(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama_tied")
    driver = new_driver(model.decoder)
    asking = SamplingParams(seed=1, num_logprobs=2)
    healthy, sick, greedy = (
        driver.add(random_tokens(8, i), params) for i, params in enumerate((asking, asking, GREEDY))
    )
    driver.step({s.seq_id: 8 for s in (healthy, sick, greedy)})
    expected = new_driver(model.decoder).generate(healthy.prompt, 3, asking)
    driver.cache.pages.keys[1, sick.blocks[0]] = math.nan
    output = driver.step({s.seq_id: 1 for s in (healthy, sick, greedy)})
    assert [failure.seq_id for failure in output.failures] == [sick.seq_id]
    assert "not finite" in output.failures[0].message
    assert [entry.seq_id for entry in output.logprobs] == [healthy.seq_id]
    driver.decode([healthy, greedy], 1)
    assert healthy.output == expected
    assert_greedy(model, greedy)


def test_an_entry_that_does_not_fit_its_row_fails_alone(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama")
    driver = new_driver(model.decoder)
    first, second = driver.add(random_tokens(8)), driver.add(random_tokens(8, 1))
    step = driver.compose({first.seq_id: 8, second.seq_id: 8})
    beyond = ScheduledSequence(second.seq_id, second.row, 0, 9, 1, second.blocks)
    output = driver.runner.launch(
        StepScheduled(step.step_id, step.added, [], [step.scheduled[0], beyond])
    ).collect()
    assert [tokens.seq_id for tokens in output.outputs] == [first.seq_id]
    assert [failure.seq_id for failure in output.failures] == [second.seq_id]
    assert "9 tokens, of which 8 are known" in output.failures[0].message


def test_a_position_beyond_the_context_fails_alone(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """Its last block may have room for it; the model has not."""
    model = small_model("llama")
    driver = new_driver(model.decoder, max_model_len=9)
    long, short = driver.add(random_tokens(8)), driver.add(random_tokens(4, 1))
    driver.step({long.seq_id: 8, short.seq_id: 4})
    driver.decode([long, short], 1)
    assert not driver.failures
    driver.decode([long, short], 1)
    (failure,) = driver.failures
    assert failure.endswith("10 tokens, of which 10 are known and 9 have a place")
    driver.decode([short], 3)
    assert_greedy(model, short)


@pytest.mark.parametrize(
    "entries",
    [
        [(99, 0, 4)],
        [(-1, 0, 4)],
        [(0, -4, 4)],
        [(0, 0, 0)],
        [(0, 0, 1 << 40)],
        [(0, 1 << 70, 4)],
        [(0, 0, 4), (0, 4, 4)],
    ],
)
def test_a_step_that_makes_no_sense_changes_nothing(
    entries: list[tuple[int, int, int]],
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama")
    driver = new_driver(model.decoder)
    sequence = driver.add(random_tokens(8))
    driver.step({sequence.seq_id: 8})
    bad = [
        ScheduledSequence(sequence.seq_id, row, start, length, 1, [])  # type: ignore[arg-type]
        for row, start, length in entries
    ]
    with pytest.raises(ImpossibleStep):
        driver.runner.launch(StepScheduled(99, [], [sequence.row], bad))  # type: ignore[arg-type]
    driver.decode([sequence], 4)
    assert_greedy(model, sequence)


def test_more_tokens_than_a_step_may_have_make_no_sense(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """Together: each entry is short enough."""
    driver = new_driver(small_model("llama").decoder, max_num_batched_tokens=10)
    sequences = [driver.add(random_tokens(6)) for _ in range(2)]
    with pytest.raises(ImpossibleStep, match="more than 10 tokens"):
        driver.runner.launch(driver.compose({s.seq_id: 6 for s in sequences}))


@pytest.mark.parametrize("row", [-1, 8])
def test_only_rows_that_there_are_can_be_removed(
    row: int,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    model = small_model("llama")
    driver = new_driver(model.decoder)
    sequences = [driver.add(random_tokens(6, i)) for i in range(8)]
    driver.step({s.seq_id: 6 for s in sequences})
    with pytest.raises(ImpossibleStep, match="a row outside the 8 rows"):
        driver.runner.launch(StepScheduled(StepId(99), [], [Row(row)], []))
    driver.decode(sequences, 2)
    assert not driver.failures


def test_behind_a_token_that_failed_stands_one_of_the_vocabulary(
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """The core may have sent the sequence's next step before it heard."""
    driver = new_driver(small_model("llama").decoder)
    sick = driver.add(random_tokens(8))
    driver.step({sick.seq_id: 8})
    driver.cache.pages.keys[1, sick.blocks[0]] = math.nan
    failed, late = (driver.compose({sick.seq_id: 1}) for _ in range(2))
    assert driver.runner.launch(failed).collect().failures
    step_input, _ = driver.batch.apply(late)
    assert 0 <= step_input.token_ids[0] < 131


@settings(derandomize=True, deadline=None, max_examples=25)
@given(data=st.data())
def test_no_schedule_changes_a_token(
    data: st.DataObject,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
) -> None:
    """Random chunks, batches and preemptions give what each sequence gives by itself."""
    model = small_model("llama_biases_head_dim")
    prompts = [random_tokens(length, length) for length in (3, 9, 14)]
    samplings = [
        GREEDY,
        SamplingParams(temperature=1.1, top_k=40, seed=77),
        SamplingParams(temperature=0.9, min_p=0.01, frequency_penalty=0.5, seed=78),
    ]
    expected = [
        new_driver(model.decoder).generate(prompt, 6, sampling)
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    driver = new_driver(model.decoder)
    sequences = [driver.add(p, s) for p, s in zip(prompts, samplings, strict=True)]
    while unfinished := [s for s in sequences if len(s.output) < 6]:
        lengths = {}
        for sequence in unfinished:
            if sequence.is_added and data.draw(st.integers(0, 7)) == 7:
                driver.preempt(sequence)
            missing = sequence.num_known - sequence.num_computed
            if length := missing - data.draw(st.integers(0, missing)):
                lengths[sequence.seq_id] = length
        if lengths:
            driver.step(lengths)
    assert [sequence.output for sequence in sequences] == expected
    assert not driver.failures
