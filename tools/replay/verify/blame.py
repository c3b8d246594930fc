"""What to blame for a divergence: the code, the configuration, the journal or nondeterminism."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenreel.tools.replay.verify.verify import Verdict

CODE_CHANGE = "code change"
CONFIGURATION = "configuration"
DAMAGED_JOURNAL = "damaged journal"
NONDETERMINISM = "nondeterminism"
UNKNOWN = "unknown"

HASH_SEEDS = ("1", "2")
SECOND_OPINION_TIMEOUT_S = 600
RECORDS_BEHIND = 20_000
"""How far behind a divergence the replays under other hash seeds go on."""

VERDICTS = ("equal", "diverged", "reproduced")
"""Of the outcomes that `verify --json` tells; the others say why there is none."""
NOWHERE = "nowhere"
"""Where a replay diverged that did not."""

Replay = Callable[[str], dict[str, Any] | None]
"""A replay under the given hash seed: what `verify --json` says; None if it came to no verdict."""


class Cause(NamedTuple):
    """One of the five words above, and the sentence that says why."""

    kind: str
    detail: str


def cause_of(verdict: Verdict, replay: Replay | None) -> Cause:
    """Of the first divergence. `replay` is asked for a second opinion under other hash seeds;
    without it, nondeterminism is not told from the rest."""
    meta, code = verdict.meta, verdict.code
    known = verdict.configuration.__struct_fields__
    unknown = [name for name in meta.configuration if name not in known]
    if unknown:
        return Cause(CONFIGURATION, f"it has fields unknown to this code ({', '.join(unknown)})")
    has_changed = (meta.source_hash, meta.logic_version) != (code.source_hash, code.logic_version)
    places = [] if replay is None else [_place(replay(seed)) for seed in HASH_SEEDS]
    if None not in places and (len(set(places)) > 1 or NOWHERE in places):
        also = "; its source has changed since, too" if has_changed else ""
        whom = "each other" if len(set(places)) > 1 else "this one, and decide as recorded"
        return Cause(NONDETERMINISM, f"replays under other hash seeds differ from {whom}{also}")
    if has_changed:
        return Cause(CODE_CHANGE, _change(verdict))
    return _unchanged(verdict, places)


def replay_in_child(
    path: Path, verdict: Verdict, through: tuple[str, ...] = ("tokenreel.tools.replay",)
) -> Replay:
    """Replays of the journal at `path` around its first divergence, in processes of their own:
    `python -m` with the words of `through`."""
    divergence = verdict.divergence
    assert divergence is not None

    def replay(hash_seed: str) -> dict[str, Any] | None:
        command = [sys.executable, "-P", "-m", *through, "verify", "--json", "--once"]
        command += ["--from", f"seq:{divergence.input_seq}"]
        command += ["--until", f"seq:{divergence.seq + RECORDS_BEHIND}", "--", str(path)]
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
    """Where and how a replay diverged, as text to compare; None if it came to no verdict."""
    if report is None or report.get("outcome") not in VERDICTS:
        return None
    divergence = report.get("divergence")
    return NOWHERE if divergence is None else json.dumps(divergence, sort_keys=True)


def _change(verdict: Verdict) -> str:
    meta, code = verdict.meta, verdict.code
    if meta.logic_version != code.logic_version:
        return f"another logic version: {meta.logic_version} then, {code.logic_version} now"
    added = [
        name for name in verdict.configuration.__struct_fields__ if name not in meta.configuration
    ]
    if added:
        return f"its source has changed since; settings that are new in it: {', '.join(added)}"
    return "its source has changed since, and claims the same logic version"


def _unchanged(verdict: Verdict, places: list[str | None]) -> Cause:
    if _is_alone(verdict):
        return Cause(
            DAMAGED_JOURNAL,
            "the code has not changed, and all that follows agrees again: this record does not "
            "say what the core did; it was altered, and its checksums made anew",
        )
    if not places:
        return Cause(UNKNOWN, f"{_NOT_THE_CODE} (not asked for replays under other hash seeds)")
    if None in places:
        return Cause(UNKNOWN, f"{_NOT_THE_CODE} (a replay under another hash seed did not finish)")
    then, now = verdict.meta.python, platform.python_version()
    if then != now:
        return Cause(
            UNKNOWN, f"{_NOT_THE_CODE}; recorded under Python {then}, replayed under {now}"
        )
    return Cause(UNKNOWN, f"{_NOT_THE_CODE}; replays under other hash seeds agree with each other")


_NOT_THE_CODE = (
    "not the code, which is the same: an event is not the one that the core was given (altered, "
    "and its checksums made anew), or the recorded run depended on something outside the core"
)


def _is_alone(verdict: Verdict) -> bool:
    """Whether steps behind the divergence have the recorded digests, and no effect differs."""
    divergence = verdict.divergence
    behind = divergence.aftermath if divergence else None
    if divergence is None or behind is None or behind.first_effect or behind.state or behind.raised:
        return False
    num_differing = behind.num_steps - behind.num_steps_agreed
    return behind.num_steps_agreed > 0 and num_differing == bool(divergence.components)
