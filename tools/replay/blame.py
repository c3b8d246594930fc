"""Who is to blame for a difference: the code, the configuration, the journal or nondeterminism."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenreel.tools.replay.verify import Verdict

HASH_SEEDS = ("1", "2")
SECOND_OPINION_TIMEOUT_S = 600

Replay = Callable[[str], dict[str, Any] | None]
"""A replay under the given hash seed: what `verify --json` says; None if it came to no verdict."""


def blame(verdict: Verdict, replay: Replay | None) -> str:
    """One line. Only if neither code nor configuration explain the difference, `replay` is asked
    for a second opinion; without it, that question stays open."""
    meta, code = verdict.meta, verdict.code
    if meta.logic_version != code.logic_version:
        return f"another logic version: {meta.logic_version} then, {code.logic_version} now"
    known = verdict.configuration.__struct_fields__
    unknown = [name for name in meta.configuration if name not in known]
    if unknown:
        return f"the configuration: it has fields unknown to this code ({', '.join(unknown)})"
    if meta.source_hash != code.source_hash:
        return "the code: its source has changed since"
    if replay is None:
        return "not the code: the journal, or nondeterminism"
    places = [_place(replay(seed)) for seed in HASH_SEEDS]
    if None in places:
        return "not the code: the journal, or nondeterminism (a second replay did not finish)"
    if places[0] != places[1]:
        return "nondeterminism: replays under other hash seeds differ from each other"
    return (
        "the journal, or nondeterminism outside the core: the code has not changed, "
        "and replays under other hash seeds agree with each other"
    )


def replay_in_child(path: Path) -> Replay:
    """Replays of the journal at `path` by this tool in processes of their own."""

    def replay(hash_seed: str) -> dict[str, Any] | None:
        command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "verify"]
        command += ["--json", "--once", "--", str(path)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        try:
            finished = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                timeout=SECOND_OPINION_TIMEOUT_S,
                check=False,
            )
            report = json.loads(finished.stdout)
        except (OSError, subprocess.TimeoutExpired, ValueError):
            return None
        return report if isinstance(report, dict) else None

    return replay


def _place(report: dict[str, Any] | None) -> str | None:
    """Where and how a replay diverged, as text to compare."""
    return None if report is None else json.dumps(report.get("divergence"), sort_keys=True)
