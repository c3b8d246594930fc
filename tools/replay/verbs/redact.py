"""`engine-replay redact`: a journal that may be shown to strangers."""

import argparse
import json
import sys
from pathlib import Path

from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_DIVERGED, EXIT_OK
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.journal import add_journal_argument, open_journal
from tokenreel.tools.replay.reading.writing import RunExists
from tokenreel.tools.replay.redact.redact import CannotRedact, Redacted, redact

GONE = (
    "prompts, outputs, stop strings and ids, sampling parameters, logprobs, error texts",
    "request keys, cache salts, model, machine, paths, commit, time of day",
)
KEPT = (
    "lengths, shared prefixes, finish reasons, aborts, order of priorities",
    "configuration of the core",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes a run that verifies step by step and decides as the recorded one did, with "
        "stand-ins for every token and name. Fails, and leaves nothing, if any decision differs."
    )
    add_journal_argument(parser)
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the directory to write; must not exist"
    )
    parser.add_argument(
        "--no-timing",
        dest="timing",
        action="store_false",
        help="events at an even beat instead of how long everything took",
    )
    parser.add_argument(
        "--no-date", dest="date", action="store_false", help="leave out the day of the run too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    journal = open_journal(options.journal)
    try:
        done = redact(
            journal,
            options.out,
            options.code or installed_core(),
            keeps_timing=options.timing,
            keeps_day=options.date,
        )
    except CannotRedact as error:
        print(f"engine-replay: not redacted: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    except RunExists as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot write {options.out}: {error.strerror}") from None
    print((_as_json if options.json else _as_text)(done, options))
    return EXIT_OK


def _as_text(done: Redacted, options: argparse.Namespace) -> str:
    kept = [*KEPT, _times_kept(options)]
    rows = [
        ("checked", f"{done.num_events:,} events in {done.num_steps:,} steps: both cores decided"),
        ("", "alike at each, and the result verifies"),
        *zip(["kept", *[""] * len(kept)], kept, strict=False),
        *zip(["gone", *[""] * len(GONE)], GONE, strict=False),
    ]
    if done.reproduced is not None:
        rows.append(("failure", f"{done.reproduced.type_name}, raised alike"))
    if done.num_left_out:
        rows.append(("left out", f"{done.num_left_out:,} records of types that nobody listed"))
    rows.append(("read", "docs/replay/redact.md on what can still be learnt from it"))
    size = f"{done.num_bytes / 1e6:,.1f} MB"
    headline = f"redacted: {done.num_requests:,} requests, {size}, run {done.run_id}"
    lines = [headline, f"  {'in':<10}{options.out}"]
    return "\n".join(lines + [f"  {name:<10}{text}" for name, text in rows])


def _times_kept(options: argparse.Namespace) -> str:
    timing = "how long everything took" if options.timing else "no timing"
    return f"{timing}, {'the day' if options.date else 'no date'}"


def _as_json(done: Redacted, options: argparse.Namespace) -> str:
    report = {
        **done._asdict(),
        "out": str(options.out),
        "reproduced": done.reproduced and done.reproduced.type_name,
        "keeps_timing": options.timing,
        "keeps_day": options.date,
    }
    return json.dumps(report)
