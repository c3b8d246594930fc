"""Sums of products are those of integers, by every instruction that this CPU has."""

import numpy as np
import pytest
from numba import njit

from tokenreel.kernels.cpu.byte_dots import INSTRUCTIONS, PAIR, TOKENS, make_dots


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize(("num_rows", "num_vectors", "num_chains"), [(1, 4, 2), (4, 2, 1)])
def test_sums_are_exact(instruction: str, num_rows: int, num_vectors: int, num_chains: int) -> None:
    dots = make_dots(num_rows, num_vectors, num_chains, instruction)

    @njit
    def run(weights, group, shorts, row, out):  # type: ignore[no-untyped-def]
        dots(weights, group, shorts, row, out)

    depth, random = 48, np.random.default_rng(0)
    weights = random.integers(-127, 128, (3, depth // PAIR, TOKENS, PAIR)).astype(np.int8)
    shorts = random.integers(-(2**15), 2**15, (6, depth)).astype(np.int16)
    weights[2, :, 5], shorts[2] = -127, 2**15 - 1
    out = np.full((num_rows, TOKENS), np.nan, np.float32)
    run(weights, 2, shorts, 1, out)
    by_token = weights[2].transpose(1, 0, 2).reshape(TOKENS, depth).astype(np.int64)
    expected = shorts[1 : 1 + num_rows].astype(np.int64) @ by_token.T
    assert (out == expected.astype(np.float32)).all()
