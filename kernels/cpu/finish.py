"""What becomes of a product's sums, while they are in the first-level cache.

Each target says where the results go: a flat array whose rows are `stride` elements apart. A bias
without elements is none.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import INLINED, part
from tokenreel.kernels.cpu.product import padded
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.row_peaks import peaks_of_rows
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    exp,
    first_lanes,
    largest_or_nan,
    load,
    maximum,
    store,
    store_apart,
)

Array = NDArray[Any]

_MIN_ROWS_AT_ONCE = 8
"""For less, row by row is faster."""


class Keep(NamedTuple):
    """The sums as they are; those of padding, beyond the stride, are dropped."""

    bias: Array
    out: Array
    stride: int


class AddTo(NamedTuple):
    """The sums added to what is there: the residual."""

    bias: Array
    out: Array
    stride: int


class SiluAndMultiply(NamedTuple):
    """silu(gate) * up, where a panel holds 16 columns of each; 16 results per row."""

    bias: Array
    out: Array
    stride: int


class KeepLargest(NamedTuple):
    """The largest of each row's sums in a panel, or NaN: one element per panel. Rows are written in
    groups of 16, those of the last group with what is of no use."""

    num_columns: int
    """What follows them is padding."""
    out: Array
    stride: int


def peaks_stride(num_panels: int) -> int:
    """For `KeepLargest`: whole vectors, an odd number of them, because rows whose distance is a
    power of two drive one another out of the cache."""
    return (padded(num_panels, LANES) // LANES | 1) * LANES


def finish(target, sums, row, num_rows, panel):
    """sums [32 rows, 32 columns] of `panel`; the first `num_rows` count, the rows from `row` on."""
    raise NotImplementedError("for compiled functions only")


@overload(finish, jit_options=INLINED)
def _overload_finish(target, sums, row, num_rows, panel):
    if isinstance(target, types.NamedTuple):
        return _FINISHES.get(target.instance_class)
    return None


@part
def _biased(sums, i, column, bias):
    total = load(sums, i * PANEL + column % PANEL)
    if len(bias) == 0:
        return total
    return total + load(bias, column)


def _keep(target, sums, row, num_rows, panel):
    for column in range(panel * PANEL, min((panel + 1) * PANEL, target.stride), LANES):
        for i in range(num_rows):
            place = (row + i) * target.stride + column
            store(target.out, place, _biased(sums, i, column, target.bias))


def _add(target, sums, row, num_rows, panel):
    for column in range(panel * PANEL, (panel + 1) * PANEL, LANES):
        for i in range(num_rows):
            place = (row + i) * target.stride + column
            total = _biased(sums, i, column, target.bias)
            store(target.out, place, load(target.out, place) + total)


def _silu_and_multiply(target, sums, row, num_rows, panel):
    for i in range(num_rows):
        gate = _biased(sums, i, panel * PANEL, target.bias)
        up = _biased(sums, i, panel * PANEL + LANES, target.bias)
        place = (row + i) * target.stride + panel * LANES
        store(target.out, place, gate * _sigmoid(gate) * up)


def _keep_largest(target, sums, row, num_rows, panel):
    left = target.num_columns - panel * PANEL
    if num_rows >= _MIN_ROWS_AT_ONCE and left >= PANEL:
        for i in range(0, num_rows, LANES):
            place = (row + i) * target.stride + panel
            store_apart(target.out, place, target.stride, peaks_of_rows(sums, i * PANEL))
        return
    least = broadcast(-np.inf)
    for i in range(num_rows):
        low = first_lanes(load(sums, i * PANEL), left, least)
        high = first_lanes(load(sums, i * PANEL + LANES), left - LANES, least)
        target.out[(row + i) * target.stride + panel] = largest_or_nan(low, high)


_FINISHES = {
    Keep: _keep,
    AddTo: _add,
    SiluAndMultiply: _silu_and_multiply,
    KeepLargest: _keep_largest,
}


@part
def _sigmoid(x):
    """Of less than -87 it is 1.6e-38, so that the exponential does not overflow."""
    one = broadcast(1.0)
    return one / (one + exp(broadcast(0.0) - maximum(x, broadcast(-87.0))))
