"""Finds a small part of a list that still does what the whole list does.

The algorithm is ddmin: Andreas Zeller and Ralf Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", IEEE Transactions on Software Engineering 28(2), 2002.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def ddmin(items: Sequence[Item], shows: Callable[[list[Item]], bool]) -> list[Item]:
    """A part of `items`, in their order, that still `shows`, as all of them do: 1-minimal, so that
    without any one of its items it does not."""
    kept = list(items)
    num_chunks = 2
    while len(kept) >= 2:
        chunks = _chunks(kept, num_chunks)
        smaller = _first_that_shows(chunks, shows)
        if smaller is not None:
            kept, num_chunks = smaller, 2
            continue
        smaller = _first_that_shows(_complements(chunks), shows) if num_chunks > 2 else None
        if smaller is not None:
            kept, num_chunks = smaller, num_chunks - 1
        elif num_chunks == len(kept):
            return kept
        else:
            num_chunks = min(2 * num_chunks, len(kept))
    return kept


def _first_that_shows(
    parts: list[list[Item]], shows: Callable[[list[Item]], bool]
) -> list[Item] | None:
    return next((part for part in parts if shows(part)), None)


def _chunks(items: list[Item], num_chunks: int) -> list[list[Item]]:
    bounds = [len(items) * number // num_chunks for number in range(num_chunks + 1)]
    return [items[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


def _complements(chunks: list[list[Item]]) -> list[list[Item]]:
    return [
        [item for other in (*chunks[:number], *chunks[number + 1 :]) for item in other]
        for number in range(len(chunks))
    ]
