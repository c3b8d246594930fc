"""`engine-replay`: questions to a captured journal, answered without model, GPU or network.

Exit codes: 0 the code decides as recorded, 3 it does not, 64 wrong usage, 65 the journal is
damaged, 66 there is none, 70 a fault of this tool.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tokenreel.actors.core.config import LOGIC_VERSION, CoreConfig
from tokenreel.actors.core.digest import COMPONENTS
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import source_hash
from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.replay_blame import blame, replay_in_child
from tokenreel.tools.replay_journal import JournalMissing, open_journal
from tokenreel.tools.replay_report import as_json, as_text
from tokenreel.tools.replay_verify import CoreCode, verify

EXIT_EQUAL = 0
EXIT_DIVERGED = 3
EXIT_USAGE = 64
EXIT_DAMAGED = 65
EXIT_MISSING = 66
EXIT_FAULT = 70
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, code: CoreCode | None = None) -> int:
    """`code` is the core that is asked; without it, the one installed beside this tool."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        exit_code = _verify(options, code)
        sys.stdout.flush()
        return exit_code
    except JournalDamaged as damage:
        return _fail(EXIT_DAMAGED, f"damaged journal: {damage}")
    except JournalMissing as missing:
        return _fail(EXIT_MISSING, str(missing))
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAULT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _fail(EXIT_FAULT, f"a fault of this tool: {type(error).__name__}: {error}")


def installed_core() -> CoreCode:
    return CoreCode(
        configuration=CoreConfig,
        create=Engine,
        restore=Engine.restore,
        components=COMPONENTS,
        logic_version=LOGIC_VERSION,
        source_hash=source_hash(),
    )


def _verify(options: argparse.Namespace, code: CoreCode | None) -> int:
    journal = open_journal(options.journal)
    verdict = verify(journal, code or installed_core())
    fault = None
    if verdict.divergence is not None:
        second = None if options.once or code is not None else replay_in_child(options.journal)
        fault = blame(verdict, second)
    print((as_json if options.json else as_text)(journal, verdict, fault))
    return EXIT_EQUAL if verdict.divergence is None else EXIT_DIVERGED


def _fail(exit_code: int, line: str) -> int:
    print(f"engine-replay: {line}", file=sys.stderr)
    return exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="engine-replay",
        description="Ask a captured journal. Needs neither the model nor a GPU.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    verify_verb = verbs.add_parser(
        "verify",
        help="does this code decide as it did then?",
        description="Re-executes every recorded event and compares every effect and every step's "
        "digest with the record. Stops at the first difference.",
        epilog="exit codes: 0 equal, or a recorded failure of the core came out again; 3 diverged; "
        "64 wrong usage; 65 the journal is damaged; 66 there is no journal",
    )
    verify_verb.add_argument(
        "journal",
        type=Path,
        metavar="DIR|SEGMENT",
        help="a run's directory, <journal-dir>/<run-id>, or one segment file of it",
    )
    verify_verb.add_argument("--json", action="store_true", help="print one JSON object")
    verify_verb.add_argument(
        "--once",
        action="store_true",
        help="after a difference that neither code nor configuration explain, do not replay twice "
        "more under other hash seeds to tell nondeterminism",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
