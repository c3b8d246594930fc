"""The compiled generator is the same as the one in NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.worker.philox import uniforms
from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.philox import uniform

_uniform = compiled(uniform)

WORDS = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(seed=WORDS, index=WORDS)
def test_it_has_the_same_numbers(seed: int, index: int) -> None:
    name = np.uint64(seed), np.uint64(index)
    assert _uniform(*name) == uniforms(*(np.array([word]) for word in name))[0]
