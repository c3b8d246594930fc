"""`engine-replay stats`: a run in figures."""

import argparse

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.journal import add_journal_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Requests by outcome, tokens, throughput, latencies, steps, preemptions, the cache, and "
        "why steps passed somebody over."
    )
    add_journal_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    from tokenreel.tools.replay.stats.report import as_json, as_text
    from tokenreel.tools.replay.stats.stats import statistics_of

    found = statistics_of(open_index(options.journal, code=options.code))
    print((as_json if options.json else as_text)(found))
    return EXIT_OK
