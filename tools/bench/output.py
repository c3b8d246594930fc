"""Where a result goes: the terminal, a file, a plot; and the exit code that sums it up."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tokenreel.tools.bench.problem import Unavailable
from tokenreel.tools.bench.results.report import head_lines
from tokenreel.tools.bench.results.result import AnyResult, write_result
from tokenreel.tools.command import UsageError
from tokenreel.tools.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from tokenreel.tools.printable import printable_lines

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def check_output(options: argparse.Namespace) -> None:
    """Before minutes are spent: whether the result could be written. Raises UsageError."""
    plot = options.plot
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise UsageError(f"--plot {plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")
    if not options.save_result and (options.result_dir or options.result_filename):
        raise UsageError("--result-dir and --result-filename say where --save-result writes")
    for path in (options.json, plot, options.save_result and _named(options, "", "")):
        if path:
            _check_writable(path)


def finish(
    options: argparse.Namespace,
    result: AnyResult,
    lines: Sequence[str],
    has_failed: bool,
    last_words: str | None = None,
) -> int:
    """Print and write; return the exit code. Raises BadResult, CannotDraw, and Unavailable with the
    `last_words` of an engine that ended before its time."""
    told = "\n".join([*head_lines(result), "", *lines])
    verb = type(result).__name__.lower()
    paths = [options.json] if options.json else []
    if options.save_result:
        paths.append(_named(options, verb, result.label))
    try:
        for path in paths:
            write_result(path, result)
    finally:
        print(printable_lines(told))
    for path in paths:
        print(f"written: {path}")
    if options.plot is not None and (result.runs or not result.is_interrupted):
        from tokenreel.tools.bench.results.plot import draw

        draw(result, options.plot)
        print(f"drawn: {options.plot}")
    if last_words is not None:
        raise Unavailable(last_words)
    if result.is_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if has_failed else EXIT_OK


def _check_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a directory")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written")


def _named(options: argparse.Namespace, verb: str, label: str) -> Path:
    directory: Path = options.result_dir or Path()
    if options.result_filename is not None:
        return directory.joinpath(options.result_filename)
    safe = "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in label)
    return directory / f"{verb}-{safe}-{time.strftime('%Y%m%d-%H%M%S')}.json"
