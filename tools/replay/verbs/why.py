"""`engine-replay why`: the life of one request, and where its latency went."""

import argparse

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.journal import add_journal_argument
from tokenreel.tools.replay.reading.request_name import FORMS, parse_request_name
from tokenreel.tools.replay.why.report import as_json, as_text
from tokenreel.tools.replay.why.why import life_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tells the life of one request: why it waited, each time; what was computed for it; who "
        "took its blocks; and where its latency went. Replays the run while the request was there."
    )
    add_journal_argument(parser)
    parser.add_argument("request", metavar="REQUEST", help=FORMS)
    parser.add_argument(
        "--all", action="store_true", help="every happening of its own, however long the page gets"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    name = parse_request_name(options.request)
    index = open_index(options.journal, code=options.code)
    life = life_of(index, name)
    start_ns = index.journal.segments[0].header.monotonic_ns
    if options.json:
        print(as_json(life, start_ns, index.notes))
    else:
        print(as_text(life, start_ns, index.notes, with_all=options.all))
    return EXIT_OK
