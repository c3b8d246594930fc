"""The life of a request as a value: what happened to each of its sequences, and for how long."""

import msgspec

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.requests import AdmitRequest, RequestRejected
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.replay.why.latency import Row
from tokenreel.tools.replay.why.watch import Why


class Wait(msgspec.Struct, tag="wait"):
    """Steps in a row that passed it over for one kind of reason. `blockers` are those it was
    behind, with the number of steps; `places` are its first and last place in line (1: the first
    who waits). The rest are the fewest and the most blocks needed, kept for who runs, and free."""

    group: str
    why: Why
    reason: Unscheduled | None
    from_ns: int
    spent_ns: int
    first_step: int
    last_step: int
    num_steps: int
    places: tuple[int, int] | None = None
    blockers: dict[str, int] = {}
    needed: tuple[int, int] | None = None
    reserved: tuple[int, int] | None = None
    free: tuple[int, int] | None = None


class Work(msgspec.Struct, tag="work"):
    """Steps in a row that computed for it. `kind` is "prefill", "decode", or "recompute": what was
    computed before a preemption."""

    kind: str
    from_ns: int
    to_ns: int
    first_step: int
    last_step: int
    num_steps: int
    num_tokens: int
    start: int
    """The first position that was computed; those before it were cached if it `has_entered` the
    running batch with it."""
    has_entered: bool


class Preempted(msgspec.Struct, tag="preempted"):
    at_ns: int
    step: int
    for_whom: str
    num_lost_tokens: int


Happening = Wait | Work | Preempted


class SequenceLife(msgspec.Struct):
    """Times are those of the core's clock; 0 for what did not happen, or not before the journal
    ends."""

    seq_id: SeqId
    index: int
    arrived_ns: int
    first_token_ns: int = 0
    last_token_ns: int = 0
    finished_ns: int = 0
    delivered_ns: int = 0
    num_outputs: int = 0
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str = ""
    happenings: list[Happening] = []
    spent: dict[Row, int] = {}
    has_one_clock: bool = True


class Life(msgspec.Struct):
    """`admit` is None if it came before the journal begins."""

    key: RequestKey
    admit: AdmitRequest | None = None
    arrived_ns: int = 0
    aborted_ns: int = 0
    rejected: RequestRejected | None = None
    finished_ns: int = 0
    sequences: list[SequenceLife] = []
    until_ns: int = 0
    """How far the journal tells: of what goes on, all but this is unknown."""
