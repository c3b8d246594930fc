"""The command line of `engine-bench`."""

import sys
from collections.abc import Sequence

from tokenreel.tools.bench.problem import Problem, Unavailable
from tokenreel.tools.command import Command
from tokenreel.tools.exit_codes import EXIT_IO, EXIT_UNAVAILABLE
from tokenreel.tools.figure import CannotDraw

COMMAND = Command(
    name="engine-bench",
    description="Measure this engine, or another server with OpenAI's /v1/completions.",
    verbs={
        "serve": "a server under load, as its clients see it",
        "throughput": "all prompts at once: tokens/s",
        "latency": "one batch at a time: how long it takes",
        "startup": "from the command to ready, and to the first token",
        "overhead": "how near the engine is to what the machine allows, and where the rest goes",
        "compare": "results side by side, as a markdown table",
    },
    package="tokenreel.tools.bench.verbs",
    exit_codes="""\
exit codes:
  0    done
  1    done, but requests or a start failed; the figures are of the others
  64   wrong usage
  69   the server is not there, or ended
  70   a fault of this tool
  74   something cannot be read or written
  130  interrupted; what was measured by then is told
  141  whoever read the output closed it""",
    problems={
        Unavailable: (EXIT_UNAVAILABLE, ""),
        Problem: (EXIT_IO, ""),
        CannotDraw: (EXIT_IO, ""),
    },
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. What stands behind `--` are flags of engine-up."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    return COMMAND.run(given[:end], given=given, engine_flags=given[end + 1 :])
