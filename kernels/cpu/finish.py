"""What becomes of a product's sums, while they are in the first-level cache.

Each takes sums [32 rows, 32 columns] of one panel, the first row and how many rows there are, the
panel, a bias (empty: none) that begins at `bias_offset`, and where the results go: a flat array
whose rows are `stride` elements apart.
"""

import numpy as np

from tokenreel.kernels.cpu.product import PANEL
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    compiled,
    exp,
    first_lanes,
    largest_or_nan,
    load,
    maximum,
    store,
)


@compiled
def _biased(sums, i, column, bias, bias_offset):
    total = load(sums, i * PANEL + column % PANEL)
    if bias.size == 0:
        return total
    return total + load(bias, bias_offset + column)


@compiled
def keep(sums, row, num_rows, panel, bias, bias_offset, out, stride):
    """The sums as they are."""
    for column in range(panel * PANEL, (panel + 1) * PANEL, LANES):
        for i in range(num_rows):
            store(out, (row + i) * stride + column, _biased(sums, i, column, bias, bias_offset))


@compiled
def add_to(sums, row, num_rows, panel, bias, bias_offset, out, stride):
    """Added to what is there: the residual."""
    for column in range(panel * PANEL, (panel + 1) * PANEL, LANES):
        for i in range(num_rows):
            place = (row + i) * stride + column
            store(out, place, load(out, place) + _biased(sums, i, column, bias, bias_offset))


@compiled
def silu_and_multiply(sums, row, num_rows, panel, bias, bias_offset, out, stride):
    """silu(gate) * up, where a panel holds 16 columns of each; 16 results per row."""
    for i in range(num_rows):
        gate = _biased(sums, i, panel * PANEL, bias, bias_offset)
        up = _biased(sums, i, panel * PANEL + LANES, bias, bias_offset)
        store(out, (row + i) * stride + panel * LANES, gate * _sigmoid(gate) * up)


@compiled
def _sigmoid(x):
    """Of less than -87 it is 1.6e-38, so that the exponential does not overflow."""
    one = broadcast(1.0)
    return one / (one + exp(broadcast(0.0) - maximum(x, broadcast(-87.0))))


@compiled
def keep_largest(sums, row, num_rows, panel, bias, bias_offset, out, stride):
    """The largest of each row's sums, or NaN: out [panels, stride]. `bias_offset` is the number of
    columns there are in all; those of padding do not count."""
    column = panel * PANEL
    least = broadcast(-np.inf)
    for i in range(num_rows):
        low = first_lanes(load(sums, i * PANEL), bias_offset - column, least)
        high = first_lanes(load(sums, i * PANEL + LANES), bias_offset - column - LANES, least)
        out[panel * stride + row + i] = largest_or_nan(low, high)
