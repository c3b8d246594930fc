"""What `engine-replay verify` says: for a person, and as JSON for a program."""

import json
import platform
from typing import Any

import msgspec

from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.command import UsageError
from tokenreel.tools.printable import printable_lines
from tokenreel.tools.replay.reading.journal import Journal, JournalMissing
from tokenreel.tools.replay.text_layout import count
from tokenreel.tools.replay.verify.blame import DAMAGED_JOURNAL, UNKNOWN, Cause
from tokenreel.tools.replay.verify.divergence_text import detail_lines, place_lines, row, short_line
from tokenreel.tools.replay.verify.spans import damage_of
from tokenreel.tools.replay.verify.verify import Range, Verdict


def as_text(journal: Journal, verdict: Verdict, cause: Cause | None) -> str:
    """`cause` is what explains the first divergence."""
    lines = [_headline(verdict)]
    if verdict.divergence is not None:
        lines.append(row("cause", f"{cause.kind}: {cause.detail}" if cause else UNKNOWN))
        lines += place_lines(verdict.divergence)
    lines += _run_lines(journal, verdict)
    lines += [row("note", note) for note in _notes(journal, verdict)]
    if verdict.divergence is not None:
        lines += detail_lines(verdict.divergence, journal.segments[0].header.monotonic_ns)
    if len(verdict.divergences) > 1:
        lines += ["", "Further differences, each behind another snapshot:"]
        lines += [short_line(divergence) for divergence in verdict.divergences[1:]]
    if verdict.reproduced is not None and verdict.divergence is None:
        lines += ["", "As recorded then:", verdict.reproduced.traceback.rstrip()]
    return printable_lines("\n".join(lines))


def as_json(journal: Journal, verdict: Verdict, cause: Cause | None) -> str:
    meta, code = verdict.meta, verdict.code
    divergences = [msgspec.to_builtins(divergence) for divergence in verdict.divergences]
    report: dict[str, Any] = {
        "outcome": _outcome(verdict),
        "run_id": journal.run_id,
        "path": str(journal.path),
        "has_ended": journal.has_ended,
        "is_live": journal.is_live,
        "cause": cause and cause.kind,
        "cause_detail": cause and cause.detail,
        "divergence": divergences[0] if divergences else None,
        "divergences": divergences,
        "skipped": msgspec.to_builtins(verdict.skipped),
        "damage": msgspec.to_builtins(verdict.damage),
        "reproduced": verdict.reproduced and msgspec.structs.asdict(verdict.reproduced),
        "source_hash": {"recorded": meta.source_hash.hex(), "running": code.source_hash.hex()},
        "logic_version": {"recorded": meta.logic_version, "running": code.logic_version},
        "version": meta.version,
        "commit": meta.commit,
        "python": {"recorded": meta.python, "running": platform.python_version()},
        "configuration": meta.configuration,
        "facts": meta.facts,
        "totals": verdict.totals._asdict(),
        "notes": _notes(journal, verdict),
    }
    return json.dumps(report, default=_plain)


def failure_as_json(error: Exception) -> str:
    """What kept verify from a verdict; the exit code says the same."""
    report: dict[str, Any] = {"outcome": "fault", "error": str(error), "divergence": None}
    if isinstance(error, JournalDamaged):
        report["outcome"], report["cause"] = "damaged", DAMAGED_JOURNAL
        report["damage"] = msgspec.to_builtins(damage_of(error))
    elif isinstance(error, JournalMissing):
        report["outcome"] = "missing"
    elif isinstance(error, UsageError):
        report["outcome"] = "usage"
    else:
        report["error"] = f"{type(error).__name__}: {error}"
    return json.dumps(report)


def _headline(verdict: Verdict) -> str:
    if verdict.divergence is not None:
        more = len(verdict.divergences)
        return "DIVERGED: the code does not decide as it did then" + (
            f" ({more} differences)" if more > 1 else ""
        )
    if verdict.reproduced is not None:
        failure = verdict.reproduced
        return f"reproduced CoreFailed: {failure.type_name}: {failure.message}"
    return "equal: every effect and every step's digest came out as recorded"


def _outcome(verdict: Verdict) -> str:
    if verdict.divergence is not None:
        return "diverged"
    return "equal" if verdict.reproduced is None else "reproduced"


def _run_lines(journal: Journal, verdict: Verdict) -> list[str]:
    meta, code, totals = verdict.meta, verdict.code, verdict.totals
    same = "the same" if meta.source_hash == code.source_hash else f"now {code.source_hash.hex()}"
    configuration = " ".join(f"{name}={value}" for name, value in meta.configuration.items())
    commit = f", commit {meta.commit}" if meta.commit else ""
    span_s, duration_s = totals.span_ns / 1e9, totals.duration_ns / 1e9
    speed = f", {span_s / duration_s:,.1f} x real time" if span_s and duration_s else ""
    recorded = f"{span_s:,.3f} s recorded, " if span_s else ""
    rows = [
        ("run", f"{journal.run_id}, written by tokenreel {meta.version}{commit}"),
        ("core source", f"{meta.source_hash.hex()} ({same})"),
        ("logic version", f"{meta.logic_version} (running: {code.logic_version})"),
        ("configuration", configuration),
        (
            "replayed",
            f"{count(totals.num_events, 'event')}, {count(totals.num_effects, 'effect')}, "
            f"{count(totals.num_steps, 'step')}, {count(totals.num_tokens, 'token')} "
            f"of {count(totals.num_records, 'record')} "
            f"in {count(totals.num_segments, 'segment')}",
        ),
        ("time", f"{recorded}{duration_s:,.3f} s replayed{speed}"),
    ]
    return [row(name, text) for name, text in rows]


def _notes(journal: Journal, verdict: Verdict) -> list[str]:
    notes = list(journal.notes)
    totals = verdict.totals
    if totals.num_gaps:
        notes.append(
            f"{count(totals.num_gaps, 'gap')}: {count(totals.num_records_lost, 'record')} never "
            "written; a snapshot follows each gap, and the replay went on from there"
        )
    notes += _bounds(journal, verdict.within)
    for segment in verdict.skipped:
        notes.append(
            f"{segment.segment} was passed over behind a difference: {segment.reason} "
            f"(offset {segment.offset})"
        )
    if verdict.damage is not None:
        damage = verdict.damage
        notes.append(
            f"damaged, and read no further: {damage.segment}, offset {damage.offset}: "
            f"{damage.reason}"
        )
    known = set(verdict.configuration.__struct_fields__)
    unknown = [name for name in verdict.meta.configuration if name not in known]
    if unknown:
        notes.append(f"the configuration has fields unknown here: {', '.join(unknown)}")
    return notes


def _bounds(journal: Journal, within: Range) -> list[str]:
    notes = []
    if within.start is not None and within.start.position is not None:
        notes.append(
            f"replayed from seq {within.start.position.seq} on, a snapshot of the index; "
            "what stands before it is not verified here"
        )
    elif within.first:
        first = journal.segments[within.first]
        notes.append(
            f"replayed from seq {first.header.first_seq} on, the snapshot of {first.name}; "
            "what stands before it is not verified here"
        )
    if within.until < journal.segments[-1].next_seq - 1:
        notes.append(f"replayed up to seq {within.until}")
    return notes


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
