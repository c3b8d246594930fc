"""Tables, folded lists and wrapped lines for a terminal: plain text, at most 100 columns wide."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice

MAX_WIDTH = 100
MIN_WIDTH = 60
INDENT = "  "
LABEL_WIDTH = 14


def line_width() -> int:
    """Of what is wrapped. Tables are as wide as what is in them."""
    if not sys.stdout.isatty():
        return MAX_WIDTH
    return min(max(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MIN_WIDTH), MAX_WIDTH)


def labelled(label: str, text: str, max_lines: int | None = None, more: str = "") -> list[str]:
    """`text` behind a label, wrapped below itself. Beyond `max_lines` it is folded, and `more`
    says how to see the rest."""
    lines = textwrap.wrap(
        text,
        line_width(),
        initial_indent=INDENT + label.ljust(LABEL_WIDTH),
        subsequent_indent=INDENT + " " * LABEL_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if max_lines is None or len(lines) <= max_lines:
        return lines
    return [*lines[:max_lines], INDENT + " " * LABEL_WIDTH + more]


def table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], max_rows: int, num_rows: int
) -> list[str]:
    """A header that starts with `<` stands over text, any other over numbers. Of `num_rows` rows at
    most `max_rows` are taken; those beyond are counted. Without any it says so."""
    shown = [[_cell(value) for value in row] for row in islice(rows, max_rows)]
    if not shown:
        return [f"{INDENT}none"]
    names = [header.removeprefix("<") for header in headers]
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    is_text = [header.startswith("<") for header in headers]
    lines = [_line(names, widths, is_text), *(_line(row, widths, is_text) for row in shown)]
    if num_rows > max_rows:
        lines.append(f"{INDENT}... and {num_rows - max_rows:,} more (--all)")
    return lines


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in their order, runs of neighbours as `5-17`, or `17-5` if they fall."""
    told: list[str] = []
    first = last = step = None
    for number in numbers:
        if last is not None and number - last in ((step,) if step else (1, -1)):
            step, last = number - last, number
            continue
        if first is not None:
            told.append(_run(first, last))
        first = last = number
        step = None
    if first is not None:
        told.append(_run(first, last))
    return " ".join(told)


def some(names: Sequence[str], max_names: int) -> str:
    """The first names; those beyond are counted."""
    more = len(names) - max_names
    return ", ".join(names[:max_names]) + (f" and {more:,} more" if more > 0 else "")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _run(first: int, last: int | None) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _line(cells: Sequence[str], widths: Sequence[int], is_text: Sequence[bool]) -> str:
    padded = [
        cell.ljust(width) if text else cell.rjust(width)
        for cell, width, text in zip(cells, widths, is_text, strict=True)
    ]
    return (INDENT + "  ".join(padded)).rstrip()
