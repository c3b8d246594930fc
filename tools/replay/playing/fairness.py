"""Rule 8 over a played run: nobody who could run is passed over again and again without a reason.

That those before it hold what it needs is a reason, also that they go on running. None is that
everything is there, or that others start first which came later and are no more urgent.
"""

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.policy import POLICIES
from tokenreel.actors.core.scenario import Scenario
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import SeqId
from tokenreel.messages.steps import StepScheduled

NOBODY = (-(1 << 63), -1, -1)
"""Before everybody in the order."""


class Fairness:
    """Observes a player. Raises InvariantViolated once a sequence was passed over without a reason
    in more than `max_steps` steps since it was last served, or came."""

    def __init__(self, scenario: Scenario, max_steps: int) -> None:
        self._requests = scenario.requests
        self._policy = POLICIES[scenario.config.scheduling_policy]()
        self._max_steps = max_steps
        self._num_passed_over: dict[SeqId, int] = {}

    def __call__(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, StepScheduled):
                self._note(engine, effect)

    def _note(self, engine: Engine, step: StepScheduled) -> None:
        served = {share.seq_id for share in step.scheduled}
        last = self._last_of(engine, served)
        last_started = self._last_of(engine, {added.seq_id for added in step.added})
        budget = engine.config.max_num_batched_tokens - sum(s.num_tokens for s in step.scheduled)
        head = engine.queues.head()
        for seq_id in served:
            self._num_passed_over.pop(seq_id, None)
        for sequence in engine.queues.running:
            if sequence.num_schedulable() and self._place(sequence) < last:
                if sequence.seq_id not in served:
                    self._pass_over(sequence, "others behind it were served")
        for sequence in engine.queues.waiting.values():
            if sequence.num_open_steps:
                continue  # it was preempted, and has to wait for them
            if self._place(sequence) < last_started:
                self._pass_over(sequence, "others behind it started")
            elif sequence is head and budget and _fits(engine, sequence):
                self._pass_over(sequence, "all that it needs was there")

    def _pass_over(self, sequence: Sequence, circumstance: str) -> None:
        count = self._num_passed_over.get(sequence.seq_id, 0) + 1
        self._num_passed_over[sequence.seq_id] = count
        if count > self._max_steps:
            raise InvariantViolated(
                f"8: sequence {sequence.order[2]} of request {sequence.key.number} was passed over "
                f"in {count} steps, and {circumstance}"
            )

    def _last_of(self, engine: Engine, seq_ids: set[SeqId]) -> tuple[int, int, int]:
        return max((self._place(engine.sequences[seq_id]) for seq_id in seq_ids), default=NOBODY)

    def _place(self, sequence: Sequence) -> tuple[int, int, int]:
        """Where it should stand in the order: asked of the scenario, not of the core."""
        number = sequence.key.number
        return self._policy.level(self._requests[number].priority), number, sequence.order[2]


def _fits(engine: Engine, sequence: Sequence) -> bool:
    """Whether a row and blocks are there for all that is known of it, and for the others' next."""
    needed = engine.kv.blocks_needed(sequence, sequence.num_known) + len(engine.queues.running)
    return bool(engine.queues.free_rows) and needed <= engine.kv.pool.num_available
