"""A worker that computes nothing and notices everything.

Each KV slot holds, instead of keys and values, a fingerprint of the token prefix that they would
depend on. Whenever a sequence is computed, the slots of its whole context must hold the
fingerprints of its own tokens: a block handed to two owners, a stale cache hit, a missing write or
a token out of place shows at once. A sampled token is a function of (seed, output index).
"""

from tokenreel.messages.ids import SeqId
from tokenreel.messages.steps import (
    AddedSequence,
    SampledTokens,
    ScheduledSequence,
    StepCompleted,
    StepScheduled,
)

EMPTY = 0


def output_token(seed: int, output_index: int, vocab_size: int) -> int:
    """Never 0, so that a test can make 0 its stop token and say when it comes."""
    return 1 + (seed * 7919 + output_index * 104729 + 17) % (vocab_size - 1)


def fingerprint(prefix: int, token: int) -> int:
    return ((prefix ^ (token + 1)) * 0x9E3779B97F4A7C15 + 1) & ((1 << 64) - 1)


class RowState:
    def __init__(self, added: AddedSequence) -> None:
        self.seq_id = added.seq_id
        self.tokens = list(added.token_ids)
        self.num_prompt_tokens = added.num_prompt_tokens
        self.blocks = list(added.block_ids)
        self.seed = added.sampling.seed


class CheckingWorker:
    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        vocab_size: int,
        max_num_seqs: int,
        stops: dict[tuple[int, int], int] | None = None,
    ) -> None:
        self._slots = [[EMPTY] * block_size for _ in range(num_blocks)]
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._rows: list[RowState | None] = [None] * max_num_seqs
        self._stops = {} if stops is None else stops  # a test may add to it later
        self.last_step_id = 0
        self.num_tokens = 0

    def complete(self, step: StepScheduled) -> StepCompleted:
        assert step.step_id == self.last_step_id + 1, "steps must come in order, none left out"
        self.last_step_id = step.step_id
        for row in step.removed_rows:
            self._rows[row] = None
        for added in step.added:
            assert self._rows[added.row] is None, "a row was taken over without being given up"
            self._rows[added.row] = RowState(added)
        outputs = [output for entry in step.scheduled for output in self._compute(entry)]
        return StepCompleted(step.step_id, outputs, 0, 0)

    def _compute(self, entry: ScheduledSequence) -> list[SampledTokens]:
        row = self._rows[entry.row]
        assert row is not None and row.seq_id == entry.seq_id, "a row of another sequence"
        row.blocks.extend(entry.new_block_ids)
        end = entry.start + entry.num_tokens
        assert entry.num_tokens > 0 and end <= len(row.tokens), "a token that nobody knows"
        assert all(0 <= token < self._vocab_size for token in row.tokens), "not a token id"
        self.num_tokens += entry.num_tokens
        prefix = 1
        for position in range(end):
            prefix = fingerprint(prefix, row.tokens[position])
            block = self._slots[row.blocks[position // self._block_size]]
            if position >= entry.start:
                block[position % self._block_size] = prefix
            assert block[position % self._block_size] == prefix, (
                f"sequence {row.seq_id}, position {position}: block "
                f"{row.blocks[position // self._block_size]} holds somebody else's KV"
            )
        assert bool(entry.num_logits) == (end == len(row.tokens)), "who yields a token, and who not"
        if not entry.num_logits:
            return []
        output_index = end - row.num_prompt_tokens
        token = self._sample(row.seed, output_index)
        row.tokens.append(token)
        return [SampledTokens(SeqId(row.seq_id), [token])]

    def _sample(self, seed: int, output_index: int) -> int:
        stop_at = self._stops.get((seed, output_index))
        return (
            stop_at if stop_at is not None else output_token(seed, output_index, self._vocab_size)
        )
