"""How long a step takes, and what passes between steps: fitted from the steps of a recording.

A step's duration is the worker's own measurement. It is taken for a sum of non-negative shares: a
base, and so much per token, sequence, position of context and pair of attention. The error of a
step is taken to grow with its duration, so that long steps do not drown short ones, and with that
the fitted durations of all steps together come out as those measured.
"""

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tokenreel.tools.replay.recording.values import RecordedStep, StepWork

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Floats = NDArray[float64]

SHARES = ("base", "token", "sequence", "context position", "attention pair")
"""What `StepFit.shares_us` counts, in its order."""
SIZE_CLASSES = (8, 32, 128, 512, 2048)
"""The upper bounds, in scheduled tokens, of the classes whose errors are told; then the rest."""
NUM_REWEIGHTINGS = 8
SHORTEST_US = 1.0
PAIRS_EXPLAIN = 0.02
"""The least part of the error that goes when pairs of attention are looked at."""
EQUAL = 1e-12
"""A spread that is rounding, as a part of the squares."""
MIN_IDLE_STEPS = 5
"""So many steps that found the worker idle tell how long it takes to get there."""
NUM_PHASES = 10


class NoSteps(ValueError):
    """A recording without a completed step: there is nothing to fit."""


class ClassError(msgspec.Struct, frozen=True):
    """How the fit does on steps of `min_tokens` to `max_tokens` scheduled tokens. A positive
    `bias_percent`: the fit takes them for longer than they were."""

    min_tokens: int
    max_tokens: int
    num_steps: int
    mean_us: float
    mean_error_us: float
    mean_error_percent: float
    bias_percent: float


class StepFit(msgspec.Struct, frozen=True):
    """`shares_us` in the order of SHARES. `mean_error_us` is the mean absolute error of one step,
    `mean_error_percent` the same in per cent of the mean duration."""

    shares_us: tuple[float, float, float, float, float]
    num_steps: int
    mean_us: float
    mean_error_us: float
    mean_error_percent: float
    r_squared: float
    classes: tuple[ClassError, ...]
    phases_percent: tuple[float, ...]
    """For each tenth of the steps, in their order, how much longer they took than is fitted: where
    this leaves zero for long, the machine was slower or faster for a while."""
    max_tokens: int
    max_seqs: int
    """The largest step seen: what lies beyond is extrapolated."""

    def duration_ns(self, work: StepWork) -> int:
        base, token, sequence, context, pair = self.shares_us
        return round(
            1e3
            * (
                base
                + token * work.num_tokens
                + sequence * work.num_seqs
                + context * work.num_context
                + pair * work.num_pairs
            )
        )


class Latencies(msgspec.Struct, frozen=True):
    """What passes besides the steps themselves.

    `turn_ns`: in the core, from a completed step to the composition of the next. `dispatch_ns`:
    from there to its beginning in an idle worker. `turnover_ns`: in the worker, from a step's end
    to the beginning of the next one, if that is there already. `return_ns`: from a step's end to
    the core's knowing. `delivery_ns`: from a sequence's end in the core to the detokenizer's word
    that its text has left.
    """

    turn_ns: int
    dispatch_ns: int
    turnover_ns: int
    return_ns: int
    delivery_ns: int


def fit_steps(steps: list[RecordedStep]) -> StepFit:
    """Raises NoSteps."""
    import numpy as np

    if not steps:
        raise NoSteps("no step was completed in this record: nothing tells how long one takes")
    work = np.array([_features(step.work) for step in steps], dtype=np.float64)
    measured = np.array([step.ended_ns - step.began_ns for step in steps], dtype=np.float64) / 1e3
    shares = _shares(work, measured)
    errors = work @ shares - measured
    mean_us, mean_error_us = float(measured.mean()), float(np.abs(errors).mean())
    return StepFit(
        shares_us=tuple(shares.tolist()),
        num_steps=len(steps),
        mean_us=mean_us,
        mean_error_us=mean_error_us,
        mean_error_percent=_percent(mean_error_us, mean_us),
        r_squared=_r_squared(errors, measured),
        classes=_class_errors(work[:, 1], measured, errors),
        phases_percent=tuple(
            _percent(-float(part.sum()), float(whole.sum()))
            for part, whole in zip(
                np.array_split(errors, NUM_PHASES),
                np.array_split(measured + errors, NUM_PHASES),
                strict=True,
            )
            if len(part)
        ),
        max_tokens=max(step.work.num_tokens for step in steps),
        max_seqs=max(step.work.num_seqs for step in steps),
    )


def fit_latencies(steps: list[RecordedStep], depth: int, delivery_ns: list[int]) -> Latencies:
    """`delivery_ns` holds, per sequence, the time from its end to its delivery. Where the
    worker's clock is not the core's, what would come out negative is taken for nothing."""
    idle: list[int] = []
    busy: list[int] = []
    for before, step in zip([None, *steps], steps, strict=False):
        if before is None or step.scheduled_ns >= before.ended_ns:
            idle.append(step.began_ns - step.scheduled_ns)
        else:
            busy.append(step.began_ns - before.ended_ns)
    turns = [
        later.scheduled_ns - step.completed_ns
        for step, later in zip(steps, steps[depth:], strict=False)
        if later.scheduled_ns >= step.completed_ns
    ]
    turnover_ns = _mean(busy)
    return_ns = _mean([step.completed_ns - step.ended_ns for step in steps])
    dispatch_ns = _median(idle)
    if len(idle) < MIN_IDLE_STEPS and busy:
        # The first step of all is a cold one. The way there is about as long as the way back.
        dispatch_ns = min(dispatch_ns, return_ns + turnover_ns)
    return Latencies(
        turn_ns=_median(turns),
        dispatch_ns=dispatch_ns,
        turnover_ns=turnover_ns,
        return_ns=return_ns,
        delivery_ns=_median(delivery_ns),
    )


def _features(work: StepWork) -> tuple[int, int, int, int, int]:
    return (1, work.num_tokens, work.num_seqs, work.num_context, work.num_pairs)


def _shares(work: "Floats", measured: "Floats") -> "Floats":
    """Without pairs of attention, unless they explain what nothing else does: where all prompts
    are alike, pairs and tokens go together, and what a token costs would be taken for theirs."""
    import numpy as np

    plain = np.append(_reweighted(work[:, :-1], measured), 0.0)
    full = _reweighted(work, measured)
    weights = 1 / np.maximum(work @ full, SHORTEST_US)
    error, plain_error = (weights @ (work @ shares - measured) ** 2 for shares in (full, plain))
    shares: Floats = full if error < (1 - PAIRS_EXPLAIN) * plain_error else plain
    return shares


def _reweighted(work: "Floats", measured: "Floats") -> "Floats":
    """Weighted by the durations that come out, until the weights are their own."""
    import numpy as np

    shares, weights = np.zeros(work.shape[1]), np.ones_like(measured)
    for _ in range(NUM_REWEIGHTINGS):
        shares = _least_squares(work, measured, weights)
        weights = 1 / np.maximum(work @ shares, SHORTEST_US)
    return shares


def _least_squares(work: "Floats", measured: "Floats", weights: "Floats") -> "Floats":
    """The non-negative shares with the least weighted square error: the best of the free optima
    over every choice of shares that are not zero, among them the one sought."""
    import numpy as np

    scale = np.maximum(work.max(axis=0), 1.0)
    scaled = work / scale
    weighted = scaled * weights[:, None]
    products, targets = weighted.T @ scaled, weighted.T @ measured
    best: Floats = np.zeros(len(scale))
    best_gain = 0.0
    for size in range(1, len(scale) + 1):
        for chosen in combinations(range(len(scale)), size):
            square = products[np.ix_(chosen, chosen)]
            found = np.linalg.lstsq(square, targets[list(chosen)], rcond=None)[0]
            gain = float(2 * found @ targets[list(chosen)] - found @ square @ found)
            if (found >= 0).all() and gain > best_gain * (1 + 1e-12):
                best, best_gain = np.zeros(len(scale)), gain
                best[list(chosen)] = found
    shares: Floats = best / scale
    return shares


class _Bounds(NamedTuple):
    min_tokens: int
    max_tokens: int


def _class_errors(
    num_tokens: "Floats", measured: "Floats", errors: "Floats"
) -> tuple[ClassError, ...]:
    import numpy as np

    largest = int(num_tokens.max())
    uppers = [bound for bound in SIZE_CLASSES if bound < largest]
    classes = []
    for bounds in map(_Bounds, [1, *(bound + 1 for bound in uppers)], [*uppers, largest]):
        members = (num_tokens >= bounds.min_tokens) & (num_tokens <= bounds.max_tokens)
        if not members.any():
            continue
        mean_us, error_us = float(measured[members].mean()), float(np.abs(errors[members]).mean())
        classes.append(
            ClassError(
                *bounds,
                num_steps=int(members.sum()),
                mean_us=mean_us,
                mean_error_us=error_us,
                mean_error_percent=_percent(error_us, mean_us),
                bias_percent=_percent(float(errors[members].mean()), mean_us),
            )
        )
    return tuple(classes)


def _r_squared(errors: "Floats", measured: "Floats") -> float:
    """1 where all steps took equally long: then there is nothing to explain."""
    spread = float(((measured - measured.mean()) ** 2).sum())
    if spread <= EQUAL * float((measured**2).sum()):
        return 1.0
    return 1 - float((errors**2).sum()) / spread


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _mean(values: list[int]) -> int:
    return max(0, round(sum(values) / len(values))) if values else 0


def _median(values: list[int]) -> int:
    return max(0, sorted(values)[len(values) // 2]) if values else 0
