"""Who goes first: a pure order over sequences, total and fixed at admission.

A sequence's order key is (level, arrival, index). Lower is served first and preempted last. Within
one level nobody displaces anybody who runs; a strictly lower level may displace a higher one.
"""

from typing import Final, Protocol


class Policy(Protocol):
    def level(self, priority: int) -> int:
        """The class of service of a request that came with `priority`."""
        ...


class FirstCome:
    """Requests are served in the order of their arrival; `priority` says nothing."""

    def level(self, priority: int) -> int:
        return 0


class ByPriority:
    """The lower the request's `priority` the earlier it is served; ties by arrival."""

    def level(self, priority: int) -> int:
        return priority


POLICIES: Final[dict[str, type[Policy]]] = {"fcfs": FirstCome, "priority": ByPriority}
