"""Philox-4x32-10, a counter-based random number generator: a number is a function of its name.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

NUM_ROUNDS = 10
_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_SCALAR_LIMIT = 8
"""Up to as many numbers, Python's integers are faster than NumPy's arrays."""


def uniforms(seeds: U64, indices: U64) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair: the generator keyed by the seed, at this index.

    seeds, indices [n] uint64; returns [n] float64 with 53 random bits each.
    """
    if len(seeds) <= _SCALAR_LIMIT:
        pairs = zip(seeds.tolist(), indices.tolist(), strict=True)
        words = [
            philox_4x32((i & _MASK, i >> 32, 0, 0), (seed & _MASK, seed >> 32))[:2]
            for seed, i in pairs
        ]
        first, second = np.array(words, np.uint64).reshape(-1, 2).T
    else:
        first, second = _philox_vectors(seeds, indices)
    high, low = first >> np.uint64(5), second >> np.uint64(6)
    result: NDArray[np.float64] = (high * np.float64(1 << 26) + low) / np.float64(1 << 53)
    return result


def philox_4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Four 32-bit words for a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _philox_vectors(seeds: U64, indices: U64) -> tuple[U64, U64]:
    """The first two words of `philox_4x32` at counters (index, 0) and keys seed, as arrays.

    Row 0 of `even` and `odd` holds words 0 and 1, row 1 words 2 and 3.
    """
    mask, half = np.uint64(_MASK), np.uint64(32)
    multipliers = np.array(_MULTIPLIERS, np.uint64)[:, None]
    steps = np.array(_KEY_STEPS, np.uint64)[:, None]
    key = np.stack([seeds & mask, seeds >> half])
    zeros = np.zeros_like(indices)
    even, odd = np.stack([indices & mask, zeros]), np.stack([indices >> half, zeros])
    for _ in range(NUM_ROUNDS):
        product = even * multipliers
        even = (product >> half)[::-1] ^ odd ^ key
        odd = (product & mask)[::-1]
        key = (key + steps) & mask
    return even[0], odd[0]
