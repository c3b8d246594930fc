"""Which panels of a float32 vocabulary can hold a row's largest logit, told from short products.

With ^ for what stands in few bits, the product of a row h and a token's weights w is off by

  |^h.^w - h.w|  <=  |^h - h| |^w|  +  |h| |^w - w|        (Cauchy and Schwarz)

so that the largest logit stands in a panel whose largest short product reaches, with that bound,
what the largest of all is at least. Those few panels are computed as the others would have been:
the result is exact, for a quarter of the reading and, on AMX, a tenth of the arithmetic.

A single row of few elements is looked at in 4 bits of the weights first: an eighth of the reading.
That bound is wide, and grows with the square root of the depth: of some dozen panels which it
leaves, the product in 8 bits is asked for before any is computed.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tokenreel.kernels.cpu import int8_product, nibble_product
from tokenreel.kernels.cpu.aligned import zeros
from tokenreel.kernels.cpu.compiler import INLINED, inlined, part
from tokenreel.kernels.cpu.finish import finish, peaks_stride
from tokenreel.kernels.cpu.int8_rows import MAX_STEPS, OFFSET, STEP, quantize_row, row_bytes
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
"""Covers what is flushed to zero all the same. No norm is less, so that an infinite one times
another is infinite: it stands where bounds do not hold. (What a row loses may be 0: that is never
multiplied with an infinite one.)"""
_LOWEST = -3e38
_TOKENS_AT_ONCE = 512
MAX_ROUGH_DEPTH = 256
"""Deeper, 4 bits leave so many panels that they do not pay any more."""


class FineScreen(NamedTuple):
    """The weights in 8 bits, and how far off products with a panel's columns can be."""

    weights: Array
    """Of `int8_product.pack_steps`."""
    norms: Array
    """[peaks_stride] float32, next to 0 in padding: the largest |^w| of a panel, for what a row
    loses."""
    losses: Array
    """Alike: the largest |^w - w|, and rounding, for a row's norm."""


class RoughScreen(NamedTuple):
    """The weights in 4 bits. What they lose is much, so that each column has a bound of its own."""

    weights: Array
    """Of `nibble_product.pack_steps`; without a panel where the depth exceeds MAX_ROUGH_DEPTH."""
    norms: Array
    """As in `FineScreen`."""
    losses: Array
    """[columns] float32, next to 0 in padding: |^w - w|, and rounding."""


class Screens(NamedTuple):
    rough: RoughScreen
    fine: FineScreen


class ScreenedRows(NamedTuple):
    """Rows in 8 bits."""

    bytes: Array
    """Flat, in the format of `int8_rows`."""
    norms: Array
    """[num_rows] float32: |h|"""
    losses: Array
    """[num_rows] float32: |^h - h|"""


def make_screens(weight: Tensor) -> Screens:
    """weight [vocab_size, depth] float32."""
    shallow = weight if weight.shape[1] <= MAX_ROUGH_DEPTH else weight[:0]
    rough, rough_norms, rough_losses = _shorten(shallow, nibble_product)
    fine, norms, losses = _shorten(weight, int8_product)
    return Screens(
        RoughScreen(rough, _of_panels(rough_norms), _pad(rough_losses, PANEL).numpy()),
        FineScreen(fine, _of_panels(norms), _of_panels(losses)),
    )


def screens_bytes(vocab_size: int, depth: int) -> int:
    """What `make_screens` gives takes, but for some bytes a panel."""
    scale, correction, loss = 4, 4, 4
    steps = padded(depth, STEP)
    fine = steps + scale + correction
    rough = steps // 2 + scale + correction + loss if depth <= MAX_ROUGH_DEPTH else 0
    return padded(vocab_size) * (fine + rough)


def _of_panels(values: Tensor) -> Array:
    """The largest of each panel's columns."""
    largest = _pad(values, PANEL).view(-1, PANEL).amax(1)
    return _pad(largest, peaks_stride(len(largest))).numpy()


def _shorten(weight: Tensor, product: Any) -> tuple[Array, Tensor, Tensor]:
    """By a module's `quantize` and `pack_steps`: the weights; of each token |^w|, and |^w - w|."""
    vocab_size = len(weight)
    all_steps = torch.empty(weight.shape, dtype=torch.int8)
    all_scales, norms, losses = (torch.empty(vocab_size) for _ in range(3))
    # Some tokens at a time: wide copies of a large vocabulary would take much memory.
    for first in range(0, vocab_size, _TOKENS_AT_ONCE):
        own = slice(first, first + _TOKENS_AT_ONCE)
        tokens = weight[own]
        magnitudes = tokens.abs().amax(1)
        is_held = (magnitudes == 0) | (magnitudes >= _SMALLEST) & (magnitudes <= _LARGEST)
        all_steps[own], all_scales[own] = product.quantize(tokens.where(is_held.unsqueeze(1), 0))
        exact = tokens.double()
        taken = all_steps[own].double() * all_scales[own].double().unsqueeze(1)
        # Of the product's own sum, and of what is done with whole sums and bounds.
        rounding = (weight.shape[1] + 64) * _ROUNDOFF * (exact.norm(dim=1) + taken.norm(dim=1))
        lost = (taken - exact).norm(dim=1) + rounding
        norms[own] = (_SLACK * taken.norm(dim=1)).clamp(min=_LEAST_ERROR)
        losses[own] = (_SLACK * lost).clamp(min=_LEAST_ERROR).where(is_held, math.inf)
    return product.pack_steps(all_steps, all_scales), norms, losses


def _pad(values: Tensor, multiple: int) -> Tensor:
    return pad(values, (0, -len(values) % multiple), value=_LEAST_ERROR)


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
        screened.norms[row] = screened.losses[row] = np.float32(np.inf)


@part
def bound_panels(row, fine, screened, peaks):
    """-> what the row's largest logit is at least; NaN if a logit may be.

    peaks: flat [rows, peaks_stride] float32: the largest products of `fine`, to which the bounds
    are added; padding holds nothing that is the largest.
    """
    num_panels = len(fine.norms)
    first = row * num_panels
    loss, norm = broadcast(screened.losses[row]), broadcast(screened.norms[row])
    limit = np.float32(-np.inf)
    for i in range(0, num_panels, LANES):
        peak = load(peaks, first + i)
        if math.isnan(largest_or_nan(peak, peak)):
            return np.float32(np.nan)
        error = _error(norm, load(fine.losses, i), loss, load(fine.norms, i))
        peak = maximum(broadcast(_LOWEST), peak)  # With an infinite error -inf would be NaN.
        lower = largest_or_nan(peak - error, peak - error)
        if lower > limit:
            limit = lower
        store(peaks, first + i, peak + error)
    return limit


@part
def best_of_panels(
    row, rows, stride, head, fine, screened, bounds, limit, is_rough, vocab_size, place
):
    """-> the first token with the row's largest logit, and that logit; NaN if a logit may be.

    bounds: flat [rows, peaks_stride] float32: what the logits of a panel do not exceed.
    limit: what the largest one is at least, or NaN.
    is_rough: the bounds are those of 4 bits; where they leave a panel, 8 bits are asked.
    place: [1024] float32 of scratch.
    """
    num_panels = len(fine.norms)
    first = row * num_panels
    highest, summit = np.float32(-np.inf), 0
    for i in range(0, num_panels, LANES):
        bound = load(bounds, first + i)
        top = largest_or_nan(bound, bound)
        if math.isnan(top) or math.isnan(limit):
            return 0, np.float32(np.nan)
        if top > highest:
            highest, summit = top, i
    best, best_id = np.float32(-np.inf), 0
    # The highest panels first: what they hold is mostly more than the others can reach.
    for k in range(-1, num_panels // LANES):
        i = summit if k < 0 else k * LANES
        if k * LANES == summit or count_at_least(load(bounds, first + i), limit) == 0:
            continue
        for panel in range(i, min(i + LANES, len(head))):
            if bounds[first + panel] < limit:
                continue
            if is_rough and _fine_bound(row, stride, panel, fine, screened, place) < limit:
                continue
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
def _fine_bound(row, stride, panel, fine, screened, place):
    """What a panel's logits do not exceed, by their products in 8 bits."""
    sums(screened.bytes, row, 1, row_bytes(stride), fine.weights, panel, place)
    norm, loss = broadcast(screened.norms[row]), broadcast(screened.losses[row])
    panel_loss, panel_norm = broadcast(fine.losses[panel]), broadcast(fine.norms[panel])
    error = _error(norm, panel_loss, loss, panel_norm)
    return _largest_bound(load(place, 0), error, load(place, LANES), error)


@inlined
def _error(row_norm, loss, row_loss, norm):
    """How far off the product of a row and a column, or a panel, can be."""
    own = fma(row_norm, loss, broadcast(np.float32(_LEAST_ERROR)))
    return fma(row_loss, norm, own)


@inlined
def _largest_bound(low, low_error, high, high_error):
    """Of two vectors of products; NaN if one is."""
    least = broadcast(_LOWEST)  # With an infinite error -inf would be NaN.
    return largest_or_nan(maximum(least, low) + low_error, maximum(least, high) + high_error)


class KeepBound(NamedTuple):
    """Of a product with a rough screen: what each row's logits in a panel do not exceed, or NaN.
    Padding's products are 0."""

    screen: RoughScreen
    screened: ScreenedRows
    out: Array
    stride: int


def _keep_bound(target, sums, row, num_rows, panel):
    screen, column = target.screen, panel * PANEL
    norm = broadcast(screen.norms[panel])
    for i in range(num_rows):
        row_norm = broadcast(target.screened.norms[row + i])
        row_loss = broadcast(target.screened.losses[row + i])
        low = _error(row_norm, load(screen.losses, column), row_loss, norm)
        high = _error(row_norm, load(screen.losses, column + LANES), row_loss, norm)
        place = i * PANEL
        bound = _largest_bound(load(sums, place), low, load(sums, place + LANES), high)
        target.out[(row + i) * target.stride + panel] = bound


@overload(finish, jit_options=INLINED)
def _overload_finish(target, sums, row, num_rows, panel):
    is_bound = isinstance(target, types.NamedTuple) and target.instance_class is KeepBound
    return _keep_bound if is_bound else None
