"""What the values of flags may be: each function reads one, or says what is wrong with it.

They are argparse's `type`s and raise `ArgumentTypeError`.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

MAX_BLOCK_SIZE = 1024
MAX_PIPELINE_DEPTH = 3
MAX_NUM_SEQS = 8192
MAX_BATCHED_TOKENS = 1 << 20
MAX_QUEUED_REQS = 1 << 20
MAX_NUM_BLOCKS = 1 << 24
"""What the core can keep count of in some two gigabytes."""
MAX_SECONDS = 86400
MAX_SIZE = (1 << 63) - 1

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_SIZE_EXPONENTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def text(given: str) -> str:
    if not given.strip():
        raise argparse.ArgumentTypeError("is empty")
    return given


def path(given: str) -> Path:
    return Path(text(given))


def api_key(given: str) -> str:
    """An empty key would serve everybody, one with spaces or controls could never be sent."""
    if not given or not given.isprintable() or " " in given:
        raise argparse.ArgumentTypeError("must be printable characters without spaces")
    return given


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        return _within(value, minimum, maximum)

    return parse


def size(minimum: int, maximum: int = MAX_SIZE) -> Callable[[str], int]:
    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 512M or 2.5G")
        number, unit = match.groups()
        value = float(number) * (1 << _SIZE_EXPONENTS[unit.upper()])
        return _within(int(min(value, 2.0 * MAX_SIZE)), minimum, maximum)

    return parse


def _within(value: int, minimum: int, maximum: int | None) -> int:
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{value} is too small (at least {minimum})")
    if maximum is not None and value > maximum:
        raise argparse.ArgumentTypeError(f"{value} is too large (at most {maximum})")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def fraction(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MAX_SECONDS} seconds")
    return value


def block_size(text: str) -> int:
    value = integer(1, MAX_BLOCK_SIZE)(text)
    if value & (value - 1):
        raise argparse.ArgumentTypeError(f"{value} is not a power of two")
    return value
