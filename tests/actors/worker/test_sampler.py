"""A token is a function of its row's logits and its request, and follows the right distribution."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenreel.actors.worker.largest import largest
from tokenreel.actors.worker.sampled import Sampled, mark_not_finite
from tokenreel.actors.worker.sampler import sample
from tokenreel.actors.worker.sampling_table import SamplingTable
from tokenreel.actors.worker.torch_sampling import inverse_cdf
from tokenreel.kernels.cpu.sampling import NOT_FINITE
from tokenreel.kernels.cpu.team import Team
from tokenreel.messages.sampling import SamplingParams

History = tuple[list[int], list[int]]

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
COMPILED, TORCH = Team(2, 1), None
TEAMS = pytest.mark.parametrize("team", [COMPILED, TORCH], ids=["compiled", "torch"])


def choose(
    logits: Tensor,
    params: list[SamplingParams],
    histories: list[History] | None = None,
    team: Team | None = COMPILED,
) -> Sampled:
    """Samples each row of `logits` with its parameters and its (prompt, output)."""
    histories = histories or [([0], [])] * len(params)
    table = SamplingTable(len(params))
    for row, (sampling, (prompt, _)) in enumerate(zip(params, histories, strict=True)):
        table.set(row, sampling, len(prompt))

    def history(row: int, position: int) -> tuple[Any, Any]:
        prompt, output = histories[row]
        assert position == len(output)
        return np.array(prompt, np.int32), np.array(output, np.int32)

    num_tokens = np.array([len(prompt) + len(output) for prompt, output in histories])
    batch = table.select(np.arange(len(params)), num_tokens, history)
    if batch.is_plain:
        return Sampled(mark_not_finite(*largest(logits)))
    return as_tensors(sample(logits.clone(), batch, team))


def as_tensors(sampled: Sampled) -> Sampled:
    """Compiled kernels give arrays."""
    logprobs = [
        replace(
            entry,
            sampled=torch.as_tensor(entry.sampled),
            top_ids=torch.as_tensor(entry.top_ids),
            top=torch.as_tensor(entry.top),
        )
        for entry in sampled.logprobs
    ]
    return Sampled(torch.as_tensor(sampled.token_ids), logprobs)


def frequencies(logits: Tensor, params: SamplingParams, count: int, team: Team | None) -> Tensor:
    """How often each token comes, over `count` seeds."""
    rows = [seeded(params, seed) for seed in range(count)]
    token_ids = choose(logits.expand(count, -1), rows, team=team).token_ids
    return torch.bincount(token_ids, minlength=len(logits))


def seeded(params: SamplingParams, seed: int) -> SamplingParams:
    return msgspec.structs.replace(params, seed=seed)


def expected_distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """The filtered softmax, written down as the definitions say it."""
    p = torch.softmax(logits.double() / params.temperature, -1)
    p[p < params.min_p * p.max()] = 0
    if params.top_k:
        p[p < torch.sort(p, descending=True).values[min(params.top_k, len(p)) - 1]] = 0
    p /= p.sum()
    order = torch.argsort(p, descending=True)
    before = p[order].cumsum(0) - p[order]
    p[order[before >= params.top_p]] = 0
    return p / p.sum()


FILTERS = {
    "none": SamplingParams(),
    "cool": SamplingParams(temperature=0.5),
    "hot": SamplingParams(temperature=2.0),
    "top_k": SamplingParams(top_k=7),
    "top_k_all": SamplingParams(top_k=5000),
    "top_p": SamplingParams(top_p=0.7),
    "top_p_tiny": SamplingParams(top_p=1e-6),
    "min_p": SamplingParams(min_p=0.2),
    "all": SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("vocab_size", [3, 40, 700])
@pytest.mark.parametrize("name", FILTERS)
@TEAMS
def test_tokens_follow_the_filtered_distribution(
    name: str, vocab_size: int, team: Team | None
) -> None:
    params, count = FILTERS[name], 8_000
    logits = 2 * torch.randn(vocab_size, generator=torch.Generator().manual_seed(1))
    expected = expected_distribution(logits, params) * count
    found = frequencies(logits, params, count, team)
    assert found[expected == 0].sum() == 0
    # Rare tokens share a bucket, so that the sum below is nearly chi-square distributed.
    common = expected >= 10
    pairs = [(found[common], expected[common])]
    if expected[~common].sum() >= 10:
        pairs.append((found[~common].sum()[None], expected[~common].sum()[None]))
    chi_square = sum(float(((f - e) ** 2 / e).sum()) for f, e in pairs)
    freedom = sum(len(e) for _, e in pairs) - 1
    assert chi_square <= freedom + 4 * math.sqrt(2 * max(freedom, 1))


@TEAMS
def test_top_p_looks_beyond_the_first_candidates(team: Team | None) -> None:
    """A flat distribution needs more tokens than are sorted at first."""
    logits = torch.linspace(0, 0.01, 5000)
    found = frequencies(logits, SamplingParams(top_p=0.9), 4_000, team)
    kept = expected_distribution(logits, SamplingParams(top_p=0.9)) > 0
    # The outermost token may fall on either side: the sums differ in their last digits.
    first = int(kept.nonzero()[0])
    assert found[: first - 1].sum() == 0
    assert found[first:].count_nonzero() > 2000


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    shares=st.lists(st.tuples(st.integers(0, 699), st.floats(1e-30, 1.0)), min_size=1, max_size=9),
    place=st.integers(0, 9),
)
def test_no_number_leads_to_a_token_without_weight(
    shares: list[tuple[int, float]], place: int
) -> None:
    """Not even one on the edge between two tokens, nor the last below 1."""
    weights = torch.zeros(1, 700)
    for token_id, share in shares:
        weights[0, token_id] = share
    cumulated = weights.double().cumsum(1)
    edges = (cumulated / cumulated[:, -1:]).unique()
    below_one = 1 - 2.0**-53
    number = min(float(edges[place % len(edges)]), below_one) if place else below_one
    chosen = inverse_cdf(weights, torch.tensor([number], dtype=torch.float64))
    assert weights[0, chosen] > 0


SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 600]),
    top_p=st.sampled_from([1.0, 0.5, 0.99]),
    min_p=st.sampled_from([0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 2**64 - 1),
    logit_bias=st.sampled_from([(), ((5, 4.0), (7, -100.0))]),
    num_logprobs=st.sampled_from([-1, 0, 3]),
    min_tokens=st.sampled_from([0, 4]),
    stop_token_ids=st.sampled_from([(), (2, 9)]),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    params=st.lists(SAMPLINGS, min_size=2, max_size=9),
    vocab_size=st.sampled_from([11, 256, 1500]),
    seed=st.integers(0, 1000),
)
def test_a_row_does_not_know_its_neighbours(
    params: list[SamplingParams], vocab_size: int, seed: int
) -> None:
    """Tokens and log-probabilities are the same, to the bit, alone and in any company."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(params), vocab_size, generator=generator)
    histories = [([1, 2, 3], [int(i) % 11 for i in range(n)]) for n in range(len(params))]
    together = choose(logits, params, histories)
    for row in range(len(params)):
        own = slice(row, row + 1)
        alone = choose(logits[own], params[own], histories[own])
        assert together.token_ids[row] == alone.token_ids[0]
        for mine in alone.logprobs:
            theirs = together.logprobs[0]
            at, top = theirs.rows.index(row), mine.num_top[0]
            assert theirs.num_top[at] == top
            assert theirs.sampled[at] == mine.sampled[0]
            assert torch.equal(theirs.top[at][:top], mine.top[0][:top])


def test_many_rows_at_once_are_each_what_they_are_alone() -> None:
    """Enough rows and tokens that every library takes its parallel and blocked paths."""
    logits = 4 * torch.randn(70, 33_000, generator=torch.Generator().manual_seed(0))
    params = [
        SamplingParams(temperature=1.0, top_p=0.9 if seed % 3 == 0 else 1.0, seed=seed)
        for seed in range(70)
    ]
    together = choose(logits, params).token_ids.tolist()
    for row in range(0, 70, 7):
        own = slice(row, row + 1)
        assert choose(logits[own], params[own]).token_ids.tolist() == together[own]


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(3, 50)
    logits[1, 20:] = 1.0
    logits[2, 49] = 1.0
    greedy = [SamplingParams(temperature=0.0)] * 3
    assert choose(logits, greedy).token_ids.tolist() == [0, 20, 49]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@TEAMS
def test_rows_that_are_not_finite_say_so_and_harm_nobody(
    bad: float, temperature: float, team: Team | None
) -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    params = [
        SamplingParams(temperature=temperature, top_p=0.9, seed=i, num_logprobs=2) for i in range(3)
    ]
    expected = choose(logits, params, team=team).token_ids.tolist()
    logits[1, 7] = bad
    found = choose(logits, params, team=team).token_ids.tolist()
    assert found == [expected[0], NOT_FINITE, expected[2]]


def test_a_row_with_everything_masked_is_not_finite() -> None:
    banned = SamplingParams(min_tokens=2, stop_token_ids=(0, 1, 2))
    assert choose(torch.zeros(1, 3), [banned]).token_ids.tolist() == [NOT_FINITE]


def test_stop_tokens_are_masked_until_min_tokens_are_out() -> None:
    params = SamplingParams(temperature=0.0, min_tokens=2, stop_token_ids=(4, 1000))
    logits = torch.zeros(1, 6)
    logits[0, 4] = 9.0
    logits[0, 3] = 5.0
    tokens = [choose(logits, [params], [([0], [0] * n)]).token_ids.item() for n in range(4)]
    assert tokens == [3, 3, 4, 4]


def test_a_bias_is_added_before_the_choice() -> None:
    params = SamplingParams(temperature=0.0, logit_bias=((2, 3.0), (5, 2.5), (99, 100.0)))
    logits = torch.zeros(1, 6)
    logits[0, 5] = 0.6
    assert choose(logits, [params]).token_ids.tolist() == [5]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # Prompt 1, 1, 2; output 2, 3, 3. Logits 4, -2, 6, 8, 0.
        (SamplingParams(repetition_penalty=2.0), [4, -4, 3, 4, 0]),
        (SamplingParams(frequency_penalty=1.5), [4, -2, 4.5, 5, 0]),
        (SamplingParams(presence_penalty=-1.0), [4, -2, 7, 9, 0]),
        (
            SamplingParams(repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=0.5),
            [4, -4, 1.5, 1.5, 0],
        ),
    ],
)
def test_penalties_change_the_logits_as_defined(
    params: SamplingParams, expected: list[float], adjusted: Callable[..., Tensor]
) -> None:
    logits = torch.tensor([4.0, -2.0, 6.0, 8.0, 0.0])
    assert adjusted(logits, params, [1, 1, 2], [2, 3, 3]).tolist() == expected


@pytest.fixture
def adjusted() -> Callable[..., Tensor]:
    from tokenreel.actors.worker.logit_adjustments import adjust
    from tokenreel.actors.worker.sampling_table import Adjustment

    def apply(
        logits: Tensor, params: SamplingParams, prompt: list[int], output: list[int]
    ) -> Tensor:
        ids = [np.array(tokens, np.int32) for tokens in (prompt, output)]
        adjust(logits, Adjustment(params, len(output), *ids))
        return logits

    return apply


def test_repetition_penalty_is_that_of_transformers(adjusted: Callable[..., Tensor]) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    prompt, output = [3, 4, 4, 30], [4, 7, 7]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(
        torch.tensor([prompt + output]), logits[None].clone()
    )[0]
    found = adjusted(logits.clone(), SamplingParams(repetition_penalty=1.3), prompt, output)
    assert torch.equal(found, expected)


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    params = [
        SamplingParams(num_logprobs=0, temperature=0.0),
        SamplingParams(num_logprobs=-1),
        SamplingParams(num_logprobs=5, temperature=0.2, top_k=1, logit_bias=((3, 50.0),)),
    ]
    sampled = choose(logits, params)
    (entry,) = sampled.logprobs
    expected = torch.log_softmax(logits, -1)
    assert entry.rows == [0, 2]
    assert entry.num_top == [0, 5]
    assert sampled.token_ids[2] == 3
    torch.testing.assert_close(entry.sampled, expected[[0, 2], sampled.token_ids[[0, 2]]], **CLOSE)
    torch.testing.assert_close(entry.top[1], torch.topk(expected[2], 5).values, **CLOSE)
    assert torch.equal(entry.top_ids[1], torch.topk(expected[2], 5).indices)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    num_logprobs=st.sampled_from([0, 1, 5, 20, 5000]),
    vocab_size=st.sampled_from([3, 30, 257, 4099]),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
)
def test_logprobs_are_those_of_torch(
    num_logprobs: int, vocab_size: int, seed: int, spread: float
) -> None:
    logits = spread * torch.randn(4, vocab_size, generator=torch.Generator().manual_seed(seed))
    logits[1, ::2] = -math.inf
    params = [SamplingParams(num_logprobs=num_logprobs, seed=seed)] * 4
    found, expected = (choose(logits, params, team=team) for team in (COMPILED, TORCH))
    assert torch.equal(found.token_ids, expected.token_ids)
    (mine,), (theirs,) = found.logprobs, expected.logprobs
    torch.testing.assert_close(mine.sampled, theirs.sampled, **CLOSE)
    torch.testing.assert_close(mine.top, theirs.top, **CLOSE)
    logprobs = torch.log_softmax(logits, -1)
    torch.testing.assert_close(logprobs.gather(1, mine.top_ids), theirs.top, **CLOSE)


def test_the_lowest_of_equally_likely_tokens_come_first() -> None:
    logits = torch.zeros(1, 600)
    logits[0, [7, 300, 599]] = 2.0
    logits[0, 450] = 3.0
    (entry,) = choose(logits, [SamplingParams(num_logprobs=8)]).logprobs
    assert entry.top_ids.tolist() == [[450, 7, 300, 599, 0, 1, 2, 3]]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    temperature=st.sampled_from([0.01, 0.3, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 2, 50, 600, 4000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 1e-4]),
    min_p=st.sampled_from([0.0, 1e-4, 0.05, 0.5, 1.0]),
    vocab_size=st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 1000, 5003]),
    shape=st.sampled_from(["random", "ties", "masked", "dominant", "flat", "equal", "far"]),
    seed=st.integers(0, 1000),
)
def test_compiled_sampling_chooses_what_torch_does(
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    vocab_size: int,
    shape: str,
    seed: int,
) -> None:
    """Over 20 numbers each; where a sum is rounded differently, at most one of them may fall on the
    other side of an edge, to a neighbour of the token among those that can be drawn."""
    logits = shaped_logits(shape, vocab_size, seed).expand(20, -1)
    params = [
        SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed + i
        )
        for i in range(20)
    ]
    found, expected = (choose(logits, params, team=team).token_ids for team in (COMPILED, TORCH))
    assert (found != expected).sum() <= 1


def shaped_logits(shape: str, vocab_size: int, seed: int) -> Tensor:
    logits = 3 * torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))
    place = seed % vocab_size
    if shape == "ties":
        return logits.round()
    if shape == "masked":
        logits[logits < logits[place]] = -math.inf
    elif shape == "dominant":
        logits[place] = 60.0
    elif shape == "flat":
        return logits / 1000
    elif shape == "equal":
        return torch.full_like(logits, 2.5)
    elif shape == "far":
        return logits - 1e4
    return logits


def test_hardly_any_draw_differs_from_torch() -> None:
    """At most 1 of 1,800, over filters and vocabularies: where rounding moves an edge."""
    num_different = 0
    for vocab_size in (5_000, 33_000):
        logits = 2 * torch.randn(100, vocab_size, generator=torch.Generator().manual_seed(7))
        for params in FILTERS.values():
            rows = [seeded(params, seed) for seed in range(100)]
            found, expected = (
                choose(logits, rows, team=team).token_ids for team in (COMPILED, TORCH)
            )
            num_different += int((found != expected).sum())
    assert num_different <= 1
