"""`engine-bench compare`: results side by side."""

import argparse

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.results.comparison import comparison_lines
from tokenreel.tools.bench.results.result import read_result
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.printable import printable

MAX_RESULTS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A markdown table of several results of one verb: the first file's figures, those of the "
        "others, and in parentheses their ratio to the first."
    )
    parser.add_argument("results", type=values.path, nargs="+", metavar="FILE")
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="which rows, by their names in the table, divided by commas (default: all)",
    )


def run(options: argparse.Namespace) -> int:
    if len(options.results) > MAX_RESULTS:
        raise UsageError(f"{len(options.results)} files; at most {MAX_RESULTS} side by side")
    results = [read_result(path) for path in options.results]
    if len({type(result) for result in results}) > 1:
        verbs = ", ".join(type(result).__name__.lower() for result in results)
        raise UsageError(f"results of different verbs cannot be compared: {verbs}")
    wanted = options.metrics.split(",") if options.metrics else None
    print("\n".join(map(printable, comparison_lines(results, wanted))))
    return EXIT_OK
