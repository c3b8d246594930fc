"""`engine-replay index`: makes the index that other verbs seek by, and says what it takes."""

import argparse

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.index.report import as_json, as_text
from tokenreel.tools.replay.reading.journal import add_journal_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replays the journal once and keeps snapshots and tables beside it, so that `step`, `view` "
        "and others reach any step within a second. They do so by themselves when they first need "
        "it; what still fits is not made again."
    )
    add_journal_argument(parser)
    parser.add_argument("--anew", action="store_true", help="make all of it again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    code = options.code or installed_core()
    index = open_index(options.journal, code=code, anew=options.anew)
    print((as_json if options.json else as_text)(index))
    return EXIT_OK
