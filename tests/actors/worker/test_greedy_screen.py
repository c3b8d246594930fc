"""The screened argmax is the argmax of the float32 logits, whatever the weights and the rows."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenreel.actors.worker.models import greedy_screen
from tokenreel.actors.worker.models.approximate_product import (
    EightBitProduct,
    SixteenBitProduct,
)
from tokenreel.actors.worker.models.greedy_screen import GreedyScreen, make_screen

Product = EightBitProduct | SixteenBitProduct


@pytest.fixture(params=[EightBitProduct, SixteenBitProduct])
def make_product(request: pytest.FixtureRequest) -> Callable[[Tensor], Product]:
    if not request.param.is_supported():
        pytest.skip(f"{request.param.__name__} needs instructions that this CPU does not have")
    make: Callable[[Tensor], Product] = request.param
    return make


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def winners(weight: Tensor, hidden: Tensor) -> Tensor:
    return (hidden.double() @ weight.double().t()).argmax(1)


@pytest.mark.parametrize("vocab_size", [2, 100, 8191, 8193, 20_000])
@pytest.mark.parametrize("hidden_size", [8, 72, 128])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1e3])
def test_the_winner_is_always_among_the_candidates(
    make_product: Callable[[Tensor], Product], vocab_size: int, hidden_size: int, scale: float
) -> None:
    weight = draw(vocab_size, hidden_size, seed=vocab_size) * 0.02
    product = make_product(weight)
    for num_rows in (1, 3, 65):
        hidden = draw(num_rows, hidden_size, seed=num_rows) * scale
        found = product.candidates(hidden)
        assert found is not None
        pairs = set(zip(found.rows.tolist(), found.token_ids.tolist(), strict=True))
        expected = enumerate(winners(weight, hidden).tolist())
        assert set(expected) <= pairs
        assert max(token for _, token in pairs) < vocab_size
        assert (found.rows[1:] >= found.rows[:-1]).all()


@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 20),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 1e-1]),
    outlier=st.sampled_from([0.0, 1.0, 100.0]),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_close_rivals_and_outliers_do_not_mislead_it(
    seed: int, num_rows: int, spread: float, outlier: float
) -> None:
    """Rows of the weights differ by `spread` only, so that every logit is close to every other."""
    weight = draw(1, 32, seed=seed) + spread * draw(300, 32, seed=seed + 1)
    weight[seed % 300] += 0.01
    hidden = draw(num_rows, 32, seed=seed + 2)
    hidden[0, 0] += outlier
    found = GreedyScreen(weight).largest(hidden)
    if found is None:
        return  # too many candidates: all logits are computed instead
    logits = hidden.double() @ weight.double().t()
    best = logits.max(1).values
    chosen = logits.gather(1, found[0].unsqueeze(1)).squeeze(1)
    assert torch.allclose(chosen, best, rtol=1e-6, atol=1e-5)
    assert torch.allclose(found[1].double(), best, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("num_rows", [1, 40])
def test_the_lowest_of_equals_wins(num_rows: int) -> None:
    weight = 0.01 * draw(500, 16, seed=1)
    weight[77] = weight[401] = weight[499] = 1.0
    found = GreedyScreen(weight).largest(draw(num_rows, 16, seed=2).abs())
    assert found is None or found[0].tolist() == [77] * num_rows


@pytest.mark.parametrize("num_rows", [2, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_rows_that_are_not_finite_are_left_to_the_full_product(num_rows: int, value: float) -> None:
    hidden = draw(num_rows, 16, seed=3)
    hidden[1] = value
    assert GreedyScreen(0.02 * draw(400, 16, seed=4)).largest(hidden) is None


def test_hidden_states_that_are_zero_are_left_to_the_full_product() -> None:
    screen = GreedyScreen(0.02 * draw(400, 16, seed=4))
    assert screen.largest(torch.zeros(2, 16)) is None


def test_it_is_made_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(100, 8, seed=5)
    assert make_screen(weight) is None
    monkeypatch.setattr(greedy_screen, "MIN_WEIGHTS", 800)
    assert make_screen(weight) is not None
    assert make_screen(weight.bfloat16()) is None
