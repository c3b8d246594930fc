"""`engine-replay keep`: a journal becomes a test."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from tokenreel.actors.core.scenario import Scenario
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_DIVERGED, EXIT_NO_SYMPTOM, EXIT_OK
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.keep.cut import CannotCut, cut
from tokenreel.tools.replay.keep.keep import (
    MAX_BYTES,
    CannotKeep,
    about,
    bounded,
    fix,
    keep,
    write_scenario,
)
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import Journal, add_journal_argument, open_journal
from tokenreel.tools.replay.reading.seek import PLACE_HELP, seek
from tokenreel.tools.replay.redact.redact import CannotRedact, redact
from tokenreel.tools.replay.show.ranges import Range
from tokenreel.tools.replay.shrink.lifting import scenario_of
from tokenreel.tools.replay.shrink.shrink import anything, look_for, shrink
from tokenreel.tools.replay.shrink.trial import OutOfTime

DEFAULT_INTO = Path("tests/replays")
SHRINK_SECONDS = 60.0


class NoSymptom(Exception):
    """There is nothing to shrink a run to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Puts a captured run, redacted, among those that the suite replays. What it guards follows "
        "from what it does today: the core's decisions, a failure that is still to be fixed, or, "
        "of a scenario, that nothing is wrong with it."
    )
    add_journal_argument(parser)
    parser.add_argument("--name", metavar="SYMPTOM", help="what it is called: small_letters")
    parser.add_argument("--shows", default="", metavar="TEXT", help="a sentence to go with it")
    parser.add_argument(
        "--into", type=Path, default=DEFAULT_INTO, metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--as",
        dest="form",
        choices=("journal", "scenario"),
        default="journal",
        help="a journal fixes every decision; a scenario is played by whatever code there is, and "
        "must come out sound",
    )
    parser.add_argument(
        "--shrunk", action="store_true", help="the smallest scenario that shows what is wrong"
    )
    parser.add_argument("--from", dest="begin", metavar="PLACE", help=f"a part: {PLACE_HELP}")
    parser.add_argument("--until", metavar="PLACE", help="given alike; both are inside")
    parser.add_argument(
        "--no-redact", dest="redact", action="store_false", help="keep the journal as it is"
    )
    parser.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--fixed",
        action="store_true",
        help="JOURNAL is a kept run whose bug is fixed: from now on it guards that",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    code = options.code or installed_core()
    try:
        if options.fixed:
            fix(options.journal, code)
            place = options.journal
        else:
            place = _keep(options, code)
    except NoSymptom as error:
        return _refuse(error, EXIT_NO_SYMPTOM)
    except CannotRedact as error:
        return _refuse(f"{error}; --as scenario keeps its requests", EXIT_DIVERGED)
    except (CannotKeep, CannotCut) as error:
        raise UsageError(str(error)) from None
    except OutOfTime:
        message = f"to play it as a scenario takes more than {SHRINK_SECONDS:.0f} s: keep a part"
        raise UsageError(message) from None
    except OSError as error:
        where = error.filename or options.into
        raise UsageError(f"cannot write {where}: {error.strerror}") from None
    print((_as_json if options.json else _as_text)(place))
    return EXIT_OK


def _as_text(place: Path) -> str:
    known = about(place)
    rows = [f"kept: {place} ({_num_bytes(place):,} bytes)"]
    rows += [f"  {'guards':<8}{known.guards.value}", f"  {'shows':<8}{known.shows}"]
    return "\n".join(rows)


def _as_json(place: Path) -> str:
    report = {"path": str(place), "num_bytes": _num_bytes(place), **asdict(about(place))}
    return msgspec.json.encode(report).decode()


def _num_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir())


def _refuse(error: Exception | str, exit_code: int) -> int:
    print(f"engine-replay: not kept: {error}", file=sys.stderr)
    return exit_code


def _keep(options: argparse.Namespace, code: CoreCode) -> Path:
    if not options.name:
        raise UsageError("give it a --name")
    journal = open_journal(options.journal)
    with tempfile.TemporaryDirectory() as directory:
        if options.begin or options.until:
            journal = _part(journal, Path(directory) / "part", options, code)
        if options.shrunk or options.form == "scenario":
            scenario, shows = _scenario(journal, options.shrunk)
            shows = options.shows or shows
            return keep(
                options.into,
                options.name,
                shows,
                code,
                lambda run: write_scenario(run, scenario),
                options.max_bytes,
            )
        return keep(
            options.into,
            options.name,
            options.shows or options.name.replace("_", " "),
            code,
            lambda run: _copy(journal, run, code, options.redact),
            options.max_bytes,
        )


def _part(journal: Journal, out: Path, options: argparse.Namespace, code: CoreCode) -> Journal:
    header = journal.segments[0].header
    within = Range(
        seek(options.begin) if options.begin else None,
        seek(options.until) if options.until else None,
    )
    inside = [
        each.seq
        for each in recorded_events(journal)
        if within.has_begun(each, header) and not within.has_ended(each, header)
    ]
    if not inside:
        raise UsageError("there is no event between --from and --until")
    cut(journal, out, code, inside[0], inside[-1])
    return open_journal(out)


def _scenario(journal: Journal, is_shrunk: bool) -> tuple[Scenario, str]:
    """The run as a scenario, in the timing in which something is wrong with it, if anything is."""
    scenario = bounded(scenario_of(journal)[0])
    deadline = time.monotonic() + SHRINK_SECONDS
    found = look_for(scenario, anything([]), deadline)
    if found is None and is_shrunk:
        raise NoSymptom("played as a scenario, nothing is wrong with this run: nothing to shrink")
    if found is None:
        return scenario, "the requests of a captured run"
    if not is_shrunk:
        return bounded(found.scenario), f"{found.symptom.name}: {found.sighting.text}"
    shrunk = shrink(found, deadline)
    return shrunk.scenario, f"{shrunk.symptom.name}: {shrunk.sighting.text}"


def _copy(journal: Journal, run: Path, code: CoreCode, redacts: bool) -> None:
    if redacts:
        redact(journal, run, code)
        return
    run.mkdir()
    for segment in journal.segments:
        shutil.copyfile(journal.directory / segment.name, run / segment.name)
