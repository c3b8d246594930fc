"""Makes mutants, copies of the package with one mistake each, and has each judged in a child."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenreel.tools.mutate.judgement import Judgement, judge
from tokenreel.tools.mutate.mutation import CORE, Mutation, apply
from tokenreel.tools.mutate.trial import CORE_NAME, ORIGINAL_NAME

PACKAGE = Path(__file__).resolve().parents[2]
COPIED = (Path("messages"), CORE)
CHILD = "tokenreel.tools.mutate.trial"
MAX_CPU_S = 5.0
"""For a thousand records: some hundred times what a core needs that does not hang."""
MAX_WALL_S = 600.0
"""For one mutant and all journals."""


def try_all(
    mutations: Iterable[Mutation],
    journals: Sequence[Path],
    directory: Path,
    jobs: int,
    tell: Callable[[Judgement], None] = lambda judgement: None,
    max_cpu_s: float = MAX_CPU_S,
) -> list[Judgement]:
    """In the order of the mutations, of which `jobs` are tried at a time, in `directory`. `tell`
    hears each judgement as it is made. A mutant that needs more than `max_cpu_s` of user time for a
    thousand records hangs. Raises NoLongerApplies."""
    original = directory / "original"
    _copy(original)
    _rename(original)

    def attempt(mutation: Mutation) -> Judgement:
        mutant = directory / "mutants" / mutation.name
        _copy(mutant)
        apply(mutation, mutant)
        judgement = judge(mutation, *_trial(mutant, original, journals, max_cpu_s))
        shutil.rmtree(mutant)
        tell(judgement)
        return judgement

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(attempt, mutations))


def _copy(package: Path) -> None:
    for folder in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE / folder, package / folder, ignore=ignored)


def _rename(package: Path) -> None:
    """So that the original can be imported beside a mutant."""
    for path in (package / CORE).glob("*.py"):
        path.write_text(path.read_text().replace(CORE_NAME, ORIGINAL_NAME))


def _trial(
    mutant: Path, original: Path, journals: Sequence[Path], max_cpu_s: float
) -> tuple[list[dict[str, Any]], str]:
    """What the child told of each journal, and what went wrong with it; empty if nothing did."""
    command = [sys.executable, "-P", "-m", CHILD, str(max_cpu_s), str(mutant), str(original)]
    command += map(str, journals)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=MAX_WALL_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return [], f"no end after {MAX_WALL_S:.0f} s"
    told = [json.loads(line) for line in child.stdout.splitlines()]
    if child.returncode != 0 or len(told) != len(journals):
        last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        return told, last[0]
    return told, ""
