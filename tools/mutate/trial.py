"""One mutant, judged over journals, in a process of its own: prints a line of JSON per journal.

    python -P -m tokenreel.tools.mutate.trial SECONDS MUTANT ORIGINAL JOURNAL ...

SECONDS of user time are granted per thousand records. MUTANT and ORIGINAL hold packages.
`tokenreel.actors.core` is the mutant's here, the original lives under another name: so this module
may import nothing of the core before it has said so.
"""

import importlib
import importlib.util
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tokenreel.tools.mutate.mutation import CORE
from tokenreel.tools.replay.under_test import use

CORE_NAME = "tokenreel.actors.core"
ORIGINAL_NAME = "original_core"


class TimedOut(BaseException):
    """No Exception: whoever catches what a core may raise lets it through."""


def main(arguments: list[str]) -> int:
    max_cpu_s = float(arguments[0])
    mutant, original, *journals = map(Path, arguments[1:])
    use(mutant)
    _load_original(original)
    signal.signal(signal.SIGVTALRM, _time_out)
    for path in journals:
        print(json.dumps(_judge(path, max_cpu_s)), flush=True)
    return 0


def _judge(path: Path, max_cpu_s: float) -> dict[str, Any]:
    """What the oracle sees in this journal, and where `verify` stops."""
    from tokenreel.tools.mutate.oracle import LockStep
    from tokenreel.tools.replay.core_code import installed_core
    from tokenreel.tools.replay.reading.journal import open_journal
    from tokenreel.tools.replay.verify.verify import verify

    journal = open_journal(path)
    told: dict[str, Any] = {"journal": path.name, "oracle": None, "verify": None, "hangs": None}
    lock_step = LockStep(
        importlib.import_module(f"{ORIGINAL_NAME}.engine"),
        importlib.import_module(f"{CORE_NAME}.engine"),
    )
    num_records = sum(segment.num_records for segment in journal.segments)
    max_cpu_s *= 1 + num_records // 1000
    try:
        with _limited(max_cpu_s):
            findings = lock_step.findings(journal)
        told["oracle"] = findings.first and findings.first._asdict()
        told["hidden"] = findings.hidden and findings.hidden._asdict()
    except TimedOut:
        told["hangs"] = lock_step.seq
    try:
        with _limited(max_cpu_s):
            divergence = verify(journal, installed_core(), explained=False).divergence
        if divergence is not None:
            told["verify"] = {
                "seq": divergence.seq,
                "step": divergence.step,
                "what": divergence.path + " ".join(["", *divergence.components]),
            }
    except TimedOut:
        told["verify"] = {"seq": 0, "step": 0, "what": "hangs"}
    return told


def _load_original(package: Path) -> None:
    place = package / CORE
    spec = importlib.util.spec_from_file_location(
        ORIGINAL_NAME, place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[ORIGINAL_NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


@contextmanager
def _limited(max_cpu_s: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_VIRTUAL, max_cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _time_out(signum: int, frame: FrameType | None) -> None:
    raise TimedOut


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
