"""The lines of a file that a workload is made from, decoded with their place."""

from pathlib import Path
from typing import TypeVar

import msgspec

from tokenreel.tools.bench.problem import Problem

MAX_FILE_BYTES = 1 << 30
LineT = TypeVar("LineT")


class BadWorkload(Problem):
    """A workload that cannot be made: one line for the user."""


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Each line that is not blank, behind its place. Raises BadWorkload."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadWorkload(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        lines = path.read_bytes().decode().split("\n")  # splitlines() cuts at U+2028, too.
    except OSError as error:
        raise BadWorkload(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadWorkload(f"{path} is not UTF-8 text") from None
    found = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]
    return [(place, line.removesuffix("\r")) for place, line in found if line.strip()]


def decode_line(decoder: msgspec.json.Decoder[LineT], place: str, line: str) -> LineT:
    """Raises BadWorkload."""
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadWorkload(f"{place}: {error}") from None
