"""`engine-replay export`: the run as a trace for ui.perfetto.dev."""

import argparse
import sys
from pathlib import Path

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.journal import add_journal_argument
from tokenreel.tools.replay.trace.export import export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes a trace in Perfetto's format: a track per actor and per request, counters, flows "
        "from arrival to first token. Open it at https://ui.perfetto.dev; nothing is uploaded."
    )
    add_journal_argument(parser)
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="such as run.pftrace, or run.pftrace.gz: compressed"
    )


def run(options: argparse.Namespace) -> int:
    index = open_index(options.journal, code=options.code)
    num_bytes = export(index, options.out)
    for note in index.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.out}: {num_bytes:,} bytes; open it at https://ui.perfetto.dev")
    return EXIT_OK
