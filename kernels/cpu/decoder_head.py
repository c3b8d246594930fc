"""From hidden states to the vocabulary, compiled: logits, or just the largest of them."""

from tokenreel.kernels.cpu.amx import begin_tiles, end_tiles
from tokenreel.kernels.cpu.decoder_step import multiply, normalize
from tokenreel.kernels.cpu.factors import factors
from tokenreel.kernels.cpu.finish import Keep, KeepLargest
from tokenreel.kernels.cpu.product import PANEL, sums
from tokenreel.kernels.cpu.team import barrier, next_item
from tokenreel.kernels.cpu.vector import compiled

PHASES = 3


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
    vocab_size,
    gain,
    head,
    hidden,
    num_rows,
    peaks,
    token_ids,
    largest,
    scratch,
):
    """The first token with the largest logit of each row, and that logit, or NaN if any is NaN.

    peaks: flat [panels, max rows] float32, for the largest logit of each panel. The winner's place
    in its panel is found by computing the panel once more, for that row.
    """
    begin_tiles(scratch.tiles)
    normalize(meeting, 0, hidden, num_rows, gain, shape, scratch)
    max_rows = len(peaks) // len(head)
    target = KeepLargest(vocab_size, peaks, max_rows)
    multiply(rank, meeting, 1, scratch.rows, shape.hidden_stride, num_rows, head, target, scratch)
    rows, stride = factors(scratch.rows, shape.hidden_stride, scratch.factors)
    place = scratch.sums[rank]
    while True:
        row = next_item(meeting, 2)
        if row >= num_rows:
            break
        best = peaks[row]
        panel = 0
        for other in range(1, len(head)):
            peak = peaks[other * max_rows + row]
            if peak > best or peak != peak:
                best, panel = peak, other
            if best != best:
                break
        sums(rows, row, 1, stride, head, panel, place)
        column = 0
        while place[column] != best and column < PANEL - 1:
            column += 1
        token_ids[row], largest[row] = panel * PANEL + column, best
    end_tiles()
    barrier(meeting)
