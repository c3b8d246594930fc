"""Workers that answer a scenario's steps with the scenario's tokens: one fast, one that checks.

`ScriptedWorker` looks at nothing but who wants a token. `CheckingWorker` keeps, for each KV slot, a
fingerprint of the token prefix that keys and values there would depend on; whenever a sequence is
computed, the slots of its whole context must hold those of its own tokens: a block handed to two
owners, a stale cache hit, a missing write or a token out of place shows at once.
"""

from collections.abc import Callable

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.scenario import Scenario, output_of
from tokenreel.messages.ids import Row, SeqId
from tokenreel.messages.sampling import derive_seed
from tokenreel.messages.steps import (
    AddedSequence,
    SampledTokens,
    ScheduledSequence,
    SequenceFailure,
    StepCompleted,
    StepScheduled,
)

Sample = Callable[[int, int], int | None]
"""The token of a sequence's seed at an output index; None: the worker fails there."""


class ScriptedWorker:
    """Does what the scenario says. Times are the step's number: no clock is asked."""

    def __init__(self, scenario: Scenario) -> None:
        self._sample = sample_of(scenario)
        self._rows: dict[Row, tuple[int, int]] = {}

    def complete(self, step: StepScheduled) -> StepCompleted:
        for added in step.added:
            self._rows[added.row] = added.sampling.seed, added.num_prompt_tokens
        answer = _Answer(step)
        for share in step.scheduled:
            if share.num_logits:
                seed, num_prompt_tokens = self._rows[share.row]
                output_index = share.start + share.num_tokens - num_prompt_tokens
                answer.put(share.seq_id, self._sample(seed, output_index))
        return answer.completed()


class CheckingWorker:
    """Raises InvariantViolated at a step that contradicts those before it."""

    def __init__(self, config: CoreConfig, sample: Sample) -> None:
        self._slots = [[0] * config.block_size for _ in range(config.num_blocks)]
        self._block_size = config.block_size
        self._vocab_size = config.vocab_size
        self._rows: list[_RowState | None] = [None] * config.max_num_seqs
        self._sample = sample
        self.last_step_id = 0
        self.num_tokens = 0

    def complete(self, step: StepScheduled) -> StepCompleted:
        _require(step.step_id == self.last_step_id + 1, "steps come in order, none left out")
        self.last_step_id = step.step_id
        for row in step.removed_rows:
            self._rows[row] = None
        for added in step.added:
            _require(self._rows[added.row] is None, "a row is taken over that nobody gave up")
            self._rows[added.row] = _RowState(added)
        answer = _Answer(step)
        for share in step.scheduled:
            self._compute(share, answer)
        return answer.completed()

    def _compute(self, share: ScheduledSequence, answer: "_Answer") -> None:
        row = self._rows[share.row]
        if row is None or row.seq_id != share.seq_id:
            raise InvariantViolated(f"sequence {share.seq_id} is in a row of another")
        row.blocks.extend(share.new_block_ids)
        end = share.start + share.num_tokens
        _require(0 < share.num_tokens and end <= len(row.tokens), "a token that nobody knows")
        known = all(0 <= token < self._vocab_size for token in row.tokens)
        _require(known, f"sequence {share.seq_id}: a token id outside the vocabulary")
        self.num_tokens += share.num_tokens
        self._check_context(row, share.start, end)
        _require(bool(share.num_logits) == (end == len(row.tokens)), "who yields a token?")
        if share.num_logits:
            token = self._sample(row.seed, end - row.num_prompt_tokens)
            answer.put(share.seq_id, token)
            row.tokens.append(0 if token is None else token)

    def _check_context(self, row: "_RowState", start: int, end: int) -> None:
        prefix = 1
        for position in range(end):
            prefix = _fingerprint(prefix, row.tokens[position])
            block, slot = row.blocks[position // self._block_size], position % self._block_size
            if position >= start:
                self._slots[block][slot] = prefix
            elif self._slots[block][slot] != prefix:
                raise InvariantViolated(
                    f"sequence {row.seq_id}, position {position}: block {block} holds somebody "
                    "else's KV"
                )


def sample_of(scenario: Scenario) -> Sample:
    """Every sequence is known by its seed, which no other of the scenario has."""
    name_of = {
        derive_seed(number, index): (number, index)
        for number, request in enumerate(scenario.requests)
        for index in range(request.n)
    }

    def sample(seed: int, output_index: int) -> int | None:
        return output_of(scenario, *name_of[seed], output_index)

    return sample


class _RowState:
    def __init__(self, added: AddedSequence) -> None:
        self.seq_id = added.seq_id
        self.tokens = list(added.token_ids)
        self.num_prompt_tokens = added.num_prompt_tokens
        self.blocks = list(added.block_ids)
        self.seed = added.sampling.seed


class _Answer:
    """A StepCompleted as it takes shape."""

    def __init__(self, step: StepScheduled) -> None:
        self._step_id = step.step_id
        self._outputs: list[SampledTokens] = []
        self._failures: list[SequenceFailure] = []

    def put(self, seq_id: SeqId, token: int | None) -> None:
        if token is None:
            self._failures.append(SequenceFailure(seq_id, "as the scenario says"))
        else:
            self._outputs.append(SampledTokens(seq_id, [token]))

    def completed(self) -> StepCompleted:
        number = self._step_id
        return StepCompleted(number, self._outputs, number, number + 1, self._failures)


def _fingerprint(prefix: int, token: int) -> int:
    return ((prefix ^ (token + 1)) * 0x9E3779B97F4A7C15 + 1) & ((1 << 64) - 1)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantViolated(message)
