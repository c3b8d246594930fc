"""The core's record of a request and of each of its continuations."""

from enum import IntEnum

import msgspec

from tokenreel.actors.core.digest import weight
from tokenreel.messages.ids import BlockHash, BlockId, RequestKey, Row, SeqId, StepId
from tokenreel.messages.sampling import MASK_64, FinishReason, SamplingParams, StoppingParams

NO_ROW = Row(-1)


class Status(IntEnum):
    """Where a sequence is: exactly one of these at any time."""

    BLOCKED = 0
    """Waits for its first sibling to compute the prompt that they share."""
    WAITING = 1
    RUNNING = 2
    FINISHED = 3
    """Ended, its blocks given back; kept until its output is delivered."""


class Sequence(msgspec.Struct, eq=False):
    """One continuation of a request.

    num_computed <= num_scheduled <= num_known + num_open_samples: committed by completed steps,
    handed to steps, and known or on its way. An open sample is a token that an open step will
    bring. `epoch` counts preemptions: a step dispatched before one still brings its token, but what
    it computed is gone.
    """

    seq_id: SeqId
    key: RequestKey
    order: tuple[int, int, int]
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    stopping: StoppingParams
    cache_root: BlockHash
    """Empty: this sequence's blocks take no part in the prefix cache."""
    hashes: list[BlockHash]
    """The chain over the full blocks of `token_ids`, extended as tokens are committed."""
    status: Status = Status.WAITING
    row: Row = NO_ROW
    block_table: list[BlockId] = []
    num_computed: int = 0
    num_scheduled: int = 0
    num_open_samples: int = 0
    num_open_steps: int = 0
    last_step_id: StepId = StepId(0)
    epoch: int = 0
    num_registered: int = 0
    """Leading blocks of the table that the prefix cache knows, or knew before us."""
    num_cached_tokens: int = 0
    """Prompt tokens that the first admission found in the cache."""
    finish_reason: FinishReason | None = None
    num_final_outputs: int = 0
    token_hash: int = 0
    table_term: int = 0
    sequence_term: int = 0
    queue_term: int = 0

    @property
    def level(self) -> int:
        return self.order[0]

    @property
    def is_first(self) -> bool:
        """Whether this sequence computes the prompt that its siblings wait for."""
        return self.order[2] == 0

    @property
    def num_known(self) -> int:
        return len(self.token_ids)

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def num_schedulable(self) -> int:
        """Tokens that the next step could compute: known or on their way, and not past max_tokens
        with every token in flight counted."""
        num_expected = len(self.token_ids) + self.num_open_samples
        if num_expected - self.num_prompt_tokens >= self.stopping.max_tokens:
            return 0
        return num_expected - self.num_scheduled

    def append_token(self, token_id: int) -> int:
        """How many output tokens there are now."""
        self.token_ids.append(token_id)
        self.token_hash = (self.token_hash * 0x5851F42D4C957F2D + token_id + 1) & MASK_64
        return len(self.token_ids) - self.num_prompt_tokens

    def expected_sequence_term(self) -> int:
        """This sequence's term of the digest's `sequences` component."""
        mixed = (
            self.num_computed * 0x9E6D62D06F6A9A9B
            + self.num_scheduled * 0xD1B54A32D192ED03
            + len(self.token_ids) * 0x8CB92BA72F3D8DD7
            + self.num_open_samples * 0xABC98388FB8FAC03
            + self.num_open_steps * 0xF58D3A7C2F1E9D61
            + self.row * 0xA24BAED4963EE407
            + self.token_hash
        )
        if self.epoch or self.num_final_outputs:  # most have neither
            mixed += self.epoch * 0xE7037ED1A0B428DB + self.num_final_outputs * 0xB5026F5AA96619E9
        return (weight(self.seq_id) * mixed) & MASK_64

    def expected_queue_term(self) -> int:
        """This sequence's term of the digest's `queues` component."""
        return (weight(~self.seq_id) * (self.status + 1)) & MASK_64


class Request(msgspec.Struct, eq=False):
    """What a client asked for: its sequences, and how many of them are not delivered yet."""

    key: RequestKey
    seq_ids: tuple[SeqId, ...]
    num_undelivered: int
