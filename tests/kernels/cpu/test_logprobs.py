"""Log-probabilities are those of a softmax in float64, the most likely first."""

import math

import numpy as np
import pytest

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.logprobs import log_softmax_row
from tokenreel.kernels.cpu.sampling import make_row_scratch

_log_softmax_row = compiled(log_softmax_row)

START = 3


@pytest.mark.parametrize("size", [1, 15, 16, 255, 257, 4099])
@pytest.mark.parametrize("kind", ["random", "ties", "masked", "far"])
def test_the_most_likely_come_first(size: int, kind: str) -> None:
    """All that there are, of equals the lowest token, and nothing of what lies around the row."""
    random = np.random.default_rng(size)
    row = np.full(START + size + 40, math.nan, np.float32)
    logits = row[START : START + size]
    logits[:] = 3 * random.standard_normal(size)
    if kind == "ties":
        logits[:] = logits.round()
    elif kind == "masked":
        logits[1:][random.random(size - 1) < 0.9] = -math.inf
    elif kind == "far":
        logits -= 1000
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-logits, kind="stable")
    for num_top in sorted({0, 1, min(5, size), min(20, size), size}):
        log_sum = np.full(2, math.nan, np.float32)
        top_ids, top = np.full(size, -1), np.full(size, math.nan, np.float32)
        scratch = make_row_scratch(size)
        _log_softmax_row(row, START, size, num_top, log_sum, top_ids, top, scratch)
        found = logits - log_sum[0] - log_sum[1]
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)
        assert top_ids[:num_top].tolist() == order[:num_top].tolist()
        assert top[:num_top].tolist() == found[order[:num_top]].tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_has_none(bad: float) -> None:
    row = np.zeros(300, np.float32)
    row[299] = bad
    log_sum = np.zeros(2, np.float32)
    top_ids, top = np.full(3, -1), np.full(3, math.nan, np.float32)
    _log_softmax_row(row, 0, 300, 3, log_sum, top_ids, top, make_row_scratch(300))
    assert np.isnan(log_sum).all()
    assert top_ids.tolist() == [0, 0, 0]
