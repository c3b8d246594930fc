"""The command line of `engine-bench`: finds the verb, says in one line what went wrong."""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn, Protocol, cast

from tokenreel.tools.bench.exit_codes import (
    EXIT_CODES,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_PIPE_CLOSED,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
)
from tokenreel.tools.bench.problem import Problem, Unavailable, UsageError

VERBS = {
    "serve": "a server under load, as its clients see it",
    "throughput": "all prompts at once: tokens/s",
    "latency": "one batch at a time: how long it takes",
    "startup": "from the command to ready, and to the first token",
    "overhead": "how near the engine is to what the machine allows, and where the rest goes",
    "compare": "results side by side, as a markdown table",
}
"""In the order of `--help`. The module of a verb is imported only when it is asked for."""
HELP_WIDTH = 100


class Verb(Protocol):
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. What stands behind `--` are flags of engine-up."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        verb, options = _parse(given)
        exit_code = verb.run(options)
        sys.stdout.flush()
        return exit_code
    except UsageError as error:
        return _fail(EXIT_USAGE, str(error))
    except Unavailable as error:
        return _fail(EXIT_UNAVAILABLE, str(error))
    except Problem as error:
        return _fail(EXIT_IO, str(error))
    except BrokenPipeError:
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
    end = given.index("--") if "--" in given else len(given)
    own, engine_flags = given[:end], given[end + 1 :]
    asked = next((word for word in own if not word.startswith("-")), None)
    parser = _Parser(
        prog="engine-bench",
        description="Measure this engine, or another server with OpenAI's /v1/completions.",
        epilog=EXIT_CODES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"tokenreel {metadata.version('tokenreel')}"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    module = None
    for name, question in VERBS.items():
        verb_parser = verbs.add_parser(
            name, help=question, epilog=EXIT_CODES, formatter_class=_Formatter, allow_abbrev=False
        )
        if name == asked:
            module = importlib.import_module(f"tokenreel.tools.bench.verbs.{name}")
            module.add_arguments(verb_parser)
            verb_parser.description = textwrap.fill(verb_parser.description or "", HELP_WIDTH)
    options = parser.parse_args(own)
    options.given, options.engine_flags = given, engine_flags
    return cast(Verb, module), options


def _fail(exit_code: int, text: str) -> int:
    print(f"engine-bench: {text}", file=sys.stderr)
    return exit_code


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=HELP_WIDTH)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")
