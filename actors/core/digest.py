"""A 64-bit hash for each component of the core's state, kept up to date as the state changes.

Each hash is a sum modulo 2**64 with one term per element, so that an element that changes costs one
subtraction and one addition, whatever the size of the state. Order enters a sum through stamps
(`BlockPool`) and positions (block tables). It detects differences; it is no protection from malice.
"""

from collections.abc import Callable
from typing import Final

from tokenreel.messages.sampling import MASK_64

COMPONENTS: Final = (
    "queues",
    "sequences",
    "block_tables",
    "free_list",
    "cache",
    "counters",
)
QUEUES, SEQUENCES, BLOCK_TABLES, FREE_LIST, CACHE, COUNTERS = range(len(COMPONENTS))


MAX_WEIGHTS_KEPT = 1 << 18


def weight(number: int) -> int:
    """An odd 64-bit multiplier that looks random: the finalizer of splitmix64 over `number`."""
    kept = _weights.get(number)
    if kept is not None:
        return kept
    z = (number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    if len(_weights) >= MAX_WEIGHTS_KEPT:
        _weights.clear()
    _weights[number] = fresh = (z ^ (z >> 31)) | 1
    return fresh


_weights: dict[int, int] = {}
"""What `weight` has answered: the same numbers come again with every step. It decides nothing."""


class Digest:
    """One running sum per component. Owners of state report every change through `add`."""

    def __init__(self) -> None:
        self._sums = [0] * len(COMPONENTS)
        self._later: list[tuple[int, Callable[[], int]]] = []

    def add(self, component: int, term: int) -> None:
        """Adds a term, or takes it back if it is negative."""
        self._sums[component] = (self._sums[component] + term) & MASK_64

    def add_later(self, component: int, term: Callable[[], int]) -> None:
        """Adds a term that takes long to find out, as soon as anybody asks for the sums."""
        self._later.append((component, term))

    def take_over(self, sums: tuple[int, ...]) -> None:
        """The sums are these, whatever was added before."""
        self._sums = list(sums)
        self._later.clear()

    def values(self) -> tuple[int, ...]:
        if self._later:
            later, self._later = self._later, []
            for component, term in later:
                self.add(component, term())
        return tuple(self._sums)
