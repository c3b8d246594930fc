"""The command line of `engine-replay`."""

import sys
from collections.abc import Sequence

from tokenreel.messages.journal import JournalDamaged
from tokenreel.tools.command import Command
from tokenreel.tools.exit_codes import EXIT_DAMAGED, EXIT_DIVERGED, EXIT_IO, EXIT_MISSING
from tokenreel.tools.figure import CannotDraw
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.index.replica import ReplayDiverged
from tokenreel.tools.replay.reading.journal import JournalMissing

COMMAND = Command(
    name="engine-replay",
    description="Ask a captured journal. Needs neither the model nor a GPU.",
    verbs={
        "verify": "does this code decide as it did then?",
        "show": "what happened, one line per event",
        "step": "the scheduler's whole state at one step",
        "why": "why did this request take so long?",
        "stats": "the run in figures",
        "what-if": "what would the clients have met under other settings?",
        "shrink": "the smallest scenario with the same symptom, as a test",
        "redact": "a journal that may be shown to strangers",
        "keep": "make a test of it: the suite replays it from now on",
        "export": "the run as a trace for ui.perfetto.dev",
        "view": "the whole run as a web page, step by step",
        "index": "make what step, view and others seek by",
    },
    package="tokenreel.tools.replay.verbs",
    exit_codes="""\
exit codes:
  0    done; for verify: the code decides as it did then
  3    verify: the code does not; redact, keep: no result
  4    shrink: the symptom does not show when the captured run is played
  64   wrong usage
  65   the journal is damaged; the line names segment and offset
  66   there is no journal there, or it cannot be read
  70   a fault of this tool
  74   something cannot be read or written, such as output to a full disk
  130  interrupted
  141  whoever read the output closed it""",
    problems={
        JournalDamaged: (EXIT_DAMAGED, "damaged journal: "),
        ReplayDiverged: (EXIT_DIVERGED, ""),
        JournalMissing: (EXIT_MISSING, ""),
        CannotDraw: (EXIT_IO, ""),
    },
)


def main(arguments: Sequence[str] | None = None, code: CoreCode | None = None) -> int:
    """`code` is the core that is asked; without it, the one installed beside this tool. A verb
    finds it as `options.code`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return COMMAND.run(given, given=given, code=code)
