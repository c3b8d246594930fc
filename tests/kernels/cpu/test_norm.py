"""RMSNorm of a padded row."""

import math

import numpy as np
import pytest
import torch

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.norm import rms_norm

_rms_norm = compiled(rms_norm)


@pytest.mark.parametrize("size", [1, 16, 40, 576])
def test_it_is_pytorchs_and_padding_does_not_count(size: int) -> None:
    stride = -(-size // 16) * 16
    hidden, gain = np.zeros((3, stride), np.float32), np.zeros(stride, np.float32)
    random = np.random.default_rng(size)
    hidden[:, :size], gain[:size] = random.standard_normal((3, size)), random.random(size)
    out = np.full((3, stride), math.nan, np.float32)
    _rms_norm(hidden.reshape(-1), stride, size, gain, 0, 1e-5, out.reshape(-1), stride)
    row, gains = torch.from_numpy(hidden[1, :size]), torch.from_numpy(gain[:size])
    expected = torch.nn.functional.rms_norm(row, (size,), gains, 1e-5)
    torch.testing.assert_close(torch.from_numpy(out[1, :size]), expected, rtol=1e-5, atol=1e-6)
    assert not out[1, size:].any()
    assert np.isnan(out[[0, 2]]).all()
