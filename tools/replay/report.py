"""What `engine-replay verify` says: for a person, and as JSON for a program."""

import json
from typing import Any

import msgspec

from tokenreel.tools.replay.divergence import Divergence
from tokenreel.tools.replay.journal import Journal
from tokenreel.tools.replay.verify import Verdict


def as_text(journal: Journal, verdict: Verdict, blame: str | None) -> str:
    """`blame` is the line that says who is to blame for a divergence."""
    lines = [_headline(verdict)]
    if verdict.divergence is not None:
        lines += _divergence_lines(verdict.divergence)
        lines.append(_row("to blame", blame or "unknown"))
    lines += _run_lines(journal, verdict)
    lines += [_row("note", note) for note in _notes(journal, verdict)]
    if verdict.reproduced is not None and verdict.divergence is None:
        lines += ["", "As recorded then:", verdict.reproduced.traceback.rstrip()]
    return "\n".join(lines)


def as_json(journal: Journal, verdict: Verdict, blame: str | None) -> str:
    meta, code = verdict.meta, verdict.code
    report: dict[str, Any] = {
        "outcome": _outcome(verdict),
        "run_id": journal.run_id,
        "path": str(journal.path),
        "has_ended": journal.has_ended,
        "is_live": journal.is_live,
        "divergence": verdict.divergence and msgspec.structs.asdict(verdict.divergence),
        "reproduced": verdict.reproduced and msgspec.structs.asdict(verdict.reproduced),
        "blame": blame,
        "source_hash": {"recorded": meta.source_hash.hex(), "running": code.source_hash.hex()},
        "logic_version": {"recorded": meta.logic_version, "running": code.logic_version},
        "version": meta.version,
        "commit": meta.commit,
        "configuration": meta.configuration,
        "facts": meta.facts,
        "totals": verdict.totals._asdict(),
        "notes": _notes(journal, verdict),
    }
    return json.dumps(report, default=_plain)


def _headline(verdict: Verdict) -> str:
    if verdict.divergence is not None:
        return "DIVERGED: the code does not decide as it did then"
    if verdict.reproduced is not None:
        failure = verdict.reproduced
        return f"reproduced CoreFailed: {failure.type_name}: {failure.message}"
    return "equal: every effect and every step's digest came out as recorded"


def _outcome(verdict: Verdict) -> str:
    if verdict.divergence is not None:
        return "diverged"
    return "equal" if verdict.reproduced is None else "reproduced"


def _divergence_lines(divergence: Divergence) -> list[str]:
    rows = [
        ("at", f"seq {divergence.seq}, {divergence.segment}, offset {divergence.offset}"),
        ("step", f"{divergence.step} (the last one that agreed: {divergence.last_step_agreed})"),
        ("input", divergence.input),
        ("difference", divergence.path),
        ("recorded", divergence.recorded),
        ("replayed", divergence.replayed),
    ]
    if divergence.components:
        rows.append(("components", ", ".join(divergence.components)))
    return [_row(name, text) for name, text in rows]


def _run_lines(journal: Journal, verdict: Verdict) -> list[str]:
    meta, code, totals = verdict.meta, verdict.code, verdict.totals
    same = "the same" if meta.source_hash == code.source_hash else f"now {code.source_hash.hex()}"
    configuration = " ".join(f"{name}={value}" for name, value in meta.configuration.items())
    commit = f", commit {meta.commit}" if meta.commit else ""
    span_s, duration_s = totals.span_ns / 1e9, totals.duration_ns / 1e9
    speed = f", {span_s / duration_s:,.1f} x real time" if duration_s > 0 else ""
    rows = [
        ("run", f"{journal.run_id}, written by tokenreel {meta.version}{commit}"),
        ("core source", f"{meta.source_hash.hex()} ({same})"),
        ("logic version", f"{meta.logic_version} (running: {code.logic_version})"),
        ("configuration", configuration),
        (
            "replayed",
            f"{_count(totals.num_events, 'event')}, {_count(totals.num_effects, 'effect')}, "
            f"{_count(totals.num_steps, 'step')}, {_count(totals.num_tokens, 'token')} "
            f"of {_count(totals.num_records, 'record')} "
            f"in {_count(totals.num_segments, 'segment')}",
        ),
        ("time", f"{span_s:,.3f} s recorded, {duration_s:,.3f} s replayed{speed}"),
    ]
    return [_row(name, text) for name, text in rows]


def _notes(journal: Journal, verdict: Verdict) -> list[str]:
    notes = list(journal.notes)
    totals = verdict.totals
    if totals.num_gaps:
        notes.append(
            f"{_count(totals.num_gaps, 'gap')}: {_count(totals.num_records_lost, 'record')} never "
            "written; a snapshot follows each gap, and the replay went on from there"
        )
    known = set(verdict.configuration.__struct_fields__)
    unknown = [name for name in verdict.meta.configuration if name not in known]
    if unknown:
        notes.append(f"the configuration has fields unknown here: {', '.join(unknown)}")
    return notes


def _row(name: str, text: str) -> str:
    return f"  {name:<14} {text}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
