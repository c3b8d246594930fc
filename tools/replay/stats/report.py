"""What `engine-replay stats` says of a run: a page for a person, JSON for a program."""

from datetime import UTC, datetime

import msgspec

from tokenreel.tools.printable import printable
from tokenreel.tools.replay.stats.stats import Bin, Spread, Statistics
from tokenreel.tools.replay.text_layout import count

BAR_WIDTH = 40
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "pipeline_depth")


def as_text(found: Statistics) -> str:
    sections = [
        _run_lines(found),
        _request_lines(found),
        _latency_lines(found),
        _step_lines(found),
        _histogram("steps by duration on the worker/ms", found.step_durations, "{:g} to {:g}", 0),
        _histogram("steps by number of sequences", found.batch_sizes, "{:,.0f}-{:,.0f}", 1),
    ]
    lines = "\n\n".join("\n".join(map(printable, section)) for section in sections if section)
    return "\n".join([lines, *(f"note: {note}" for note in found.notes)])


def as_json(found: Statistics) -> str:
    return msgspec.json.encode(found).decode()


def _run_lines(found: Statistics) -> list[str]:
    moment = datetime.fromtimestamp(found.wall_ns / 1e9, UTC)
    limits = found.configuration
    told = ", ".join(f"{name} {limits[name]:,}" for name in LIMITS if name in limits)
    return [
        f"run {found.run_id}, {moment:%Y-%m-%d %H:%M:%S} UTC, tokenreel {found.version}",
        _row(
            "journal",
            f"{found.span_ns / 1e9:,.3f} s, {count(found.num_events, 'event')}, "
            f"{count(found.num_records, 'record')} in {count(found.num_segments, 'segment')}"
            + ("" if found.has_ended else ", not ended"),
        ),
        _row(
            "limits",
            f"{found.num_blocks:,} blocks of {limits.get('block_size', '?')}, "
            f"{limits.get('scheduling_policy', '?')}",
        ),
        _row("", told),
        *(_row("FAILED", failure) for failure in found.failures),
    ]


def _request_lines(found: Statistics) -> list[str]:
    outcomes = [
        (found.num_delivered, "delivered"),
        (found.num_aborted, "aborted"),
        (found.num_rejected, "rejected"),
        (found.num_in_flight, "in flight at the end"),
    ]
    told = ", ".join(f"{num:,} {name}" for num, name in outcomes if num)
    if found.num_carried:
        told += f"; {found.num_carried:,} from before the journal"
    reasons = ", ".join(f"{num:,} {name}" for name, num in found.finish_reasons.items())
    span_s = found.span_ns / 1e9 or 1.0
    lines = [
        _row("requests", f"{found.num_requests:,}: {told}" if told else "none"),
        _row("sequences", f"{found.num_sequences:,}: {reasons}" if reasons else "none"),
    ]
    if found.rejections:
        statuses = ", ".join(f"{num:,} x {status}" for status, num in found.rejections.items())
        lines.append(_row("rejections", statuses))
    return [
        *lines,
        _row(
            "tokens",
            f"{found.num_prompt_tokens:,} prompt, {found.num_output_tokens:,} output; "
            f"{found.num_computed_tokens:,} computed",
        ),
        _row(
            "prefix cache",
            f"{found.num_cached_tokens:,} of {found.num_cacheable_tokens:,} tokens in full blocks "
            f"found ({_percent(found.num_cached_tokens, found.num_cacheable_tokens)})",
        ),
        _row(
            "throughput",
            f"{found.num_output_tokens / span_s:,.1f} output tokens/s, "
            f"{found.num_computed_tokens / span_s:,.1f} computed tokens/s, "
            f"{found.num_delivered / span_s:,.2f} requests/s",
        ),
    ]


def _latency_lines(found: Statistics) -> list[str]:
    lines = [f"{'as the core saw it/ms':<24}" + _heads()]
    for name, spread in (
        ("TTFT", found.ttft),
        ("TPOT", found.tpot),
        ("arrival to delivery", found.end_to_end),
    ):
        lines.append(f"  {name:<22}" + _spread(spread, 1e6, 3))
    return lines


def _step_lines(found: Statistics) -> list[str]:
    passed_over = [f"{num:,} x {name.replace('_', ' ')}" for name, num in found.passed_over.items()]
    return [
        f"{count(found.num_steps, 'step'):<24}" + _heads(),
        f"  {'duration/ms':<22}" + _spread(found.step_duration, 1e6, 3),
        f"  {'sequences':<22}" + _spread(found.batch_size, 1, 1),
        f"  {'tokens':<22}" + _spread(found.step_tokens, 1, 1),
        _row(
            "busy",
            f"a step open {_percent(found.open_ns, found.span_ns)} of the time, the worker "
            f"computing {_percent(found.computing_ns, found.span_ns)}",
        ),
        _row(
            "most at once",
            f"{found.max_running:,} running, {found.max_waiting:,} waiting, "
            f"{found.max_blocks_used:,} of {found.num_blocks:,} blocks in use "
            f"({_percent(found.max_blocks_used, found.num_blocks)})",
        ),
        _row("preemptions", f"{found.num_preemptions:,}"),
        _row("passed over", "in steps, the first in line: " + (", ".join(passed_over) or "nobody")),
    ]


def _histogram(title: str, bins: list[Bin], label: str, gap: int) -> list[str]:
    """`gap`: 1 for whole numbers, whose bins end one below where the next begins."""
    most = max((each.num for each in bins), default=0)
    lines = [title] if bins else []
    for low, high, num in bins:
        bar = "#" * max(1 if num else 0, round(BAR_WIDTH * num / most))
        span = f"{low:,.0f}" if gap and high - gap <= low else label.format(low, high - gap)
        lines.append(f"  {span:>16}  {num:>9,}  {bar}".rstrip())
    return lines


def _heads() -> str:
    return "".join(f"{name:>11}" for name in ("mean", "p50", "p90", "p99", "max"))


def _spread(spread: Spread, unit: float, num_digits: int) -> str:
    if not spread.count:
        return f"{'-':>11}"
    values = (spread.mean, spread.p50, spread.p90, spread.p99, spread.max)
    return "".join(f"{value / unit:>11,.{num_digits}f}" for value in values)


def _row(name: str, text: str) -> str:
    return f"  {name:<14}{text}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
