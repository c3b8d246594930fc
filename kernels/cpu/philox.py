"""Philox-4x32-10, compiled: a random number is a function of its name.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import numpy as np

from tokenreel.kernels.cpu.compiler import part

_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_EVEN, _ODD = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_EVEN_STEP, _ODD_STEP = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@part
def uniform(seed, index):
    """The number in [0, 1) that the generator keyed by `seed` has at `index`: 53 random bits.

    seed, index: uint64; the counter is (index, 0). Returns float64.
    """
    c0, c1, c2, c3 = index & _MASK, index >> _HALF, np.uint64(0), np.uint64(0)
    k0, k1 = seed & _MASK, seed >> _HALF
    for _ in range(10):
        p0, p1 = c0 * _EVEN, c2 * _ODD
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _MASK, (p0 >> _HALF) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _EVEN_STEP) & _MASK, (k1 + _ODD_STEP) & _MASK
    high, low = c0 >> np.uint64(5), c1 >> np.uint64(6)
    return (np.float64(high) * 67108864.0 + np.float64(low)) / 9007199254740992.0
