"""A command line of verbs: finds the verb, says in few words what went wrong."""

import argparse
import importlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn, Protocol, cast

from tokenreel.tools.exit_codes import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_PIPE_CLOSED,
    EXIT_USAGE,
)
from tokenreel.tools.printable import printable_lines

MAX_HELP_WIDTH = 100


class UsageError(Exception):
    """A wrong command line, found out after parsing; the message says what to do."""


class Verb(Protocol):
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Command:
    name: str
    description: str
    verbs: Mapping[str, str]
    """Each with what it answers, in the order of `--help`."""
    package: str
    """Where each verb has a module. Only the one that is asked for is imported: most need little,
    and a person waits."""
    exit_codes: str
    problems: Mapping[type[Exception], tuple[int, str]]
    """Of what a person can do something about: the exit code, and what stands before the message.
    The first that fits counts."""

    def run(self, words: list[str], **more: Any) -> int:
        """Returns the exit code. The verb finds `more` among its options."""
        if sys.stdout is None:  # `>&-`
            sys.stdout = open(os.devnull, "w")
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what no terminal can show
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            verb, options = self._parse(words)
            vars(options).update(more)
            exit_code = verb.run(options)
            sys.stdout.flush()
            return exit_code
        except BrokenPipeError:  # whoever read the output has enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_PIPE_CLOSED
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except Exception as error:
            exit_code, told = self._explain(error)
            print(f"{self.name}: {printable_lines(told)}", file=sys.stderr)
            return exit_code

    def _explain(self, error: Exception) -> tuple[int, str]:
        problems: dict[type[Exception], tuple[int, str]] = {UsageError: (EXIT_USAGE, "")}
        for kind, (exit_code, heading) in (problems | dict(self.problems)).items():
            if isinstance(error, kind):
                return exit_code, f"{heading}{error}"
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            return EXIT_IO, f"{where}{error.strerror or error}"
        return EXIT_FAULT, f"a fault of this tool: {type(error).__name__}: {error}"

    def _parse(self, words: list[str]) -> tuple[Verb, argparse.Namespace]:
        looks: dict[str, Any] = {
            "epilog": self.exit_codes,
            "formatter_class": _Formatter,
            "allow_abbrev": False,
        }
        parser = _Parser(prog=self.name, description=self.description, **looks)
        version = f"tokenreel {metadata.version('tokenreel')}"
        parser.add_argument("--version", action="version", version=version)
        verbs = parser.add_subparsers(
            dest="verb", required=True, metavar="VERB", parser_class=_Parser
        )
        asked = next((word for word in words if not word.startswith("-")), None)
        module = None
        for name, answers in self.verbs.items():
            verb_parser = verbs.add_parser(name, help=answers, **looks)
            if name == asked:
                module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
                module.add_arguments(verb_parser)
                verb_parser.description = _wrapped(verb_parser.description or "")
        options = parser.parse_args(words)
        return cast(Verb, module), options


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(part, _help_width()) for part in text.split("\n\n"))


def _help_width() -> int:
    return min(MAX_HELP_WIDTH, shutil.get_terminal_size((MAX_HELP_WIDTH, 24)).columns)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=_help_width())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")
