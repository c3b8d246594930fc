"""Kept runs: directories under tests/replays/, named by symptom, that the suite replays.

A kept run is a journal, or a scenario lifted from one, and a line about it. What it guards decides
what the suite asks of it:

  decisions   a journal; today's code decides as it did then
  failure     a journal; the core still raises as it did then: an open bug
  soundness   a scenario; played on today's core, nothing is wrong with it
  symptom     a scenario; something still is: an open bug

An open bug is kept green. Once it is fixed the suite says so, and `fix` turns it into a guard of
soundness.
"""

import re
import shutil
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import msgspec

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.scenario import Scenario
from tokenreel.actors.runtime.code_identity import package_version
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.redact.survey import ranks
from tokenreel.tools.replay.shrink.lifting import max_turns_of, scenario_of
from tokenreel.tools.replay.shrink.shrink import anything
from tokenreel.tools.replay.shrink.symptoms import AnyOf
from tokenreel.tools.replay.shrink.trial import try_out
from tokenreel.tools.replay.verify.verify import Verdict, verify

MAX_BYTES = 300_000
ABOUT = "about.json"
SCENARIO = "scenario.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{2,79}")


class Guards(Enum):
    DECISIONS = "decisions"
    FAILURE = "failure"
    SOUNDNESS = "soundness"
    SYMPTOM = "symptom"


class About(msgspec.Struct, frozen=True):
    """The line beside a kept run: what it shows, and which code it is from."""

    shows: str
    guards: Guards
    version: str
    logic_version: int
    source_hash: str
    """Of the core that recorded the journal, or that was there when the scenario was kept."""


class CannotKeep(Exception):
    """Why it is not kept: one line that says what to do."""


Fill = Callable[[Path], None]
"""Writes a run, journal or scenario, as the directory that it is given."""


def keep(into: Path, name: str, shows: str, code: CoreCode, fill: Fill, max_bytes: int) -> Path:
    """Puts what `fill` writes at `into/name`, with what it guards by what it does today. Raises
    CannotKeep, and leaves nothing behind then."""
    place = _free_place(into, name)
    staging = into / f".{name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        run = staging / name
        fill(run)
        num_bytes = sum(path.stat().st_size for path in run.iterdir())
        if num_bytes > max_bytes:
            raise CannotKeep(
                f"{num_bytes:,} bytes, and a kept run has at most {max_bytes:,} (--max-bytes): "
                "keep a part (--from, --until) or a scenario (--as scenario, --shrunk)"
            )
        guards = _shown_by(run, code)
        if guards is None:
            raise CannotKeep(_does_not_verify(verify(open_journal(run), code)))
        _write_about(run, shows, guards, code)
        _open_to_readers(run)
        run.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return place


def kept_in(directory: Path) -> list[Path]:
    """The kept runs there, by name."""
    return sorted(path.parent for path in directory.glob(f"*/{ABOUT}"))


def about(kept: Path) -> About:
    """Raises CannotKeep if this is no kept run."""
    try:
        return msgspec.json.decode((kept / ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError) as error:
        raise CannotKeep(f"{kept} is no kept run: {error}") from None


def complaint(kept: Path, code: CoreCode) -> str | None:
    """What the suite has to say against a kept run today; None if nothing."""
    guards = about(kept).guards
    if _shown_by(kept, code) is guards:
        return None
    if guards is Guards.DECISIONS:
        return f"today's code decides otherwise: engine-replay verify {kept}"
    if guards is Guards.SOUNDNESS:
        return f"what was sound is not: {_sighting(_scenario_in(kept))}"
    return f"what {kept.name} shows is gone: if that is the fix, engine-replay keep {kept} --fixed"


def fix(kept: Path, code: CoreCode) -> None:
    """The open bug that this run shows is fixed: from now on it guards soundness. Raises
    CannotKeep if it is not, or if this was no open bug."""
    known = about(kept)
    if known.guards in (Guards.DECISIONS, Guards.SOUNDNESS):
        raise CannotKeep(f"{kept.name} guards {known.guards.value}: it shows no open bug")
    if known.guards is Guards.FAILURE:
        verdict = verify(open_journal(kept), code)
        if verdict.reproduced is not None:
            raise CannotKeep(f"{kept.name}: {verdict.reproduced.type_name} still comes out")
    scenario = _scenario_in(kept)
    seen = _sighting(scenario)
    if seen is not None:
        raise CannotKeep(f"{kept.name} still shows it: {seen}")
    write_scenario(kept, scenario)
    _write_about(kept, known.shows, Guards.SOUNDNESS, code)
    for segment in kept.glob("engine-*.tkr"):
        segment.unlink()


def write_scenario(run: Path, scenario: Scenario) -> None:
    """Holds no text and no name; priorities, which clients choose freely, become their ranks."""
    run.mkdir(exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(_with_ranks(scenario)), indent=1)
    (run / SCENARIO).write_bytes(encoded + b"\n")


def _with_ranks(scenario: Scenario) -> Scenario:
    rank = ranks(request.priority for request in scenario.requests)
    requests = tuple(
        msgspec.structs.replace(request, priority=rank[request.priority])
        for request in scenario.requests
    )
    return msgspec.structs.replace(scenario, requests=requests)


def _free_place(into: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise CannotKeep(
            f"{name!r} is no name: 3 to 80 small letters, digits and _, such as "
            "b04_output_after_preemption"
        )
    if not into.is_dir():
        raise CannotKeep(f"there is no directory {into}; name another with --into")
    if (into / name).exists():
        raise CannotKeep(f"{into / name} exists already: choose another name, or remove it")
    return into / name


def _shown_by(run: Path, code: CoreCode) -> Guards | None:
    """What a run could guard by what it does today; None for a journal that does not verify."""
    if (run / SCENARIO).exists():
        return Guards.SOUNDNESS if _sighting(_scenario_in(run)) is None else Guards.SYMPTOM
    verdict = verify(open_journal(run), code)
    if verdict.divergence is not None:
        return None
    return Guards.DECISIONS if verdict.reproduced is None else Guards.FAILURE


def _does_not_verify(verdict: Verdict) -> str:
    assert verdict.divergence is not None
    return (
        f"this code decides otherwise than the journal (seq {verdict.divergence.seq}, "
        f"{verdict.divergence.path}), which then guards nothing; with --as scenario its requests "
        "are kept, and played by whatever code there is"
    )


def _scenario_in(run: Path) -> Scenario:
    """The kept one, or what can be lifted from a kept journal."""
    if not (run / SCENARIO).exists():
        return bounded(scenario_of(open_journal(run))[0])
    try:
        return msgspec.json.decode((run / SCENARIO).read_bytes(), type=Scenario)
    except msgspec.MsgspecError as error:
        raise CannotKeep(f"{run / SCENARIO} is no scenario of this code: {error}") from None


def bounded(scenario: Scenario) -> Scenario:
    return msgspec.structs.replace(scenario, max_turns=max_turns_of(scenario))


def _open_to_readers(run: Path) -> None:
    """A kept run is source: whoever has the checkout may read it."""
    for path in run.iterdir():
        path.chmod(0o644)
    run.chmod(0o755)


def _sighting(scenario: Scenario) -> str | None:
    """What is wrong with the scenario when today's core plays it."""
    for symptom in anything([]):
        sighting = try_out(scenario, symptom)
        if sighting is not None:
            found = symptom.found if isinstance(symptom, AnyOf) else symptom
            return f"{found.name if found else symptom.name}: {sighting.text}"
    return None


def _write_about(run: Path, shows: str, guards: Guards, code: CoreCode) -> None:
    known = About(shows, guards, package_version(), LOGIC_VERSION, code.source_hash.hex())
    (run / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1) + b"\n")
