"""Writes the journal of a long run of the real core: what the tools are measured on.

    python tests/simulation/long_run.py DIR --events 1000000 --streams 32

As many streams as asked for, each with one request after the other: prompts with shared prefixes,
outputs of various lengths, now and then an abort or a second choice. The worker is a clock; nothing
here needs a model, and the same arguments give the same decisions.
"""

import argparse
import random
from collections import deque
from pathlib import Path

from tokenreel.actors.core.config import LOGIC_VERSION, CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.block_hash import chain
from tokenreel.messages.codec import CoreEvent, encode, tag_of
from tokenreel.messages.ids import BlockHash, RequestKey
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.messages.outputs import OutputDelivered, SequenceFinished
from tokenreel.messages.requests import AbortRequest, AdmitRequest
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import SampledTokens, StepBegan, StepCompleted, StepScheduled

ROOT = BlockHash(b"a long run: root")
NUM_PREFIXES = 8
PREFIX_TOKENS = 64
STEP_NS = 5_000_000
STEP_NS_PER_TOKEN = 20_000


class LongRun:
    def __init__(self, config: CoreConfig, streams: int, recorder: Recorder) -> None:
        self.num_events = 0
        self._engine = Engine(config)
        self._streams = streams
        self._recorder = recorder
        self._random = random.Random(1)
        self._next_number = 0
        self._now_ns = self._worker_free_ns = 1_000_000_000
        self._dispatched: deque[StepScheduled] = deque()
        self._finished: list[SequenceFinished] = []

    def play(self, num_events: int) -> None:
        while self.num_events < num_events:
            while len(self._engine.requests) < self._streams:
                self._apply(self._admit())
            while self._engine.wants_step():
                self._apply(StepBegan(self._engine.next_step_id))
            self._apply(self._complete(self._dispatched.popleft()))
            if self._random.random() < 0.002:
                self._apply(AbortRequest(self._random.choice(list(self._engine.requests))))
            finished, self._finished = self._finished, []
            if finished:
                self._apply(OutputDelivered(tuple(each.seq_id for each in finished)))
            if self._recorder.should_rotate():
                self._recorder.rotate(self._engine.snapshot())
        self._recorder.close()

    def _apply(self, event: CoreEvent) -> None:
        self.num_events += 1
        self._now_ns += 20_000
        effects = self._engine.apply(event)
        self._recorder.append(tag_of(event), INPUT, encode(event), self._now_ns)
        for effect in effects:
            self._recorder.append(tag_of(effect), EFFECT, encode(effect), self._now_ns)
            if isinstance(effect, StepScheduled):
                self._dispatched.append(effect)
            elif isinstance(effect, SequenceFinished):
                self._finished.append(effect)
        self._recorder.commit()

    def _admit(self) -> AdmitRequest:
        draw, config = self._random, self._engine.config
        number, self._next_number = self._next_number, self._next_number + 1
        prefix = draw.randrange(NUM_PREFIXES)
        prompt = [(prefix * 7919 + place) % config.vocab_size for place in range(PREFIX_TOKENS)]
        prompt += [draw.randrange(config.vocab_size) for _ in range(draw.randrange(16, 512))]
        return AdmitRequest(
            key=RequestKey(1, number),
            prompt_token_ids=prompt,
            sampling=SamplingParams(seed=number),
            stopping=StoppingParams(draw.randrange(16, 384)),
            text=TextParams(),
            n=2 if draw.random() < 0.05 else 1,
            priority=0,
            cache_root=ROOT,
            block_hashes=chain(ROOT, prompt, config.block_size),
        )

    def _complete(self, step: StepScheduled) -> StepCompleted:
        num_tokens = sum(share.num_tokens for share in step.scheduled)
        began_ns = max(self._now_ns, self._worker_free_ns)
        self._worker_free_ns = began_ns + STEP_NS + STEP_NS_PER_TOKEN * num_tokens
        self._now_ns = max(self._now_ns, self._worker_free_ns)
        outputs = [
            SampledTokens(share.seq_id, [(share.seq_id * 31 + share.start) % 1000])
            for share in step.scheduled
            if share.num_logits
        ]
        return StepCompleted(step.step_id, outputs, began_ns, self._worker_free_ns)


def write_long_run(directory: Path, num_events: int, streams: int, num_blocks: int) -> Path:
    """The run's directory."""
    config = CoreConfig(
        num_blocks=num_blocks,
        block_size=16,
        max_model_len=1024,
        max_num_seqs=streams,
        max_num_batched_tokens=2048,
        max_in_flight=4 * streams,
        vocab_size=32_000,
    )
    meta = describe_run(config, LOGIC_VERSION)
    recorder = Recorder.create(directory, meta, sync="none", max_bytes=64 << 30)
    run = LongRun(config, streams, recorder)
    run.play(num_events)
    return recorder.run_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=4096)
    options = parser.parse_args()
    print(write_long_run(options.directory, options.events, options.streams, options.blocks))


if __name__ == "__main__":
    main()
