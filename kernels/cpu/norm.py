"""RMSNorm of one row: x / sqrt(mean(x ** 2) + eps) * gain. Source: Zhang and Sennrich, 2019."""

import math

import numpy as np

from tokenreel.kernels.cpu.compiler import part
from tokenreel.kernels.cpu.vector import LANES, broadcast, fma, load, store, sum_lanes


@part
def rms_norm(hidden, offset, size, gain, gain_offset, eps, out, out_offset):
    """hidden: `size` float32 elements from `offset`, padded with zeros to a multiple of 16, as are
    gain and out, which may be bfloat16."""
    squares = broadcast(0.0)
    for i in range(0, size, LANES):
        x = load(hidden, offset + i)
        squares = fma(x, x, squares)
    mean = sum_lanes(squares) / np.float32(size)
    scale = broadcast(np.float32(1.0) / np.float32(math.sqrt(mean + np.float32(eps))))
    for i in range(0, size, LANES):
        normed = load(hidden, offset + i) * scale * load(gain, gain_offset + i)
        store(out, out_offset + i, normed)
