"""The command line of `engine-replay`: finds the verb, says in one line what went wrong."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn, Protocol, cast

from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.exit_codes import (
    EXIT_CODES,
    EXIT_DAMAGED,
    EXIT_DIVERGED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_MISSING,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
)
from tokenreel.tools.replay.index.replica import ReplayDiverged
from tokenreel.tools.replay.reading.journal import JournalMissing
from tokenreel.tools.replay.text_layout import printable

VERBS = {
    "verify": "does this code decide as it did then?",
    "show": "what happened, one line per event",
    "step": "the scheduler's whole state at one step",
    "why": "why did this request take so long?",
    "stats": "the run in figures",
    "what-if": "what would the clients have met under other settings?",
    "shrink": "the smallest scenario with the same symptom, as a test",
    "redact": "a journal that may be shown to strangers",
    "keep": "make a test of it: the suite replays it from now on",
    "export": "the run as a trace for ui.perfetto.dev",
    "view": "the whole run as a web page, step by step",
    "index": "make what step, view and others seek by",
}
"""In the order of `--help`. The module of a verb is imported only when it is asked for."""


class Verb(Protocol):
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """A wrong command line, found out after parsing; the message says what to do."""


def main(arguments: Sequence[str] | None = None, code: CoreCode | None = None) -> int:
    """`code` is the core that is asked; without it, the one installed beside this tool. A verb
    finds it as `options.code`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # `>&-`
        sys.stdout = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        verb, options = _parse(given)
        options.code, options.given = code, given
        exit_code = verb.run(options)
        sys.stdout.flush()
        return exit_code
    except UsageError as error:
        return _fail(EXIT_USAGE, str(error))
    except JournalDamaged as damage:
        return _fail(EXIT_DAMAGED, f"damaged journal: {damage}")
    except ReplayDiverged as diverged:
        return _fail(EXIT_DIVERGED, str(diverged))
    except JournalMissing as missing:
        return _fail(EXIT_MISSING, str(missing))
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(EXIT_IO, f"{where}{error.strerror or error}")
    except Exception as error:
        return _fail(EXIT_FAULT, f"a fault of this tool: {type(error).__name__}: {error}")


def _parse(given: list[str]) -> tuple[Verb, argparse.Namespace]:
    """Only the verb that is asked for is imported: most need little, and a person waits."""
    asked = next((word for word in given if not word.startswith("-")), None)
    parser = _Parser(
        prog="engine-replay",
        description="Ask a captured journal. Needs neither the model nor a GPU.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"tokenreel {metadata.version('tokenreel')}"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    module = None
    for name, question in VERBS.items():
        verb_parser = verbs.add_parser(
            name,
            help=question,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == asked:
            module = importlib.import_module(
                f"tokenreel.tools.replay.verbs.{name.replace('-', '_')}"
            )
            module.add_arguments(verb_parser)
    options = parser.parse_args(given)
    return cast(Verb, module), options


def _fail(exit_code: int, line: str) -> int:
    print(f"engine-replay: {printable(line)}", file=sys.stderr)
    return exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")
