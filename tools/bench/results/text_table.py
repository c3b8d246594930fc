"""Columns, aligned for a terminal or as markdown. The first column is text, the others numbers."""

from collections.abc import Sequence

INDENT = "  "


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [_line(row, widths) for row in (header, *rows)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Padded, so that it can be read as it is."""
    header, *rows = [[_cell(text) for text in row] for row in (header, *rows)]
    rule = ["---", *("---:" for _ in header[1:])]
    widths = [max(map(len, column)) for column in zip(header, rule, *rows, strict=True)]
    lines = []
    for row in (header, rule, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def number(value: float) -> str:
    """Three significant digits, and no decimals from 100 on."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.095 else f"{value:.3g}"


def _cell(text: str) -> str:
    """What ends neither its cell nor its line."""
    return text.replace("|", "\\|").replace("\n", " ")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cells[0].ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return (INDENT + "  ".join(padded)).rstrip()
