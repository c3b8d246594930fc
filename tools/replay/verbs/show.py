"""`engine-replay show`: what happened, one line per event."""

import argparse
import shutil
import sys
from collections.abc import Iterator

from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.printable import printable
from tokenreel.tools.replay.reading.entries import Entry, entries
from tokenreel.tools.replay.reading.journal import add_journal_argument
from tokenreel.tools.replay.reading.request_name import FORMS, parse_request_name
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.reading.seek import PLACE_HELP, seek
from tokenreel.tools.replay.reading.stream import RunStream
from tokenreel.tools.replay.show.filters import Filter, parse_steps, parse_types
from tokenreel.tools.replay.show.ranges import Range
from tokenreel.tools.replay.show.show import EFFECTS_LEGEND, HEADING, LEGEND, as_json, lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tells every recorded event and what followed from it, in order, one line per event. "
        "Nothing is re-executed."
    )
    add_journal_argument(parser)
    parser.add_argument("--request", metavar="R", help=f"what concerns one request: {FORMS}")
    parser.add_argument("--step", metavar="N[-M],...", help="these steps, begun and done")
    parser.add_argument(
        "--type", metavar="T,...", help="these types: admit, step, preempt, StepCompleted, ..."
    )
    parser.add_argument("--from", dest="begin", metavar="PLACE", help=PLACE_HELP)
    parser.add_argument("--until", metavar="PLACE", help="given alike; both are shown")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after so many events")
    parser.add_argument(
        "--effects", action="store_true", help="every effect on a line of its own, below its event"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="wait for more while the run goes on; ends with the run, or with Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "--legend",
        action=argparse.BooleanOptionalAction,
        help="what the columns mean, at the start (default: on a terminal)",
    )


def run(options: argparse.Namespace) -> int:
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit is {options.limit}; it must be at least 1")
    if options.follow and not options.journal.is_dir():
        raise UsageError("--follow needs the run's directory")
    wanted = Filter(
        parse_request_name(options.request) if options.request else None,
        parse_steps(options.step) if options.step else None,
        parse_types(options.type) if options.type else None,
    )
    within = Range(
        seek(options.begin) if options.begin else None,
        seek(options.until) if options.until else None,
    )
    stream = RunStream(options.journal, within.skips, follow=options.follow)
    num_shown = _show(stream, wanted, within, options)
    if not num_shown:
        stream.notes.append("nothing matches")
    for note in stream.notes:
        print(f"note: {note}", file=sys.stderr)
    return EXIT_OK


def _show(stream: RunStream, wanted: Filter, within: Range, options: argparse.Namespace) -> int:
    """Returns the number of events shown."""
    first = stream.first_header
    roster = Roster()
    out = _Output(options)
    num_shown = 0
    has_begun = False
    for entry in _told(entries(stream), roster):
        has_begun = has_begun or within.has_begun(entry, first)
        if not has_begun:
            continue
        if within.has_ended(entry, first):
            break
        narrowed = wanted.narrow(entry, roster)
        if narrowed is None:
            continue
        if options.json:
            out.write([as_json(narrowed, first.monotonic_ns)])
        else:
            out.write(lines(narrowed, roster, first.monotonic_ns, with_effects=options.effects))
        num_shown += 1
        if num_shown == options.limit:
            break
    return num_shown


def _told(found: Iterator[Entry], roster: Roster) -> Iterator[Entry]:
    """Each entry while the roster knows whom it concerns."""
    for entry in found:
        roster.learn(entry)
        yield entry
        roster.forget(entry)


class _Output:
    """Lines on standard output; on a terminal each fits its width."""

    def __init__(self, options: argparse.Namespace) -> None:
        is_terminal = sys.stdout.isatty()
        self._width = shutil.get_terminal_size().columns if is_terminal else 0
        self._flushes = options.follow
        self._is_json = options.json
        if options.json:
            return
        if options.legend or (options.legend is None and is_terminal):
            print(LEGEND, *([EFFECTS_LEGEND] if options.effects else []), "", sep="\n")
        print(HEADING)

    def write(self, found: list[str]) -> None:
        for line in found if self._is_json else map(printable, found):
            if self._width and len(line) > self._width:
                line = line[: self._width - 1] + "\N{HORIZONTAL ELLIPSIS}"
            print(line)
        if self._flushes:
            sys.stdout.flush()
