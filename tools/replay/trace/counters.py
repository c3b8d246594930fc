"""The counters of a trace: queues, blocks, tokens and cache hits. Only changes are written."""

from tokenreel.actors.core.engine import EngineStatistics
from tokenreel.messages.steps import StepDecided, StepScheduled
from tokenreel.tools.replay.trace.proto import TraceWriter, Uuid

COUNTERS = {
    "running": "sequences",
    "waiting": "sequences",
    "blocked": "sequences",
    "requests in flight": "requests",
    "open steps": "steps",
    "blocks free": "blocks",
    "blocks evictable": "blocks",
    "blocks held": "blocks",
    "blocks fenced": "blocks",
    "tokens in the step": "tokens",
    "sequences in the step": "sequences",
    "cached tokens in the step": "tokens",
}
"""Each with its unit, in the order in which they are shown."""


class Counters:
    def __init__(self, writer: TraceWriter, group: Uuid) -> None:
        self._writer = writer
        self._tracks = {
            name: writer.counter(name, unit, group, rank)
            for rank, (name, unit) in enumerate(COUNTERS.items())
        }
        self._values: dict[str, int] = {}

    def count_step(
        self, scheduled: StepScheduled, decided: StepDecided, block_size: int, t_ns: int
    ) -> None:
        num_hits = sum(len(added.block_ids) for added in scheduled.added)
        self._count("tokens in the step", decided.num_batched_tokens, t_ns)
        self._count("sequences in the step", len(scheduled.scheduled), t_ns)
        self._count("cached tokens in the step", num_hits * block_size, t_ns)

    def count_state(self, state: EngineStatistics, num_blocks: int, t_ns: int) -> None:
        free, evictable, fenced = (
            state.num_free_blocks,
            state.num_evictable_blocks,
            state.num_fenced_blocks,
        )
        self._count("running", state.num_running, t_ns)
        self._count("waiting", state.num_waiting, t_ns)
        self._count("blocked", state.num_blocked, t_ns)
        self._count("requests in flight", state.num_requests, t_ns)
        self._count("open steps", state.num_open_steps, t_ns)
        self._count("blocks free", free, t_ns)
        self._count("blocks evictable", evictable, t_ns)
        self._count("blocks held", num_blocks - free - evictable - fenced, t_ns)
        self._count("blocks fenced", fenced, t_ns)

    def _count(self, name: str, value: int, t_ns: int) -> None:
        if self._values.get(name) != value:
            self._values[name] = value
            self._writer.count(self._tracks[name], t_ns, value)
