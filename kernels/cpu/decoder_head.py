"""From hidden states to the vocabulary, compiled: logits, or just the largest of them."""

import math

import numpy as np

from tokenreel.kernels.cpu.amx import begin_tiles, end_tiles
from tokenreel.kernels.cpu.compiler import compiled, inlined
from tokenreel.kernels.cpu.decoder_step import multiply, multiply_factors, normalize
from tokenreel.kernels.cpu.factors import factors
from tokenreel.kernels.cpu.finish import Keep, KeepLargest
from tokenreel.kernels.cpu.greedy_screen import (
    KeepBound,
    best_of_panels,
    bound_panels,
    screen_row,
)
from tokenreel.kernels.cpu.int8_rows import row_bytes
from tokenreel.kernels.cpu.product import sums
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.sampling import NOT_FINITE
from tokenreel.kernels.cpu.team import barrier, next_item

PHASES = 4


@compiled
def logits(rank, meeting, shape, gain, head, hidden, num_rows, out, out_stride, scratch):
    """Of flat rows of hidden states, whose norms are still to be taken."""
    begin_tiles(scratch.tiles)
    normalize(meeting, 0, hidden, num_rows, gain, shape, scratch)
    target = Keep(gain[:0], out, out_stride)
    stride = shape.hidden_stride
    multiply(rank, meeting, 1, scratch.rows, stride, num_rows, head, target, scratch)
    end_tiles()


@compiled
def greedy(
    rank,
    meeting,
    shape,
    gain,
    head,
    hidden,
    num_rows,
    vocab_size,
    peaks,
    peaks_stride,
    token_ids,
    scratch,
):
    """The first token with the largest logit of each row, NOT_FINITE if that logit is.

    peaks: flat [a multiple of 16 rows, peaks_stride] float32, for each panel's largest logit. The
    winner's place in its panel is found by computing the panel once more, for that row.
    """
    begin_tiles(scratch.tiles)
    normalize(meeting, 0, hidden, num_rows, gain, shape, scratch)
    target = KeepLargest(vocab_size, peaks, peaks_stride)
    multiply(rank, meeting, 1, scratch.rows, shape.hidden_stride, num_rows, head, target, scratch)
    rows, stride = factors(scratch.rows, shape.hidden_stride, scratch.factors)
    place = scratch.sums[rank]
    while True:
        row = next_item(meeting, 2)
        if row >= num_rows:
            break
        panel, largest = 0, peaks[row * peaks_stride]
        for other in range(1, len(head)):
            peak = peaks[row * peaks_stride + other]
            # No comparison with NaN is true: once there, it stays.
            if peak > largest or math.isnan(peak):
                panel, largest = other, peak
        sums(rows, row, 1, stride, head, panel, place)
        column = 0
        while place[column] != largest and column < PANEL - 1:
            column += 1
        token_ids[row] = _if_finite(panel * PANEL + column, largest)
    end_tiles()
    barrier(meeting)


@compiled
def greedy_screened(
    rank,
    meeting,
    shape,
    gain,
    head,
    screens,
    screened,
    hidden,
    num_rows,
    vocab_size,
    peaks,
    peaks_stride,
    token_ids,
    scratch,
):
    """`greedy`, for a float32 head; see `greedy_screen`. The same result to the bit."""
    begin_tiles(scratch.tiles)
    normalize(meeting, 0, hidden, num_rows, gain, shape, scratch)
    rows, stride = scratch.rows, shape.hidden_stride
    while True:
        row = next_item(meeting, 1)
        if row >= num_rows:
            break
        screen_row(rows, stride, row, screened)
    barrier(meeting)
    short, short_stride = screened.bytes, row_bytes(stride)
    rough, fine = screens.rough, screens.fine
    is_rough = num_rows == 1 and len(rough.weights) > 0
    if is_rough:
        bound = KeepBound(rough, screened, peaks, peaks_stride)
        multiply_factors(rank, meeting, 2, short, short_stride, 1, rough.weights, bound, scratch)
    else:
        target = KeepLargest(vocab_size, peaks, peaks_stride)
        multiply_factors(
            rank, meeting, 2, short, short_stride, num_rows, fine.weights, target, scratch
        )
    while True:
        row = next_item(meeting, 3)
        if row >= num_rows:
            break
        limit = np.float32(-np.inf) if is_rough else bound_panels(row, fine, screened, peaks)
        token_id, largest = best_of_panels(
            row,
            rows,
            stride,
            head,
            fine,
            screened,
            peaks,
            limit,
            is_rough,
            vocab_size,
            scratch.sums[rank],
        )
        token_ids[row] = _if_finite(token_id, largest)
    end_tiles()
    barrier(meeting)


@inlined
def _if_finite(token_id, logit):
    return token_id if math.isfinite(logit) else NOT_FINITE
