"""A worker without a model: token = f(seed, output position). For tests, and to measure the rest.

It keeps the running batch as a real worker does and refuses a step that contradicts it, so that a
mistake in the scheduling shows here as well. It never imports torch.
"""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from tokenreel.actors.runtime.actor import Actor, ActorRuntime, StartError, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.clock import Clock
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.ids import BlockId, Row, SeqId
from tokenreel.messages.lifecycle import WorkerReady
from tokenreel.messages.logprobs import SequenceLogprobs, encode_logprobs
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.sampling import MASK_64, SamplingParams
from tokenreel.messages.steps import (
    AddedSequence,
    SampledTokens,
    ScheduledSequence,
    StepCompleted,
    StepScheduled,
)

FIRST_TOKEN_ID = 3
"""Below are, by custom, the ids of unknown, beginning and end."""
DEFAULT_NUM_BLOCKS = 8192
DEFAULT_MAX_MODEL_LEN = 4096


def stub_token(
    seed: int, output_index: int, vocab_size: int, stop_token_ids: Collection[int] = ()
) -> int:
    """The token at `output_index` (from 0): counts up by one per position from a place that the
    seed names, and steps over stop tokens, so that only max_tokens ends a sequence."""
    span = vocab_size - FIRST_TOKEN_ID
    offset = ((seed * 0x9E3779B97F4A7C15 & MASK_64) >> 32) + output_index
    for skipped in range(span):
        token = FIRST_TOKEN_ID + (offset + skipped) % span
        if token not in stop_token_ids:
            return token
    return FIRST_TOKEN_ID + offset % span


class StepRefused(ValueError):
    """A step contradicts those before it."""


@dataclass(slots=True)
class _RowState:
    seq_id: SeqId
    sampling: SamplingParams
    num_prompt_tokens: int
    num_known: int
    """Tokens given when the sequence was added, and those sampled here since."""
    num_computed: int | None
    """None until the first step says where it starts."""
    num_blocks: int


class StubBatch:
    """The running batch by row."""

    def __init__(self, *, vocab_size: int, num_blocks: int, block_size: int, max_rows: int) -> None:
        self._vocab_size = vocab_size
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._max_rows = max_rows
        self._rows: dict[Row, _RowState] = {}

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def execute(self, step: StepScheduled, clock: Clock) -> tuple[StepCompleted, bytes]:
        """The answer and its attachment. Raises `StepRefused`."""
        began_ns = clock.monotonic_ns()
        for row in step.removed_rows:
            if self._rows.pop(row, None) is None:
                raise StepRefused(f"step {step.step_id} removes row {row}, which is empty")
        for added in step.added:
            self._add(added)
        outputs: list[SampledTokens] = []
        logprobs: list[SequenceLogprobs] = []
        for entry in step.scheduled:
            state = self._advance(entry)
            if entry.num_logits:
                token = self._sample(state)
                outputs.append(SampledTokens(entry.seq_id, [token]))
                if state.sampling.num_logprobs >= 0:
                    logprobs.append(self._logprobs(state, token))
        completed = StepCompleted(step.step_id, outputs, began_ns, clock.monotonic_ns())
        return completed, encode_logprobs(logprobs)

    def _add(self, added: AddedSequence) -> None:
        if not 0 <= added.row < self._max_rows:
            raise StepRefused(f"sequence {added.seq_id}: row {added.row} of {self._max_rows}")
        self._check_blocks(added.seq_id, added.block_ids)
        self._rows[added.row] = _RowState(
            seq_id=added.seq_id,
            sampling=added.sampling,
            num_prompt_tokens=added.num_prompt_tokens,
            num_known=len(added.token_ids),
            num_computed=None,
            num_blocks=len(added.block_ids),
        )

    def _advance(self, entry: ScheduledSequence) -> _RowState:
        state = self._rows.get(entry.row)
        if state is None or state.seq_id != entry.seq_id:
            holder = "nobody" if state is None else f"sequence {state.seq_id}"
            raise StepRefused(f"sequence {entry.seq_id}: row {entry.row} holds {holder}")
        self._check_blocks(entry.seq_id, entry.new_block_ids)
        state.num_blocks += len(entry.new_block_ids)
        end = entry.start + entry.num_tokens
        if entry.num_tokens < 1 or state.num_computed not in (None, entry.start):
            raise StepRefused(
                f"sequence {entry.seq_id}: positions [{entry.start}, {end}) after "
                f"{state.num_computed} computed ones"
            )
        if end > state.num_known or entry.num_logits and end != state.num_known:
            raise StepRefused(
                f"sequence {entry.seq_id}: {entry.num_logits} logits after position {end - 1} "
                f"with {state.num_known} known tokens"
            )
        if end > state.num_blocks * self._block_size:
            raise StepRefused(f"sequence {entry.seq_id}: position {end - 1} has no block")
        state.num_computed = end
        return state

    def _check_blocks(self, seq_id: SeqId, block_ids: list[BlockId]) -> None:
        for block_id in block_ids:
            if not 0 <= block_id < self._num_blocks:
                raise StepRefused(f"sequence {seq_id}: block {block_id} of {self._num_blocks}")

    def _sample(self, state: _RowState) -> int:
        output_index = state.num_known - state.num_prompt_tokens
        state.num_known += 1
        sampling = state.sampling
        return stub_token(sampling.seed, output_index, self._vocab_size, sampling.stop_token_ids)

    def _logprobs(self, state: _RowState, token: int) -> SequenceLogprobs:
        """The sampled token is the most likely one; its successors share the rest, halving."""
        ranks = range(min(state.sampling.num_logprobs, self._vocab_size))
        return SequenceLogprobs(
            state.seq_id,
            sampled=[-0.5],
            top_ids=[[(token + rank) % self._vocab_size for rank in ranks]],
            top=[[-0.5 - rank for rank in ranks]],
        )


class ModelFacts(msgspec.Struct):
    """What the stub takes from a model's config.json."""

    vocab_size: int
    max_position_embeddings: int = DEFAULT_MAX_MODEL_LEN


def worker_ready(options: EngineOptions) -> WorkerReady:
    """What a real worker would find out by loading. Raises `StartError`."""
    path = Path(options.model) / "config.json"
    try:
        config = path.read_bytes()
        facts = msgspec.json.decode(config, type=ModelFacts)
    except (OSError, msgspec.MsgspecError) as error:
        raise StartError(f"{path} cannot be used: {error}") from error
    if facts.vocab_size <= FIRST_TOKEN_ID:
        raise StartError(f"{path}: vocab_size {facts.vocab_size} is too small")
    limits = (facts.max_position_embeddings, options.max_model_len)
    return WorkerReady(
        num_blocks=options.num_gpu_blocks_override or DEFAULT_NUM_BLOCKS,
        block_size=options.block_size,
        max_model_len=min(limit for limit in limits if limit is not None),
        vocab_size=facts.vocab_size,
        model_hash=blake2b(b"stub" + config, digest_size=16).digest(),
        device="none",
        dtype="none",
        is_batch_invariant=True,
    )


class StubWorkerActor(Actor):
    ROLE = "worker"
    DESTINATIONS = ("engine_core",)

    def __init__(self, runtime: ActorRuntime) -> None:
        super().__init__(runtime)
        self._engine_core = runtime.outboxes["engine_core"]
        self._num_malformed = 0

    def start(self) -> None:
        options = self.runtime.options
        ready = worker_ready(options)
        self._batch = StubBatch(
            vocab_size=ready.vocab_size,
            num_blocks=ready.num_blocks,
            block_size=ready.block_size,
            max_rows=options.max_num_seqs,
        )
        self._engine_core.send(encode(ready))
        self.runtime.ready("stub: no model, tokens count upwards")

    def on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            try:
                message = decode(frame.payload)
            except MalformedMessage:
                self._num_malformed += 1
                continue
            if isinstance(message, StepScheduled):
                completed, attachment = self._batch.execute(message, self.runtime.clock)
                self._engine_core.send(encode(completed), attachment)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    raise SystemExit(run_actor(StubWorkerActor))
