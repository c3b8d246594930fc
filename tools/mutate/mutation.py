"""A mutation: one small mistake in one file of the core, as somebody might make it."""

from pathlib import Path
from typing import NamedTuple

CORE = Path("actors/core")


class Mutation(NamedTuple):
    """`old` stands exactly once in `file` of the core, and becomes `new`. `mistake` says what is
    wrong then. `equivalent`, if it is not empty, says why no journal can tell the mutant apart."""

    name: str
    file: str
    old: str
    new: str
    mistake: str
    equivalent: str = ""


class NoLongerApplies(Exception):
    """The text that the mutation replaces is not there, or not once: the core has changed."""


def apply(mutation: Mutation, package: Path) -> None:
    """Changes the file in the package, a copy of this one."""
    path = package / CORE / mutation.file
    path.write_text(mutated(mutation, path.read_text()))


def mutated(mutation: Mutation, text: str) -> str:
    """Raises NoLongerApplies."""
    count = text.count(mutation.old)
    if count != 1:
        raise NoLongerApplies(
            f"{mutation.name}: its text stands {count} times in {mutation.file}, not once"
        )
    return text.replace(mutation.old, mutation.new)
