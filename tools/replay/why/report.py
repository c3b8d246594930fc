"""What `engine-replay why` says of a request's life: a page for a person, JSON for a program."""

import json
import textwrap
from typing import Any

import msgspec

from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.printable import printable
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.reasons import cause, lack_of_blocks
from tokenreel.tools.replay.text_layout import count, line_width, some
from tokenreel.tools.replay.why.fold import folded
from tokenreel.tools.replay.why.latency import GROUPS
from tokenreel.tools.replay.why.life import Happening, Life, Preempted, SequenceLife, Wait, Work
from tokenreel.tools.replay.why.watch import Why

MAX_BLOCKERS = 3
MAX_HAPPENINGS = 40
_LINE = "{time:>12} {ms:>10} {steps:>13}  "
_INDENT = " " * len(_LINE.format(time="", ms="", steps=""))

_Told = tuple[int, str, str, str]
"""When, for how long, in which steps, what."""


def as_text(life: Life, start_ns: int, notes: list[str], *, with_all: bool = False) -> str:
    """A page; `with_all` tells every happening, however many."""
    lines = [_headline(life)]
    if life.rejected is not None:
        refusal = life.rejected
        lines.append(f"REJECTED {refusal.status} {refusal.code}: {refusal.message}")
    for sequence in life.sequences:
        if len(life.sequences) > 1:
            lines += ["", f"sequence #{sequence.index} (s{sequence.seq_id})"]
        lines += [
            "",
            *_summary_lines(sequence),
            "",
            *_story_lines(life, sequence, start_ns, with_all),
        ]
        lines += ["", *_latency_lines(sequence)]
    return "\n".join(map(printable, [*lines, *(f"note: {note}" for note in notes)]))


def as_json(life: Life, start_ns: int, notes: list[str]) -> str:
    admit = life.admit
    return json.dumps(
        {
            "key": show_key(life.key),
            "num_prompt_tokens": len(admit.prompt_token_ids) if admit else None,
            "max_tokens": admit.stopping.max_tokens if admit else None,
            "n": admit.n if admit else len(life.sequences),
            "priority": admit.priority if admit else None,
            "start_ns": start_ns,
            "arrived_ns": life.arrived_ns,
            "aborted_ns": life.aborted_ns,
            "finished_ns": life.finished_ns,
            "until_ns": life.until_ns,
            "rejected": life.rejected.message if life.rejected else None,
            "sequences": [_sequence_json(sequence) for sequence in life.sequences],
            "notes": notes,
        }
    )


def _sequence_json(sequence: SequenceLife) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(
        msgspec.structs.replace(sequence, spent={}, happenings=[])
    )
    reason = sequence.finish_reason
    found["finish_reason"] = reason.name.lower() if reason is not None else None
    found["ttft_ns"], found["tpot_ns"] = _ttft_ns(sequence), _tpot_ns(sequence)
    found["happenings"] = [_happening_json(each) for each in sequence.happenings]
    found["spent"] = [
        {"group": row.group, "what": row.what, "ns": ns} for row, ns in sequence.spent.items()
    ]
    return found


def _happening_json(happening: Happening) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(happening)
    if isinstance(happening, Wait):
        found["why"] = happening.why.name.lower()
        reason = happening.reason
        found["reason"] = reason.name.lower() if reason is not None else None
    return found


def _headline(life: Life) -> str:
    ids = " ".join(f"s{sequence.seq_id}" for sequence in life.sequences)
    headline = f"request {show_key(life.key)}" + (f" ({ids})" if ids else "")
    admit = life.admit
    if admit is None:
        return f"{headline}: it came before the journal begins, and is told from there"
    headline += (
        f": prompt {len(admit.prompt_token_ids):,}, at most {admit.stopping.max_tokens:,} out"
    )
    headline += f", n {admit.n}" if admit.n > 1 else ""
    return headline + (f", priority {admit.priority}" if admit.priority else "")


def _summary_lines(sequence: SequenceLife) -> list[str]:
    total = _ms(sum(sequence.spent.values()))
    if sequence.finish_reason is None:
        end = f"goes on after {count(sequence.num_outputs, 'token')}; {total} ms so far"
    else:
        end = (
            f"{sequence.finish_reason.name.lower()} after {count(sequence.num_outputs, 'token')}; "
        )
        end += f"{total} ms from arrival to " + (
            "delivery" if sequence.delivered_ns else "the journal's end, not delivered yet"
        )
    lines = [f"  ended     {end}"] if sequence.finish_reason is not None else [f"  {end}"]
    if sequence.error:
        lines.append(f"  ERROR     {sequence.error}")
    if (ttft_ns := _ttft_ns(sequence)) is not None:
        lines.append(f"  TTFT      {_ms(ttft_ns)} ms")
    if (tpot_ns := _tpot_ns(sequence)) is not None:
        lines.append(f"  TPOT      {_ms(tpot_ns)} ms, over {sequence.num_outputs - 1:,} tokens")
    return lines


def _story_lines(life: Life, sequence: SequenceLife, start_ns: int, with_all: bool) -> list[str]:
    told: list[_Told] = [(sequence.arrived_ns, "", "", _arrival(life))]
    happenings = sequence.happenings if with_all else folded(sequence.happenings)
    told += [_told(each) for each in happenings]
    for t_ns, text in (
        (sequence.first_token_ns, "FIRST TOKEN"),
        (life.aborted_ns, "ABORTED by its client"),
        (sequence.finished_ns, "FINISHED" if sequence.finish_reason is not None else ""),
        (sequence.delivered_ns, "DELIVERED: the last text has left"),
    ):
        if t_ns and text:
            told.append((t_ns, "", "", text))
    told.sort(key=lambda happening: happening[0])
    num_left_out = 0 if with_all else max(0, len(told) - MAX_HAPPENINGS)
    lines = [_LINE.format(time="time/s", ms="ms", steps="steps") + "what"]
    for number, (t_ns, for_ms, steps, text) in enumerate(told):
        if 0 <= number - MAX_HAPPENINGS // 2 < num_left_out:
            if number == MAX_HAPPENINGS // 2:
                lines.append(f"{_INDENT}... {num_left_out:,} more (--all tells them) ...")
            continue
        head = _LINE.format(time=f"{(t_ns - start_ns) / 1e9:.6f}", ms=for_ms, steps=steps)
        lines += textwrap.wrap(
            text,
            line_width(),
            initial_indent=head,
            subsequent_indent=_INDENT,
            break_on_hyphens=False,
        )
    if any(isinstance(each, Wait) and _has_kept(each) for each in happenings):
        lines.append(f"{_INDENT}(kept: a free block for each running sequence to grow into)")
    return lines


def _arrival(life: Life) -> str:
    return "ARRIVED" if life.admit is not None else "the journal begins"


def _told(happening: Happening) -> _Told:
    if isinstance(happening, Preempted):
        lost = count(happening.num_lost_tokens, "computed token")
        text = f"PREEMPTED for {happening.for_whom}: {lost} lost"
        return happening.at_ns, "", str(happening.step), text
    first, last = happening.first_step, happening.last_step
    steps = str(first) if first == last else f"{first}-{last}"
    if isinstance(happening, Work):
        for_ns = happening.to_ns - happening.from_ns
        return happening.from_ns, _ms(for_ns), steps, _work_text(happening)
    return happening.from_ns, _ms(happening.spent_ns), steps, _wait_text(happening)


def _work_text(work: Work) -> str:
    if work.kind == "decode":
        return f"decode: {count(work.num_tokens, 'token')}"
    text = "prefill" if work.kind == "prefill" else "resumed, computes again"
    text += f": [{work.start:,}, {work.start + work.num_tokens:,})"
    if work.has_entered and work.start:
        text += f", {work.start:,} cached"
    return text + (f", in {work.num_steps} chunks" if work.num_steps > 1 else "")


def _wait_text(wait: Wait) -> str:
    text = f"passed over in {count(wait.num_steps, 'step')}"
    if wait.why is Why.SIBLING:
        return f"{text}: its sibling #0 had not computed the prompt that they share"
    if wait.places is not None and wait.places != (0, 0):
        text += f", {_place(*wait.places)} in line"
    if wait.why is Why.BEHIND:
        text += f", behind {_blockers(wait)}"
    return f"{text}: {_reason(wait)}"


def _place(first: int, last: int) -> str:
    if first != last:
        return f"place {first} to {last}"
    return "first" if first == 1 else f"place {first}"


def _blockers(wait: Wait) -> str:
    most = sorted(wait.blockers.items(), key=lambda item: -item[1])
    told = [f"{name} ({num:,})" if len(most) > 1 else name for name, num in most]
    return some(told, MAX_BLOCKERS)


def _reason(wait: Wait) -> str:
    if wait.reason is None:
        return "nobody knows why"
    if wait.reason is Unscheduled.BLOCKS and wait.needed is not None:
        return lack_of_blocks(wait.needed, wait.reserved, wait.free)
    return cause(wait.reason)


def _has_kept(wait: Wait) -> bool:
    is_for_blocks = wait.reason is Unscheduled.BLOCKS
    return is_for_blocks and wait.reserved is not None and wait.reserved[1] > 0


def _latency_lines(sequence: SequenceLife) -> list[str]:
    total = sum(sequence.spent.values())
    lines = [f"  {'where the time went':<58} {'ms':>12} {'%':>6}"]
    rows = sorted(sequence.spent.items(), key=lambda item: (GROUPS.index(item[0].group), -item[1]))
    before = ""
    for row, ns in rows:
        group = row.group if row.group != before else ""
        before = row.group
        lines.append(f"  {group:<10}{row.what:<48} {_ms(ns):>12} {_percent(ns, total):>6}")
    lines.append(f"  {'total':<58} {_ms(total):>12} {_percent(total, total):>6}")
    if not sequence.has_one_clock:
        lines.append(
            "  (the worker's clock is another than the core's: all of a step is computing)"
        )
    return lines


def _ttft_ns(sequence: SequenceLife) -> int | None:
    return sequence.first_token_ns - sequence.arrived_ns if sequence.first_token_ns else None


def _tpot_ns(sequence: SequenceLife) -> int | None:
    """Between the first token and the last, per token after the first."""
    if sequence.num_outputs < 2 or not sequence.first_token_ns:
        return None
    return (sequence.last_token_ns - sequence.first_token_ns) // (sequence.num_outputs - 1)


def _ms(ns: int) -> str:
    return f"{ns / 1e6:,.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0.0"
