"""`engine-replay verify`: does this code decide as it did then?"""

import argparse

from tokenreel.tools.replay.blame import blame, replay_in_child
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.exit_codes import EXIT_DIVERGED, EXIT_OK
from tokenreel.tools.replay.journal import add_journal_argument, open_journal
from tokenreel.tools.replay.report import as_json, as_text
from tokenreel.tools.replay.verify import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Re-executes every recorded event and compares every effect and every step's digest with "
        "the record. Stops at the first difference."
    )
    add_journal_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--once",
        action="store_true",
        help="after a difference that neither code nor configuration explain, do not replay twice "
        "more under other hash seeds to tell nondeterminism",
    )


def run(options: argparse.Namespace) -> int:
    journal = open_journal(options.journal)
    verdict = verify(journal, options.code or installed_core())
    fault = None
    if verdict.divergence is not None:
        is_asked_twice = not options.once and options.code is None
        second = replay_in_child(options.journal) if is_asked_twice else None
        fault = blame(verdict, second)
    print((as_json if options.json else as_text)(journal, verdict, fault))
    return EXIT_OK if verdict.divergence is None else EXIT_DIVERGED
