"""`engine-replay step`: the scheduler's whole state at one step."""

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.index.index import open_index
from tokenreel.tools.replay.reading.journal import add_journal_argument
from tokenreel.tools.replay.reading.request_name import FORMS, RequestName, parse_request_name
from tokenreel.tools.replay.step.json_form import as_json
from tokenreel.tools.replay.step.portrait import as_portrait
from tokenreel.tools.replay.step.state import sequences_of, state_at
from tokenreel.tools.replay.step.text import as_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The state of the scheduler at one step: what the step was made of, who waits and why, "
        "block tables, free list, prefix cache. The first call on a journal makes an index beside "
        "it; from then on any step takes less than a second."
    )
    add_journal_argument(parser)
    parser.add_argument("step", type=int, metavar="N", help="the number of a step")
    parser.add_argument(
        "--before", action="store_true", help="the state before the step was composed, not after"
    )
    parser.add_argument("--request", metavar="R", help=f"only this request: {FORMS}")
    parser.add_argument("--all", action="store_true", help="do not fold long lists")
    parser.add_argument("--json", action="store_true", help="print one JSON object, complete")


def run(options: argparse.Namespace) -> int:
    name = parse_request_name(options.request) if options.request is not None else None
    with _without_collector():
        print(_answer(options, name))
    return EXIT_OK


def _answer(options: argparse.Namespace, name: RequestName | None) -> str:
    index = open_index(options.journal, code=options.code or installed_core())
    state = state_at(index, options.step, options.before)
    sequences = None if name is None else sequences_of(state, name)
    if options.json:
        return as_json(state, index.journal, sequences)
    if sequences is not None:
        return as_portrait(state, index.journal, sequences)
    return as_text(state, index.journal, options.all)


@contextmanager
def _without_collector() -> Iterator[None]:
    """What is made here lives as long as the command; to look through it for garbage would take a
    fifth of the time, with a large pool."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
