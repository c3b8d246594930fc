"""Journals of runs of the real core with texts that the test names: prompts, outputs, stop ids."""

from collections import deque
from pathlib import Path

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.block_hash import cache_root, chain
from tokenreel.messages.codec import CoreEvent
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.outputs import OutputDelivered, TokensEmitted
from tokenreel.messages.requests import AbortRequest, AdmitRequest, RequestAdmitted
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import (
    SampledTokens,
    SequenceFailure,
    StepBegan,
    StepCompleted,
    StepScheduled,
)
from tokenreel.tools.replay.reading.writing import Capture, Identity, RunWriter, run_meta

VOCAB_SIZE = 50_000
CONFIG = CoreConfig(
    num_blocks=24,
    block_size=4,
    max_model_len=64,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    max_in_flight=64,
    vocab_size=VOCAB_SIZE,
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and what the model says to it: `outputs`, then ever the same token. In place of
    output `fails_at` the worker reports `failure`."""

    prompt: list[int]
    outputs: list[int] = []
    arrival: int = 0
    max_tokens: int = 8
    salt: str = ""
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    priority: int = 0
    n: int = 1
    sampling: SamplingParams = SamplingParams()
    text: TextParams = TextParams()
    abort_turn: int | None = None
    fails_at: int | None = None
    failure: str = ""
    block_hashes: list[BlockHash] | None = None


def admit_of(asked: Asked, number: int, config: CoreConfig) -> AdmitRequest:
    root = cache_root(b"model", b"tokenizer", asked.salt)
    links = asked.block_hashes
    if links is None:
        is_named = config.enable_prefix_caching
        links = chain(root, asked.prompt, config.block_size) if is_named else []
    return AdmitRequest(
        key=RequestKey(3, 1000 + number),
        prompt_token_ids=asked.prompt,
        sampling=asked.sampling,
        stopping=StoppingParams(asked.max_tokens, asked.min_tokens, asked.stop_token_ids),
        text=asked.text,
        n=asked.n,
        priority=asked.priority,
        cache_root=root,
        block_hashes=links,
    )


class Conversation:
    """Plays requests against an engine; a turn is arrivals, steps, one completion, deliveries."""

    def __init__(self, engine: Engine, asked: list[Asked], capture: Capture) -> None:
        self.engine = engine
        self.turn = 0
        self.is_recorded = True
        self._asked = asked
        self._capture = capture
        self._dispatched: deque[StepScheduled] = deque()
        self._asked_by: dict[SeqId, Asked] = {}
        self._deliveries: list[SeqId] = []

    def play(self, max_turns: int = 500) -> None:
        last = max(asked.arrival for asked in self._asked)
        while self.turn <= last or self.engine.requests or self._dispatched:
            self.play_turn()
            assert self.turn < max_turns

    def play_turn(self) -> None:
        for number, asked in enumerate(self._asked):
            if asked.arrival == self.turn:
                self._apply(admit_of(asked, number, self.engine.config))
            if asked.abort_turn == self.turn:
                self._apply(AbortRequest(RequestKey(3, 1000 + number)))
        while self.engine.wants_step():
            self._apply(StepBegan(self.engine.next_step_id))
        if self._dispatched:
            self._apply(self._completed(self._dispatched.popleft()))
        if self._deliveries:
            self._apply(OutputDelivered(tuple(self._deliveries)))
            self._deliveries = []
        self.turn += 1

    def _apply(self, event: CoreEvent) -> None:
        try:
            effects = self.engine.apply(event)
        except Exception as error:
            self._capture.failed(event, error)
            raise
        if self.is_recorded:
            self._capture(self.engine, event, effects)
        for effect in effects:
            match effect:
                case RequestAdmitted(seq_ids=seq_ids):
                    asked = self._asked[effect.key.number - 1000]
                    self._asked_by |= dict.fromkeys(seq_ids, asked)
                case StepScheduled():
                    self._dispatched.append(effect)
                case TokensEmitted(sequences=sequences):
                    ended = [each for each in sequences if each.finish_reason is not None]
                    self._deliveries += [each.seq_id for each in ended]

    def _completed(self, step: StepScheduled) -> StepCompleted:
        outputs, failures = [], []
        for share in step.scheduled:
            asked = self._asked_by[share.seq_id]
            sequence = self.engine.sequences.get(share.seq_id)
            index = sequence.num_outputs if sequence else 0
            if index == asked.fails_at:
                failures.append(SequenceFailure(share.seq_id, asked.failure))
            elif share.num_logits:
                token = asked.outputs[index] if index < len(asked.outputs) else 17
                outputs.append(SampledTokens(share.seq_id, [token]))
        return StepCompleted(step.step_id, outputs, step.step_id, step.step_id + 1, failures)


def converse(
    run_dir: Path,
    asked: list[Asked],
    config: CoreConfig = CONFIG,
    *,
    events_per_segment: int = 0,
    identity: Identity | None = None,
    facts: dict[str, object] | None = None,
) -> Path:
    """The directory of a run in which all of these are answered."""
    with RunWriter(run_dir, run_meta(config, facts), identity) as writer:
        capture = Capture(writer, events_per_segment)
        Conversation(Engine(config), asked, capture).play()
        writer.end(capture.t_ns)
    return run_dir
