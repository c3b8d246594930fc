"""A divergence as lines for a person; nothing that may be long goes on without an end."""

import textwrap
from typing import Any

from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.text_layout import count, line_width
from tokenreel.tools.replay.verify.divergence import Aftermath, Divergence, EffectDifference
from tokenreel.tools.replay.verify.history import History, HistoryLine

MAX_LINES_PER_LIST = 4
MAX_SEQUENCES = 16
MAX_INPUTS = 12
MAX_HISTORY_LINES = 24
MAX_VALUE_CHARACTERS = 500
MAX_DRIFT_CHARACTERS = 85
LABEL_WIDTH = 14

_COLUMNS = (
    ("seq_id", "sequence"),
    ("status", "status"),
    ("num_prompt_tokens", "prompt"),
    ("num_known", "known"),
    ("num_computed", "computed"),
    ("num_scheduled", "scheduled"),
    ("num_open_samples", "open samples"),
    ("num_open_steps", "open steps"),
    ("epoch", "preemptions"),
    ("row", "row"),
)


def row(label: str, text: str) -> str:
    """One labelled line, or more if the text is long."""
    return textwrap.fill(
        text,
        line_width(),
        initial_indent=f"  {label:<{LABEL_WIDTH}} ",
        subsequent_indent=" " * (LABEL_WIDTH + 3),
        break_long_words=True,
        break_on_hyphens=False,
    )


def place_lines(divergence: Divergence) -> list[str]:
    last = divergence.last_step_agreed
    agreed = f"the last one that agreed: {last}" if last else "none before it was compared"
    rows = [
        ("at", f"seq {divergence.seq}, {divergence.segment}, offset {divergence.offset}"),
        ("step", f"{divergence.step} ({agreed})"),
        ("input", _cut(f"seq {divergence.input_seq}, {divergence.input}", MAX_VALUE_CHARACTERS)),
        ("difference", divergence.path),
        ("recorded", _cut(divergence.recorded, MAX_VALUE_CHARACTERS)),
        ("replayed", _cut(divergence.replayed, MAX_VALUE_CHARACTERS)),
    ]
    if divergence.components:
        rows.append(("components", ", ".join(divergence.components)))
    if divergence.aftermath is not None:
        rows += _aftermath_rows(divergence, divergence.aftermath)
    return [row(label, text) for label, text in rows]


def detail_lines(divergence: Divergence, origin_ns: int) -> list[str]:
    """What `explanation` found beside the place. Times count from `origin_ns`."""
    lines: list[str] = []
    for component, state in divergence.replayed_state.items():
        lines += ["", f"Replayed state, {component.replace('_', ' ')}:", *_state_lines(state)]
    if divergence.inputs:
        lines += ["", *_input_lines(divergence)]
    for history in divergence.requests:
        lines += ["", *_history_lines(history, origin_ns)]
    return lines


def short_line(divergence: Divergence) -> str:
    return (
        f"  seq {divergence.seq}, {divergence.segment}, offset {divergence.offset}, "
        f"step {divergence.step}: {divergence.path}\n"
        f"      recorded {_cut(divergence.recorded, line_width() - 15)}\n"
        f"      replayed {_cut(divergence.replayed, line_width() - 15)}"
    )


def _cut(text: str, num_characters: int) -> str:
    return text if len(text) <= num_characters else f"{text[: num_characters - 3]}..."


def _aftermath_rows(divergence: Divergence, behind: Aftermath) -> list[tuple[str, str]]:
    rows = []
    num_differing = behind.num_steps - behind.num_steps_agreed
    if divergence.components:
        rows.append(("drift", _drift(behind)))
    elif behind.num_steps and not num_differing:
        rows.append(("state", f"as recorded in all {count(behind.num_steps, 'step')} behind it"))
    elif behind.num_steps:
        rows.append(
            ("state", f"differs in {num_differing:,} of the {behind.num_steps:,} steps behind it")
        )
    if behind.raised:
        rows.append(("later raised", behind.raised))
    return rows


def _drift(behind: Aftermath) -> str:
    start = "every effect up to here came out as recorded, the state did not"
    if behind.first_effect is not None:
        return f"{start}; first effect that differs: {_difference(behind.first_effect)}"
    if behind.state is not None:
        return (
            f"{start}; no effect differs up to the segment's end; the next snapshot does: "
            f"{_difference(behind.state)}"
        )
    return f"{start}; no effect differs in the {count(behind.num_events, 'event')} behind it"


def _difference(found: EffectDifference) -> str:
    return (
        f"{found.path}, at seq {found.seq}, step {found.step}: "
        f"recorded {_cut(found.recorded, MAX_DRIFT_CHARACTERS)}, "
        f"replayed {_cut(found.replayed, MAX_DRIFT_CHARACTERS)}"
    )


def _state_lines(state: dict[str, Any]) -> list[str]:
    if isinstance(state.get("sequences"), list):
        return _sequence_lines(state["sequences"])
    names = [name for name in state if name != "stamps" and not name.startswith("stamps_")]
    width = max((len(name) for name in names), default=0)
    lines = []
    for name in names[:MAX_SEQUENCES]:
        lines += _list_lines(f"  {name:<{width}}  ", state[name])
    if len(names) > MAX_SEQUENCES:
        lines.append(f"  ... {count(len(names) - MAX_SEQUENCES, 'line')} more (--json has them)")
    return lines


def _list_lines(label: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        return [f"{label}{value:,}" if isinstance(value, int) else f"{label}{value}"]
    words = [":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
    lines = textwrap.wrap(" ".join(words) or "-", line_width() - len(label))
    if len(lines) > MAX_LINES_PER_LIST:  # what has just changed stands at an end
        half = MAX_LINES_PER_LIST // 2
        num_hidden = len(" ".join(lines[half:-half]).split())
        lines[half:-half] = [f"... {num_hidden:,} more (--json has them) ..."]
    indent = " " * len(label)
    return [f"{indent if number else label}{line}" for number, line in enumerate(lines)]


def _sequence_lines(sequences: list[dict[str, Any]]) -> list[str]:
    """Those with open steps first: what differs has just been touched."""
    if not sequences:
        return ["  none"]
    ordered = sorted(sequences, key=lambda s: (s["status"] != "running", s["seq_id"]))
    lines = ["  " + "  ".join(title for _, title in _COLUMNS)]
    for sequence in ordered[:MAX_SEQUENCES]:
        cells = [f"{sequence[field]!s:>{len(title)}}" for field, title in _COLUMNS]
        lines.append("  " + "  ".join(cells))
    if len(ordered) > MAX_SEQUENCES:
        num_hidden = len(ordered) - MAX_SEQUENCES
        lines.append(f"  ... {count(num_hidden, 'sequence')} more (--json has them)")
    return lines


def _input_lines(divergence: Divergence) -> list[str]:
    last = divergence.last_step_agreed
    since = f"since step {last}, which agreed" if last else "since the start"
    hidden = divergence.num_inputs_omitted + max(0, len(divergence.inputs) - MAX_INPUTS)
    lines = [f"Given to the core {since}:"]
    if hidden:
        lines.append(f"  ... {count(hidden, 'event')} before")
    for event in divergence.inputs[-MAX_INPUTS:]:
        lines.append(f"  seq {event.seq:<9} {_cut(event.text, line_width() - 16)}")
    return lines


def _history_lines(history: History, origin_ns: int) -> list[str]:
    key = show_key(history.key) if history.key else "of unknown key"
    sequences = ", ".join(map(str, history.seq_ids))
    noun = "sequence" if len(history.seq_ids) == 1 else "sequences"
    lines = [f"The life of request {key}" + (f" ({noun} {sequences}):" if sequences else ":")]
    if not history.is_whole:
        lines.append("  it came in before this journal begins")
    lines.append(f"  {'time':>11}  {'seq':>8}  {'steps':>11}  what")
    half = MAX_HISTORY_LINES // 2
    told = history.lines
    hidden = history.num_omitted + max(0, len(told) - MAX_HISTORY_LINES)
    head, tail = (told[:half], told[-half:]) if hidden else (told, [])
    is_one = len(history.seq_ids) <= 1
    lines += [_history_line(line, origin_ns, is_one) for line in head]
    if hidden:
        lines.append(f"  ... {count(hidden, 'line')} more (--json has them)")
    return lines + [_history_line(line, origin_ns, is_one) for line in tail]


def _history_line(line: HistoryLine, origin_ns: int, is_one: bool) -> str:
    time_s = f"{max(0, line.t_ns - origin_ns) / 1e9:,.3f} s"
    steps = str(line.step or "")
    if line.last_step != line.step:
        steps = f"{line.step}-{line.last_step}"
    whose = "" if is_one or not line.seq_id else f" {line.seq_id}"
    many = f", {line.num_tokens:,} tokens" if line.last_step != line.step else ""
    detail = f": {line.detail}{many}" if line.detail else ""
    return f"  {time_s:>11}  {line.seq:>8}  {steps:>11}  {line.what}{whose}{detail}"
