"""When the clients of a simulation ask: at the recorded times, or each when it has its answer.

Recorded times (an open loop) are right where clients do not wait for each other: a faster engine
then runs emptier, and a slower one fills its queue. A benchmark with N streams is another matter:
the next request comes when an answer is there (a closed loop), and at recorded times a faster
engine would only wait.
"""

from collections import deque

import msgspec

from tokenreel.tools.replay.recording.values import RecordedRequest, Recording
from tokenreel.tools.replay.what_if.clients import Clients

MIN_ROUNDS = 2
"""How many requests per client a recording must hold before it can be called a closed loop."""
SHORT_THOUGHT = 0.1
"""Of an answer's duration: a client that asks again sooner was waiting for it."""
SHARE_OF_SHORT_THOUGHTS = 0.9


class ClosedLoop(msgspec.Struct, frozen=True):
    """`num_clients` requests are in flight at a time: the first ones come as recorded, and each
    later one `think_ns` after the answer that makes room for it, in order."""

    num_clients: int
    think_ns: tuple[int, ...]


def closed_loop_of(recording: Recording, clients: Clients) -> ClosedLoop | None:
    """The loop as which the recording can be read; None if nobody asked twice.

    The client whose answer is there first asks first: the i-th request behind the first
    `num_clients` follows the i-th end of a request.
    """
    arrivals = [request.arrival_ns + recording.start_ns for request in clients.requests]
    ends = _ends(recording, clients)
    num_clients = _most_in_flight(arrivals, ends)
    later = arrivals[num_clients:]
    if not later:
        return None
    # By the time of each of them, so many had ended: else more would have been in flight.
    thoughts = zip(later, ends[: len(later)], strict=True)
    think_ns = tuple(arrival - end for arrival, end in thoughts)
    return ClosedLoop(num_clients, think_ns)


def is_closed(recording: Recording, loop: ClosedLoop | None) -> bool:
    """Whether the recording looks like a closed loop: nearly every request came as soon as there
    was an answer, measured by how long answers took."""
    if loop is None or len(loop.think_ns) < (MIN_ROUNDS - 1) * loop.num_clients:
        return False
    durations = sorted(
        _end_of(request) - request.arrival_ns
        for request in recording.requests
        if request.sequences and request.is_complete
    )
    if not durations:
        return False
    limit_ns = SHORT_THOUGHT * durations[len(durations) // 2]
    num_short = sum(think_ns <= limit_ns for think_ns in loop.think_ns)
    return num_short >= SHARE_OF_SHORT_THOUGHTS * len(loop.think_ns)


class Arrivals:
    """Hands out the requests of `clients`, by their places there, with the times of arrival."""

    def __init__(self, clients: Clients, loop: ClosedLoop | None) -> None:
        times = [request.arrival_ns for request in clients.requests]
        num_first = len(times) if loop is None else loop.num_clients
        self.first = list(enumerate(times[:num_first]))
        thoughts = () if loop is None else loop.think_ns
        self._later = deque(enumerate(thoughts, start=num_first))

    def after_end(self, now_ns: int) -> tuple[int, int] | None:
        """Who comes, and when, because a request has ended now."""
        if not self._later:
            return None
        place, think_ns = self._later.popleft()
        return place, now_ns + think_ns


def _ends(recording: Recording, clients: Clients) -> list[int]:
    sources = [recording.requests[request.source] for request in clients.requests]
    return sorted(_end_of(request) for request in sources if request.is_complete)


def _end_of(request: RecordedRequest) -> int:
    return max(sequence.finished_ns for sequence in request.sequences)


def _most_in_flight(arrivals: list[int], ends: list[int]) -> int:
    most = num_ended = 0
    for num_before, arrival in enumerate(arrivals):
        while num_ended < len(ends) and ends[num_ended] <= arrival:
            num_ended += 1
        most = max(most, num_before + 1 - num_ended)
    return most
