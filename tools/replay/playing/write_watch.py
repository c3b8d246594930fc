"""Rule 2, seen from outside: which blocks the open steps may still write, and who has them."""

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import blocks_for
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import BlockId, SeqId, StepId
from tokenreel.messages.steps import StepScheduled


class WriteWatch:
    """Raises InvariantViolated once such a block is another's, or has two writers."""

    def __init__(self) -> None:
        self._writes: dict[StepId, list[tuple[SeqId, BlockId]]] = {}

    def note(self, engine: Engine, effects: list[Effect]) -> None:
        """To be called after every event, with its effects."""
        size = engine.config.block_size
        for effect in effects:
            if isinstance(effect, StepScheduled):
                self._writes[effect.step_id] = [
                    (entry.seq_id, block)
                    for entry in effect.scheduled
                    for block in engine.sequences[entry.seq_id].block_table[
                        entry.start // size : blocks_for(entry.start + entry.num_tokens, size)
                    ]
                ]
        self._check(engine)

    def _check(self, engine: Engine) -> None:
        open_ids = {step.step_id for step in engine.open_steps}
        self._writes = {s: writes for s, writes in self._writes.items() if s in open_ids}
        fenced = {block for blocks in engine.kv.pool.fenced.values() for block in blocks}
        for step_id, writes in self._writes.items():
            for seq_id, block in writes:
                sequence = engine.sequences.get(seq_id)
                is_its_own = sequence is not None and block in sequence.block_table
                if not (is_its_own or block in fenced):
                    raise InvariantViolated(
                        f"2: step {step_id} may still write block {block} of sequence {seq_id}, "
                        "which was given away"
                    )
                if engine.kv.pool.references[block] > 1:
                    raise InvariantViolated(f"2: block {block} has two writers")
