"""Random numbers that are the same on every machine, in every batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.worker.philox import philox_4x32, uniforms

ONES = 0xFFFFFFFF
U64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert philox_4x32(counter, key) == words


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(U64, U64), min_size=1, max_size=20))
def test_a_number_does_not_depend_on_how_many_are_asked_for(pairs: list[tuple[int, int]]) -> None:
    seeds, indices = np.array(pairs, np.uint64).T
    together = uniforms(seeds, indices)
    alone = [uniforms(seeds[i : i + 1], indices[i : i + 1])[0] for i in range(len(pairs))]
    assert together.tolist() == alone


def test_numbers_are_uniform_over_positions_and_over_seeds() -> None:
    count = 20_000
    fixed, counting = np.full(count, 42, np.uint64), np.arange(count, dtype=np.uint64)
    for numbers in (uniforms(fixed, counting), uniforms(counting, fixed)):
        assert 0 <= numbers.min() <= numbers.max() < 1
        buckets = np.bincount((numbers * 50).astype(int), minlength=50)
        chi_square = ((buckets - count / 50) ** 2 / (count / 50)).sum()
        assert chi_square < 86  # The 99.9th percentile for 49 degrees of freedom.
