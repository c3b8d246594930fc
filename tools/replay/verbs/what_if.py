"""`engine-replay what-if`: what would these clients have met under other settings?"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from tokenreel.actors.core.config import CoreConfig
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_FAULT, EXIT_OK
from tokenreel.tools.replay.reading.journal import add_journal_argument, open_journal
from tokenreel.tools.replay.recording.recording import lift
from tokenreel.tools.replay.what_if.fit import NoSteps
from tokenreel.tools.replay.what_if.plot import draw
from tokenreel.tools.replay.what_if.simulate import SimulationFailed
from tokenreel.tools.replay.what_if.text import as_text
from tokenreel.tools.replay.what_if.variants import (
    MAX_VARIANTS,
    SETTINGS,
    SHORT_NAMES,
    Variant,
    VariantError,
    make_variant,
    name_of_settings,
    parse_variant,
)
from tokenreel.tools.replay.what_if.what_if import NothingToAsk, as_builtins, what_if

SHORTCUTS = ("policy", "blocks", "depth")
"""Settings that are flags of their own, by their short names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Puts the recorded requests through the real core once more, in simulated time, under\n"
        "other settings. How long steps take is fitted from the journal; how well that does is\n"
        "told, and so is how the simulation of the recorded settings compares with the record."
    )
    add_journal_argument(parser)
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help=f"one more run, at most {MAX_VARIANTS}; KEY is one of: {', '.join(SETTINGS)}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="all of these, and the three below, together make up one variant",
    )
    parser.add_argument("--policy", metavar="P", help="--set scheduling_policy=P")
    parser.add_argument("--blocks", metavar="N", help="--set num_blocks=N")
    parser.add_argument("--depth", metavar="N", help="--set pipeline_depth=N")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument(
        "--closed-loop",
        action="store_true",
        default=None,
        help="requests come when answers are there (default: if the recording looks like it)",
    )
    loop.add_argument(
        "--open-loop",
        action="store_false",
        dest="closed_loop",
        help="requests come at their recorded times, whatever becomes of them",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the runs side by side: .png, .svg or .pdf"
    )


def run(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _require_drawable(options.plot)
    journal = open_journal(options.journal)
    recording = lift(journal)
    try:
        variants = _variants(options, recording.config)
        answer = what_if(recording, variants, options.closed_loop)
    except (VariantError, NoSteps, NothingToAsk) as error:
        raise UsageError(str(error)) from None
    except SimulationFailed as failure:  # the core's fault, not this tool's
        print(f"engine-replay: {failure}", file=sys.stderr)
        return EXIT_FAULT
    for note in journal.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print(json.dumps(as_builtins(answer)))
    else:
        print(as_text(answer, shutil.get_terminal_size((100, 24)).columns))
    if options.plot is not None:
        draw(answer, options.plot)
    return EXIT_OK


def _variants(options: argparse.Namespace, recorded: CoreConfig) -> list[Variant]:
    """Raises VariantError."""
    pairs = list(options.set)
    for flag in SHORTCUTS:
        value = getattr(options, flag)
        if value is not None:
            pairs.append(f"{SHORT_NAMES[flag]}={value}")
    variants = [make_variant(name_of_settings(pairs), pairs, recorded)] if pairs else []
    variants += [parse_variant(text, recorded) for text in options.variant]
    if len(variants) > MAX_VARIANTS:
        raise VariantError(f"{len(variants)} variants; at most {MAX_VARIANTS} in one call")
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1 or name in ("recorded", "simulated"):
            raise VariantError(f"variant {name}: the name is taken")
    return variants


def _require_drawable(path: Path) -> None:
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {path}: the name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no directory {path.parent}")
