"""Which panels of a float32 vocabulary can hold a row's largest logit, told from 8-bit products.

With ^ for what stands in 8 bits, the product of a row h and a token's weights w is off by

  |^h.^w - h.w|  <=  |^h - h| |^w|  +  |h| |^w - w|        (Cauchy and Schwarz)

so that the largest logit stands in a panel whose largest 8-bit product reaches, with that bound,
what the largest of all is at least. Those few panels are computed as the others would have been:
the result is exact, for a quarter of the reading and, on AMX, a tenth of the arithmetic.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.kernels.cpu import int8_product
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.compiler import inlined, part
from tokenreel.kernels.cpu.finish import peaks_stride
from tokenreel.kernels.cpu.int8_rows import MAX_STEPS, OFFSET, quantize_row, row_bytes
from tokenreel.kernels.cpu.lane_selection import count_at_least
from tokenreel.kernels.cpu.product import padded, sums
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    fma,
    largest_or_nan,
    load,
    maximum,
    nearest_whole,
    store,
    sum_lanes,
)

Array = NDArray[Any]

_SLACK = 1.01
"""For the rounding of the bounds themselves."""
_ROUNDOFF = 2.0**-24
_SMALLEST, _LARGEST = 1e-12, 1e12
"""The bounds hold for magnitudes between these: nothing overflows, or is flushed to zero."""
_LEAST_ERROR = 1e-25
"""Covers what is flushed to zero all the same."""
_UNBOUNDED = 3e38


class Screen(NamedTuple):
    """The weights in 8 bits, and how far off products with a panel's columns can be."""

    weights: Array
    """Of `int8_product.pack`."""
    norms: Array
    """[peaks_stride] float32, 0 in padding: the largest |^w| of a panel, for what a row loses."""
    losses: Array
    """Alike: the largest |^w - w|, and rounding, for a row's norm."""


class ScreenedRows(NamedTuple):
    """Rows in 8 bits."""

    bytes: Array
    """Flat, in the format of `int8_rows`."""
    norms: Array
    """[num_rows] float32: |h|"""
    losses: Array
    """[num_rows] float32: |^h - h|"""


def make_screen(weight: Tensor) -> Screen:
    """weight [vocab_size, depth] float32."""
    num_panels = padded(len(weight)) // PANEL
    norms, losses = (torch.zeros(peaks_stride(num_panels)) for _ in range(2))
    all_steps, all_scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    # Some panels at a time: wide copies of a large vocabulary would take much memory.
    for first in range(0, num_panels, LANES):
        rows = slice(first * PANEL, (first + LANES) * PANEL)
        part = weight[rows]
        magnitudes = part.abs().amax(1)
        is_held = (magnitudes == 0) | (magnitudes >= _SMALLEST) & (magnitudes <= _LARGEST)
        steps, scales = int8_product.quantize(part.where(is_held.unsqueeze(1), 0))
        all_steps[rows], all_scales[rows] = steps, scales
        exact, taken = part.double(), steps.double() * scales.double().unsqueeze(1)
        # Of the product's own sum, and of what is done with 8-bit sums and bounds.
        rounding = (part.shape[1] + 64) * _ROUNDOFF * (exact.norm(dim=1) + taken.norm(dim=1))
        lost = (taken - exact).norm(dim=1) + rounding
        own = slice(first, first + -(-len(part) // PANEL))
        norms[own] = _largest_of_panels(taken.norm(dim=1).where(is_held, 0))
        losses[own] = _largest_of_panels(lost.where(is_held, _UNBOUNDED))
    return Screen(int8_product.pack_steps(all_steps, all_scales), norms.numpy(), losses.numpy())


def _largest_of_panels(values: Tensor) -> Tensor:
    missing = -len(values) % PANEL
    whole = torch.cat((values, values.new_zeros(missing))).view(-1, PANEL)
    return (whole.amax(1) * _SLACK).clamp(max=_UNBOUNDED).float()


def new_screened_rows(num_rows: int, stride: int) -> ScreenedRows:
    return ScreenedRows(
        zeros(num_rows * row_bytes(stride), np.uint8),
        np.zeros(num_rows, np.float32),
        np.zeros(num_rows, np.float32),
    )


@part
def screen_row(rows, stride, row, screened):
    """Brings a float32 row to 8 bits, and measures what is lost. One that the bounds do not hold
    for has every panel looked at."""
    place = row * stride
    scale = quantize_row(rows, place, stride, screened.bytes, row)
    steps, middle = broadcast(np.float32(1.0) / scale), broadcast(np.float32(OFFSET))
    squares, lost = broadcast(0.0), broadcast(0.0)
    for i in range(0, stride, LANES):
        x = load(rows, place + i)
        scaled = x * steps
        difference = nearest_whole(scaled + middle) - middle - scaled
        squares = fma(x, x, squares)
        lost = fma(difference, difference, lost)
    slack = np.float32(_SLACK)
    screened.norms[row] = slack * np.float32(math.sqrt(sum_lanes(squares)))
    screened.losses[row] = slack * np.float32(math.sqrt(sum_lanes(lost))) * scale
    if not _SMALLEST <= MAX_STEPS * scale <= _LARGEST:
        screened.norms[row] = screened.losses[row] = _UNBOUNDED


@part
def best_of_panels(row, rows, stride, head, screen, screened, peaks, vocab_size, place):
    """-> the first token with the row's largest logit, and that logit; NaN if a logit may be.

    peaks: flat [rows, peaks_stride] float32: the largest 8-bit products; padding holds nothing that
    is the largest. Bounds are written there.
    place: [1024] float32 of scratch.
    """
    num_panels = len(screen.norms)
    first = row * num_panels
    limit, highest, summit = np.float32(-np.inf), np.float32(-np.inf), 0
    for i in range(0, num_panels, LANES):
        peak, error = load(peaks, first + i), _error(i, row, screen, screened)
        top = largest_or_nan(peak, peak)
        if math.isnan(top):
            return 0, top
        if top > highest:
            highest, summit = top, i
        # Finite: less an error that overflows it would be no number.
        peak = maximum(broadcast(-_UNBOUNDED), peak)
        lower = largest_or_nan(peak - error, peak - error)
        if lower > limit:
            limit = lower
        store(peaks, first + i, peak + error)
    best, best_id = np.float32(-np.inf), 0
    # The highest panels first: what they hold is mostly more than the others can reach.
    for k in range(-1, num_panels // LANES):
        i = summit if k < 0 else k * LANES
        if k * LANES == summit or count_at_least(load(peaks, first + i), limit) == 0:
            continue
        for panel in range(i, min(i + LANES, len(head))):
            if peaks[first + panel] >= limit:
                sums(rows, row, 1, stride, head, panel, place)
                for column in range(min(PANEL, vocab_size - panel * PANEL)):
                    logit, token_id = place[column], panel * PANEL + column
                    if math.isnan(logit):
                        return 0, logit
                    if logit > best or (logit == best and token_id < best_id):
                        best, best_id = logit, token_id
                limit = max(limit, best)
    return best_id, best


@inlined
def _error(i, row, screen, screened):
    """How far off the products of 16 panels can be, from the one numbered `i`."""
    loss, norm = broadcast(screened.losses[row]), broadcast(screened.norms[row])
    own = fma(norm, load(screen.losses, i), broadcast(np.float32(_LEAST_ERROR)))
    return fma(loss, load(screen.norms, i), own)
