"""Products of 8 bits with 8 or 4: exactly what integers give, with every instruction alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_product import INT8, NIBBLES, ShortProduct, random, with_each


@with_each(INT8, NIBBLES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num_rows=st.integers(1, 70),
    num_out=st.integers(1, 100),
    num_in=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_sums_are_exact(
    product: ShortProduct, instruction: str, num_rows: int, num_out: int, num_in: int, seed: int
) -> None:
    source = random(seed, num_rows, num_in)
    weight = torch.from_numpy(random(seed + 1, num_out, num_in))
    assert np.array_equal(product(instruction, source, weight), product.expected(source, weight))


@with_each(INT8, NIBBLES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_spoils_itself_alone(
    product: ShortProduct, instruction: str, bad: float
) -> None:
    source, weight = random(5, 20, 64), torch.from_numpy(random(6, 64, 64))
    clean = product(instruction, source, weight)
    source[4, 7] = bad
    result = product(instruction, source, weight)
    assert not np.isfinite(result[4]).any()
    others = np.arange(20) != 4
    assert np.array_equal(result[others], clean[others])
