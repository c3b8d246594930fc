"""`engine-replay shrink`: the smallest scenario with the same symptom, as a test."""

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_NO_SYMPTOM, EXIT_OK
from tokenreel.tools.replay.other_core import OtherCore
from tokenreel.tools.replay.reading.journal import Journal, add_journal_argument, open_journal
from tokenreel.tools.replay.recording.values import Recording
from tokenreel.tools.replay.shrink.lifting import scenario_of
from tokenreel.tools.replay.shrink.progress import Progress
from tokenreel.tools.replay.shrink.pytest_file import MARK, name_of_test, pytest_file
from tokenreel.tools.replay.shrink.report import as_json, as_text, in_keys
from tokenreel.tools.replay.shrink.shrink import anything, look_for, shrink
from tokenreel.tools.replay.shrink.symptom_divergence import Diverges
from tokenreel.tools.replay.shrink.symptom_predicate import Predicate, PredicateFault
from tokenreel.tools.replay.shrink.symptoms import (
    DEFAULT_STARVED_STEPS,
    Leaks,
    Raises,
    Stalls,
    Starves,
    Violates,
)
from tokenreel.tools.replay.shrink.trial import OutOfTime, Symptom
from tokenreel.tools.replay.under_test import NoPackage, add_core_argument, run_child

DEFAULT_SECONDS = 60.0
GRACE_S = 2.0

SYMPTOMS = f"""\
symptoms (without --symptom, the first that shows when the captured run is played):
  exception[:TYPE]       the core raises, this type of exception or one derived from it
  invariant[:TEXT]       a rule of actors.core.invariants is broken, or a sequence meets somebody
                         else's KV; the complaint has TEXT in it
  stall                  the run does not come to its end
  leak                   all is delivered, and a request, a row or a block is left
  starves[:STEPS]        a sequence that could run is passed over without a reason in more than
                         STEPS steps (default: {DEFAULT_STARVED_STEPS}): all that it needs is there,
                         or later ones that are no more urgent go first
  divergence             the core decides otherwise than the one in --reference DIR
  predicate:FILE.py[:F]  F(played) of your file returns something true (default: shows)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Plays the captured run as a scenario, finds what is wrong with it, takes away all that "
        "the symptom does not need, and writes what is left as a pytest file that fails until the "
        "bug is fixed."
    )
    parser.epilog = f"{SYMPTOMS}\n\n{parser.epilog}"
    add_journal_argument(parser)
    parser.add_argument("--symptom", metavar="SYMPTOM", help="what to look for; see below")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the test; default: test_SYMPTOM.py, here"
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_SECONDS,
        metavar="S",
        help="to spend at most; then the smallest so far is written (default: %(default)g)",
    )
    add_core_argument(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="another checkout or copy, whose decisions are right; for the symptom divergence",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    if options.core is not None and options.code is None:
        try:
            return run_child(options.core, options.given)
        except NoPackage as error:
            raise UsageError(str(error)) from None
    deadline = time.monotonic() + options.seconds
    if options.out is not None:
        _require_ours(options.out)
    try:
        symptoms = _asked_for(options)
        journal = open_journal(options.journal)
        with _interrupted_after(options.seconds + GRACE_S):
            return _run(options, journal, symptoms, deadline)
    except PredicateFault as fault:
        raise UsageError(str(fault)) from None


def _run(
    options: argparse.Namespace,
    journal: Journal,
    symptoms: list[Symptom],
    deadline: float,
) -> int:
    scenario, recording, keys = scenario_of(journal)
    if options.symptom is None and recording.failure is not None:
        symptoms = [Raises(recording.failure.type_name), *symptoms]
    try:
        found = look_for(scenario, symptoms, deadline)
    except OutOfTime:
        return _tell_nothing(options, recording, "time was up before it was over; give --seconds")
    if found is None:
        return _tell_nothing(options, recording, _not_shown(options, recording))
    progress = Progress(len(scenario.requests))
    found = found._replace(sighting=found.sighting._replace(text=in_keys(found, keys)))
    shrunk = shrink(found, deadline, progress.update)
    progress.finish()
    path = options.out or Path(f"{name_of_test(shrunk.symptom)}.py")
    _require_ours(path)
    origin = (
        f"from run {recording.run_id}: {len(scenario.requests):,} requests to "
        f"{len(shrunk.scenario.requests)}."
    )
    headline = f"{shrunk.symptom.name.partition(':')[0]}: {shrunk.sighting.text}"
    text = pytest_file(shrunk.scenario, shrunk.symptom, headline, origin)
    path.write_text(text)
    if options.json:
        print(json.dumps(as_json(found, shrunk, path)))
    else:
        print(as_text(found, shrunk, path, text))
    return EXIT_OK


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """A core that does not come back from an event is interrupted all the same: OutOfTime."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What is asked for.


def _asked_for(options: argparse.Namespace) -> list[Symptom]:
    reference = _reference(options.reference)
    if options.symptom is None:
        return anything([] if reference is None else [Diverges(reference)])
    kind, _, detail = options.symptom.partition(":")
    match kind:
        case "exception":
            return [Raises(detail)]
        case "invariant":
            return [Violates(detail, checks_kv=False), Violates(detail, checks_kv=True)]
        case "stall" if not detail:
            return [Stalls()]
        case "leak" if not detail:
            return [Leaks()]
        case "starves":
            return [Starves(_steps(detail) if detail else DEFAULT_STARVED_STEPS)]
        case "divergence" if not detail:
            if reference is None:
                raise UsageError(
                    "divergence needs --reference DIR: once a request is taken away, the recorded "
                    "decisions no longer fit, so that another core must say what is right"
                )
            return [Diverges(reference)]
        case "predicate" if detail:
            return [Predicate(detail)]
    raise UsageError(f"--symptom {options.symptom}: there is none such (see shrink --help)")


def _reference(directory: Path | None) -> OtherCore | None:
    if directory is None:
        return None
    try:
        return OtherCore(directory)
    except NoPackage as error:
        raise UsageError(f"--reference: {error}") from None
    except Exception as error:
        raise UsageError(f"--reference {directory} cannot be imported: {error!r}") from None


def _steps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise UsageError(f"starves:{text}: give a number of steps from 1 to 1,000,000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0 and up to 86,400")
    return number


def _require_ours(path: Path) -> None:
    """What this tool did not write it does not overwrite."""
    try:
        is_ours = not path.exists() or MARK in path.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    if not is_ours:
        raise UsageError(f"{path} is there already; name another file with --out")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}")


# When there is nothing.


def _not_shown(options: argparse.Namespace, recording: Recording) -> str:
    nothing = f"{options.symptom} does not show" if options.symptom else "nothing wrong shows"
    text = f"{nothing} when it is played, under the recorded timing or others close to it"
    if recording.failure is not None:
        text += (
            f"; the recorded core raised {recording.failure.type_name}: did --core name that one?"
        )
    return text


def _tell_nothing(options: argparse.Namespace, recording: Recording, reason: str) -> int:
    num_requests = len(recording.requests)
    if options.json:
        print(json.dumps({"symptom": None, "num_requests": num_requests, "reason": reason}))
    else:
        print(f"not shrunk: the run of {num_requests:,} requests: {reason}")
    return EXIT_NO_SYMPTOM
