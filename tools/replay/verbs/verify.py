"""`engine-replay verify`: does this code decide as it did then?"""

import argparse
import contextlib
from collections.abc import Callable

from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_DAMAGED, EXIT_DIVERGED, EXIT_OK
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.progress import Progress
from tokenreel.tools.replay.reading.journal import Journal, add_journal_argument, open_journal
from tokenreel.tools.replay.reading.seek import PLACE_HELP, Place, seek
from tokenreel.tools.replay.under_test import (
    MODULE,
    NoPackage,
    add_core_argument,
    package_in,
    run_child,
)
from tokenreel.tools.replay.verify.blame import Replay, cause_of, replay_in_child
from tokenreel.tools.replay.verify.bounds import range_of
from tokenreel.tools.replay.verify.report import as_json, as_text, failure_as_json
from tokenreel.tools.replay.verify.verify import Range, Verdict, verify

MAX_JOBS = 256
DEFAULT_MAX_DIVERGENCES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Re-executes every recorded event and compares every effect and every step's digest with "
        "the record. Stops at the first difference and says all that is known about it."
    )
    add_journal_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="after a difference, go on from the next recorded snapshot (one begins each segment)",
    )
    parser.add_argument(
        "--max-divergences",
        type=_positive(10_000),
        default=DEFAULT_MAX_DIVERGENCES,
        metavar="N",
        help="with --continue: stop after so many (default: %(default)s)",
    )
    parser.add_argument(
        "--from",
        dest="begin",
        metavar="PLACE",
        help=f"start from the last snapshot before {PLACE_HELP}",
    )
    parser.add_argument("--until", metavar="PLACE", help="stop behind that place, given alike")
    parser.add_argument(
        "--jobs",
        type=_positive(MAX_JOBS),
        default=1,
        metavar="N",
        help="replay segments in N processes at a time; the report is the same (default: 1)",
    )
    add_core_argument(parser)
    parser.add_argument(
        "--once",
        action="store_true",
        help="after a difference, do not replay twice more under other hash seeds, which is what "
        "tells nondeterminism",
    )


def run(options: argparse.Namespace) -> int:
    try:
        return _run(options)
    except Exception as error:
        if options.json:  # on stdout, for programs; the line for people and the exit code follow
            print(failure_as_json(error))
        raise


def _run(options: argparse.Namespace) -> int:
    if options.core is not None and options.code is None:
        return _ask_other_core(options)
    begin = None if options.begin is None else seek(options.begin)
    until = None if options.until is None else seek(options.until)
    journal = open_journal(options.journal)
    verdict = _ask(journal, begin, until, options)
    cause = None
    if verdict.divergence is not None:
        cause = cause_of(verdict, _second_opinion(options, verdict))
    print((as_json if options.json else as_text)(journal, verdict, cause))
    if verdict.damage is not None:
        return EXIT_DAMAGED
    return EXIT_OK if verdict.divergence is None else EXIT_DIVERGED


def _ask(
    journal: Journal, begin: Place | None, until: Place | None, options: argparse.Namespace
) -> Verdict:
    within = range_of(journal, begin, until, options.code or installed_core())
    if within.start is not None:
        # What an index says is taken for granted only where nothing comes of it.
        with contextlib.suppress(JournalDamaged):
            verdict = _verify(journal, within, options)
            if verdict.divergence is None:
                return verdict
    return _verify(journal, within._replace(start=None), options)


def _ask_other_core(options: argparse.Namespace) -> int:
    try:
        return run_child(options.core, options.given)
    except NoPackage as error:
        raise UsageError(str(error)) from None


def _second_opinion(options: argparse.Namespace, verdict: Verdict) -> Replay | None:
    if options.once or (options.code is not None and options.core is None):
        return None
    if options.core is None:
        return replay_in_child(options.journal, verdict)
    through = (MODULE, str(package_in(options.core)))
    return replay_in_child(options.journal, verdict, through)


def _verify(journal: Journal, within: Range, options: argparse.Namespace) -> Verdict:
    segments = journal.segments[within.first : within.end]
    progress = Progress("verifying", sum(segment.committed_length for segment in segments))

    def tick(num_bytes: int) -> None:
        progress.advance(num_bytes)
        progress.update(0)

    try:
        return verify(
            journal,
            options.code or installed_core(),
            within=within,
            max_divergences=options.max_divergences if options.continues else 1,
            jobs=options.jobs,
            tick=tick,
        )
    finally:
        progress.finish()


def _positive(maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not 1 <= number <= maximum:
            raise argparse.ArgumentTypeError(f"{number} is not between 1 and {maximum}")
        return number

    parse.__name__ = "number"
    return parse
