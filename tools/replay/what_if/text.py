"""The answer to a what-if as a table for people: a row per figure, a column per run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from textwrap import wrap

from tokenreel.tools.replay.recording.values import RecordedStep, Recording
from tokenreel.tools.replay.what_if.figures import Distribution, Figures
from tokenreel.tools.replay.what_if.fit import SHARES
from tokenreel.tools.replay.what_if.what_if import Answer, Column

LABEL_WIDTH = 20
VALUE_WIDTH = 9
CHANGE_WIDTH = 8
DEFAULT_WIDTH = 100
FEW_STEPS = 20
MUCH_PERCENT = 10
"""Of a variant's time: as much in steps of a size that the record has few of is worth a note."""

Pick = Callable[[Figures], float | None]


def as_text(answer: Answer, width: int = DEFAULT_WIDTH) -> str:
    """`width` is that of the terminal: what does not fit beside the others gets another table."""
    parts = [_heading(answer), _fit(answer), _tables(answer, width), _settings(answer)]
    return "\n\n".join("\n".join(_folded(part, width)) for part in parts)


def _folded(lines: Iterable[str], width: int) -> Iterator[str]:
    for line in lines:
        is_told = len(line) > width and not line.startswith(" ")
        yield from wrap(line, width, subsequent_indent="  ") if is_told else [line]


def _heading(answer: Answer) -> Iterator[str]:
    clients, recording = answer.clients, answer.recording
    num_counted = sum(request.counts for request in clients.requests)
    yield f"run {recording.run_id}: {num_counted:,} requests, {len(recording.steps):,} steps"
    if answer.loop is not None:
        thoughts = sorted(answer.loop.think_ns)
        yield (
            f"arrivals: closed loop, {answer.loop.num_clients} clients; each asks again "
            f"{thoughts[len(thoughts) // 2] / 1e6:.1f} ms (median) after an answer"
        )
    else:
        yield "arrivals: at their recorded times (open loop)"
        if answer.looks_closed:
            yield "note: the recording looks like a closed loop, where clients wait for answers"
    for number, what in (
        (clients.num_inherited, "ran before the record begins: load, but in no figure"),
        (clients.num_cut_off, "are cut off by the end of the record: load, but in no figure"),
        (clients.num_left_out, "were refused then, or aborted before they came: left out"),
    ):
        if number:
            yield f"note: {number:,} requests {what}"


def _fit(answer: Answer) -> Iterator[str]:
    fit, latencies = answer.fit, answer.latencies
    shares = zip(SHARES, fit.shares_us, strict=True)
    told = " + ".join(
        f"{share:,.0f} us" if name == "base" else f"{share:.3g} us per {name}"
        for name, share in shares
        if share
    )
    yield f"a step takes {told or '0 us'}"
    yield (
        f"  mean error {fit.mean_error_us:,.0f} us of {fit.mean_us:,.0f} us "
        f"({fit.mean_error_percent:.1f} %), R2 {fit.r_squared:.3f}, over {fit.num_steps:,} steps"
    )
    for size in fit.classes:
        tokens = f"{size.min_tokens:,}-{size.max_tokens:,} tokens"
        yield (
            f"  {tokens:>18}: {size.num_steps:>7,} "
            f"steps of {size.mean_us:>11,.0f} us, mean error {size.mean_error_percent:4.1f} %, "
            f"bias {size.bias_percent:+5.1f} %"
        )
    yield (
        f"  each tenth of the run took {min(fit.phases_percent):+.1f} to "
        f"{max(fit.phases_percent):+.1f} % more than is fitted"
    )
    yield (
        f"between steps: core {latencies.turn_ns / 1e3:,.0f} us, to an idle worker "
        f"{latencies.dispatch_ns / 1e3:,.0f} us, worker {latencies.turnover_ns / 1e3:,.0f} us, "
        f"back {latencies.return_ns / 1e3:,.0f} us"
    )


def _tables(answer: Answer, width: int) -> Iterator[str]:
    """The recorded and the simulated run open each table; the variants are dealt out behind."""
    first, variants = answer.columns[:2], answer.columns[2:]
    taken = LABEL_WIDTH + 2 * VALUE_WIDTH + CHANGE_WIDTH
    room = max(1, (width - taken) // (VALUE_WIDTH + CHANGE_WIDTH))
    for start in range(0, max(1, len(variants)), room):
        if start:
            yield ""
        yield from _table(first + variants[start : start + room])


def _table(columns: list[Column]) -> Iterator[str]:
    recorded, simulated = columns[0].figures, columns[1].figures
    names = [f"{column.name:>{VALUE_WIDTH + CHANGE_WIDTH}}" for column in columns[1:]]
    yield " " * LABEL_WIDTH + f"{columns[0].name:>{VALUE_WIDTH}}" + "".join(names)
    for label, pick in ROWS:
        line = f"{label:<{LABEL_WIDTH}}{_value(pick(recorded)):>{VALUE_WIDTH}}"
        for column in columns[1:]:
            value = pick(column.figures)
            against = pick(recorded) if column is columns[1] else pick(simulated)
            line += f"{_value(value):>{VALUE_WIDTH}}{_change(value, against):>{CHANGE_WIDTH}}"
        yield line.rstrip()


def _settings(answer: Answer) -> Iterator[str]:
    yield "simulated: as recorded; its change is the simulation's error against the record"
    for column in answer.columns[2:]:
        told = ", ".join(f"{key}={value}" for key, value in column.settings.items())
        implied = [
            f"{key}={getattr(column.run.config, key)}"
            for key in ("num_blocks", "max_model_len", "max_in_flight")
            if key not in column.settings
            and getattr(column.run.config, key) != getattr(answer.recording.config, key)
        ]
        yield f"{column.name}: {told}" + (f" (so {', '.join(implied)})" if implied else "")
    if len(answer.columns) > 2:
        yield "the change of a variant is against the simulated run"
    yield from _beyond(answer)


def _beyond(answer: Answer) -> Iterator[str]:
    """Which runs live on steps of a kind that the record hardly knows."""
    fit = answer.fit
    for column in answer.columns[2:]:
        steps = column.run.steps
        for most, seen, what in (
            (max((step.work.num_seqs for step in steps), default=0), fit.max_seqs, "sequences"),
            (max((step.work.num_tokens for step in steps), default=0), fit.max_tokens, "tokens"),
        ):
            if most > seen:
                yield (
                    f"note: {column.name} has steps of up to {most:,} {what}, the record of up to "
                    f"{seen:,}: beyond, durations are extrapolated"
                )
        yield from _hardly_known(answer.recording, column)


def _hardly_known(recording: Recording, column: Column) -> Iterator[str]:
    """Sizes of steps, doubling from one to the next, that matter here and did not then."""
    known, then = _by_size(recording.steps)
    _, now = _by_size(column.run.steps)
    for size, percent in sorted(now.items()):
        if known[size] < FEW_STEPS and percent >= max(MUCH_PERCENT, 2 * then.get(size, 0.0)):
            yield (
                f"note: {column.name} spends {percent:.0f} % of its time in steps of "
                f"{1 << size - 1:,}-{(1 << size) - 1:,} tokens, of which the record holds "
                f"{known[size]:,}: what they take is hardly known"
            )


def _by_size(steps: list[RecordedStep]) -> tuple[Counter[int], dict[int, float]]:
    """How many steps of each size there are, and how much of the time they take, in per cent."""
    numbers: Counter[int] = Counter()
    durations: Counter[int] = Counter()
    for step in steps:
        size = step.work.num_tokens.bit_length()
        numbers[size] += 1
        durations[size] += step.ended_ns - step.began_ns
    whole = sum(durations.values()) or 1
    return numbers, {size: 100 * part / whole for size, part in durations.items()}


def _of(name: str, part: str) -> Pick:
    def pick(figures: Figures) -> float | None:
        distribution: Distribution | None = getattr(figures, name)
        return None if distribution is None else float(getattr(distribution, part))

    return pick


def _plain(name: str) -> Pick:
    return lambda figures: float(getattr(figures, name))


ROWS: tuple[tuple[str, Pick], ...] = (
    ("TTFT ms        mean", _of("ttft_ms", "mean")),
    ("               p50", _of("ttft_ms", "p50")),
    ("               p99", _of("ttft_ms", "p99")),
    ("TPOT ms        mean", _of("tpot_ms", "mean")),
    ("               p50", _of("tpot_ms", "p50")),
    ("               p99", _of("tpot_ms", "p99")),
    ("end-to-end ms  mean", _of("e2e_ms", "mean")),
    ("               p50", _of("e2e_ms", "p50")),
    ("               p99", _of("e2e_ms", "p99")),
    ("output tokens/s", _plain("output_tokens_per_s")),
    ("requests/s", _plain("requests_per_s")),
    ("requests refused", _plain("num_rejected")),
    ("preemptions", _plain("num_preemptions")),
    ("cache hits %", _plain("cache_hit_percent")),
    ("steps", _plain("num_steps")),
    ("sequences per step", _plain("mean_seqs_per_step")),
)


def _value(value: float | None) -> str:
    """Three digits at least, thousands apart."""
    if value is None:
        return "-"
    if value == int(value) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 if value < 10 else 1}f}"


def _change(value: float | None, against: float | None) -> str:
    if value is None or against is None or not against:
        return ""
    percent = 100 * (value - against) / against
    return f"{percent:+.1f}%" if abs(percent) < 1000 else f"x{value / against:,.0f}"
