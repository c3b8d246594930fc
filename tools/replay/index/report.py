"""What `engine-replay index` says: how large the index is and what it holds, per segment."""

import json
from typing import Any

from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.text_layout import count, labelled, table

MAX_ROWS = 20
HEADERS = ("<segment", "records", "events", "steps", "journal", "index", "snapshots", "<now")


def as_text(index: Index) -> str:
    figures = figures_of(index)
    total = figures["total"]
    lines = [
        f"run {index.journal.run_id}: {count(total['num_events'], 'event')}, "
        f"{count(total['num_steps'], 'step')}, {count(total['num_requests'], 'request')}"
    ]
    rows = [_row(figure) for figure in figures["segments"]]
    if len(rows) > 1:
        lines += table(HEADERS, [*rows[:MAX_ROWS], _row(total | {"name": "all"})], MAX_ROWS + 1, 0)
        if len(rows) > MAX_ROWS:
            lines.append(f"  ({len(rows) - MAX_ROWS:,} segments are not listed; --json has them)")
    else:
        lines += table(HEADERS, rows, 1, 1)
    lines += labelled("kept", figures["kept"])
    lines += labelled("took", f"{index.duration_s:,.2f} s")
    for note in index.notes:
        lines += labelled("note", note)
    return "\n".join(lines)


def as_json(index: Index) -> str:
    return json.dumps(figures_of(index) | {"duration_s": index.duration_s})


def figures_of(index: Index) -> dict[str, Any]:
    segments = [
        {
            "name": part.summary.name,
            "num_records": part.summary.num_records,
            "num_events": part.head.num_events,
            "num_steps": part.num_rows("steps"),
            "num_journal_bytes": part.summary.committed_length,
            "num_index_bytes": part.num_bytes,
            "num_snapshots": len(part.head.snapshots),
            "num_snapshot_bytes": part.num_snapshot_bytes,
            "made": index.made[part.summary.name],
        }
        for part in index.parts
    ]
    counted = [name for name, value in segments[0].items() if isinstance(value, int)]
    total: dict[str, Any] = {name: sum(each[name] for each in segments) for name in counted}
    total["num_requests"] = len(index.requests)
    return {
        "run_id": index.journal.run_id,
        "kept": index.kept,
        "segments": segments,
        "total": total,
        "notes": index.notes,
    }


def _row(figure: dict[str, Any]) -> tuple[object, ...]:
    return (
        figure["name"],
        figure["num_records"],
        figure["num_events"],
        figure["num_steps"],
        _size(figure["num_journal_bytes"]),
        _size(figure["num_index_bytes"]),
        f"{figure['num_snapshots']:,} ({_size(figure['num_snapshot_bytes'])})",
        figure.get("made", ""),
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.2f} MB"
