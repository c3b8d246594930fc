"""`python -m tokenreel.tools.mutate`: tries the mutants, prints the table, says what nobody saw."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.mutate.capture import capture
from tokenreel.tools.mutate.catalogue import MUTATIONS
from tokenreel.tools.mutate.judgement import Judgement
from tokenreel.tools.mutate.laboratory import PACKAGE, try_all
from tokenreel.tools.mutate.mutation import NoLongerApplies
from tokenreel.tools.mutate.scenarios import SCENARIOS
from tokenreel.tools.mutate.table import as_json, as_text
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.journal import JournalMissing, open_journal
from tokenreel.tools.replay.verify.verify import verify

EXIT_OK, EXIT_WRONG, EXIT_USAGE = 0, 1, 64
KEPT = PACKAGE / "tests" / "replays"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.only if name not in MUTATIONS]
    if unknown:
        print(f"there is no mutation {', '.join(unknown)}; --list names all", file=sys.stderr)
        return EXIT_USAGE
    if options.list:
        for mutation in MUTATIONS.values():
            print(f"{mutation.name:36} {mutation.mistake}")
        return EXIT_OK
    try:
        return _run(options)
    except (NoLongerApplies, JournalMissing, JournalDamaged, _Unfit) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


class _Unfit(Exception):
    """The core that is installed does not decide as this journal says."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tokenreel.tools.mutate",
        description="Puts one mistake at a time into a copy of the core, and checks that verify "
        "reports each mutant at exactly the first record that shows it. An oracle, which runs both "
        "cores in lock step and shares nothing with verify, says which that is.",
        epilog="exit codes: 0 every verdict is right, 1 one is wrong, 64 wrong usage",
        allow_abbrev=False,
    )
    parser.add_argument(
        "journals",
        nargs="*",
        type=Path,
        metavar="JOURNAL",
        help="run directories (default: those under tests/replays/, and runs captured for this)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="try these mutations alone"
    )
    parser.add_argument("--list", action="store_true", help="name the mutations and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (default: 2)")
    return parser


def _run(options: argparse.Namespace) -> int:
    mutations = [MUTATIONS[name] for name in options.only or MUTATIONS]
    began_s = time.monotonic()
    num_done = 0

    def tell(judgement: Judgement) -> None:
        nonlocal num_done
        num_done += 1
        if sys.stderr.isatty():
            print(f"\r{num_done} of {len(mutations)} mutants", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as directory:
        journals = options.journals or _default_journals(Path(directory))
        for path in journals:
            _require_fit(path)
        judgements = try_all(mutations, journals, Path(directory), max(1, options.jobs), tell)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    names = [path.name for path in journals]
    print((as_json if options.json else as_text)(judgements, names, time.monotonic() - began_s))
    return EXIT_WRONG if any(judgement.is_wrong for judgement in judgements) else EXIT_OK


def _default_journals(directory: Path) -> list[Path]:
    kept = sorted({path.parent for path in KEPT.rglob("*.tkr")}) if KEPT.is_dir() else []
    return [*kept, *(capture(name, directory) for name in SCENARIOS)]


def _require_fit(path: Path) -> None:
    divergence = verify(open_journal(path), installed_core(), explained=False).divergence
    if divergence is not None:
        raise _Unfit(f"{path}: the core itself diverges at seq {divergence.seq}; see engine-replay")
