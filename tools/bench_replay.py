"""Measures the core's cost per step, the journal's beside it, and how fast a run is verified.

    python -m tokenreel.tools.bench_replay [--streams N] [--steps N]

Streams without pause: whenever a request ends, the next is admitted. The run is played by the real
core and written by the real recorder, a turn per write; the worker answers at once. Times are this
process's CPU time, the median over the steps, so that a busy machine disturbs them little.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tokenreel.actors.core.config import LOGIC_VERSION, CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.block_hash import chain
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.messages.outputs import OutputDelivered, TokensEmitted
from tokenreel.messages.requests import AbortRequest, AdmitRequest
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import SampledTokens, StepBegan, StepCompleted, StepScheduled
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.verify.verify import verify

ROOT = BlockHash(b"the bench's root")
BLOCK_SIZE = 16
NUM_PROMPT_TOKENS = 128
NUM_SHARED_TOKENS = 64
NUM_PREFIXES = 4
NUM_OUTPUT_TOKENS = 64
DEPTH = 2
NUM_CORE_STEPS = 500
CORE_SIZES = (
    (32, 0, 0),
    (64, 0, 0),
    (256, 0, 0),
    (32, 100, 100),
    (32, 100_000, 100),
    (32, 100, 100_000),
)
"""Sequences that run, requests that wait, requests that are over but not confirmed."""

Applied = tuple[CoreEvent, list[Effect]]


class Streams:
    """`num_streams` clients of one engine, each of whom asks anew when it has its answer."""

    def __init__(self, num_streams: int, max_in_flight: int = 0) -> None:
        blocks_each = (NUM_PROMPT_TOKENS + NUM_OUTPUT_TOKENS) // BLOCK_SIZE
        self.engine = Engine(
            CoreConfig(
                num_blocks=2 * num_streams * blocks_each,
                block_size=BLOCK_SIZE,
                max_model_len=8192,
                max_num_seqs=num_streams,
                max_num_batched_tokens=2048,
                max_in_flight=max_in_flight or 2 * num_streams,
                vocab_size=32768,
                pipeline_depth=DEPTH,
            )
        )
        self.num_admitted = 0
        self.core_ns = 0
        """CPU time inside of the core."""
        self._num_streams = num_streams
        self._dispatched: deque[StepScheduled] = deque()
        self._delivered: list[SeqId] = []

    def turn(self) -> Iterator[Applied]:
        """Deliveries and arrivals, the completion of a step if `DEPTH` are open, one more step."""
        if self._delivered:
            delivered, self._delivered = tuple(self._delivered), []
            yield self._apply(OutputDelivered(delivered))
        while len(self.engine.queues.running) + len(self.engine.queues.waiting) < self._num_streams:
            yield self._apply(self._next_request())
        if len(self._dispatched) == DEPTH:
            yield self._apply(_completed(self._dispatched.popleft()))
        yield self._apply(StepBegan(self.engine.next_step_id))

    def finish(self, num_requests: int) -> None:
        """Requests that are over, and whose end nobody ever confirms."""
        for _ in range(num_requests):
            request = self._next_request()
            self.engine.apply(request)
            self.engine.apply(AbortRequest(request.key))

    def admit(self, num_requests: int) -> None:
        for _ in range(num_requests):
            self.engine.apply(self._next_request())

    def _apply(self, event: CoreEvent) -> Applied:
        began_ns = time.thread_time_ns()
        effects = self.engine.apply(event)
        self.core_ns += time.thread_time_ns() - began_ns
        for effect in effects:
            if isinstance(effect, StepScheduled):
                self._dispatched.append(effect)
            elif isinstance(effect, TokensEmitted):
                for tokens in effect.sequences:
                    if tokens.finish_reason is not None:
                        self._delivered.append(tokens.seq_id)
        return event, effects

    def _next_request(self) -> AdmitRequest:
        number = self.num_admitted
        self.num_admitted += 1
        own, prefix = 7 * number, 101 * (number % NUM_PREFIXES)
        prompt = [
            ((prefix if position < NUM_SHARED_TOKENS else own) + 31 * position) % 32768
            for position in range(NUM_PROMPT_TOKENS)
        ]
        return AdmitRequest(
            key=RequestKey(1, number),
            prompt_token_ids=prompt,
            sampling=SamplingParams(seed=number),
            # Of all lengths around the mean, so that ends and arrivals spread over the steps.
            stopping=StoppingParams(NUM_OUTPUT_TOKENS // 2 + 37 * number % (NUM_OUTPUT_TOKENS + 1)),
            text=TextParams(),
            n=1,
            priority=0,
            cache_root=ROOT,
            block_hashes=chain(ROOT, prompt, BLOCK_SIZE),
        )


def _completed(step: StepScheduled) -> StepCompleted:
    outputs = [
        SampledTokens(share.seq_id, [(share.seq_id * 31 + share.start) % 32768])
        for share in step.scheduled
        if share.num_logits
    ]
    return StepCompleted(step.step_id, outputs, time.monotonic_ns(), time.monotonic_ns())


def core_time_us(num_running: int, num_waiting: int, num_finished: int) -> float:
    """What a step costs the core: its completion, the next one, and who comes and goes."""
    streams = Streams(num_running, max_in_flight=2 * num_running + num_waiting + num_finished)
    streams.finish(num_finished)
    streams.admit(num_waiting)
    times: list[int] = []
    for _ in range(NUM_CORE_STEPS):
        streams.core_ns = 0
        for _applied in streams.turn():
            pass
        times.append(streams.core_ns)
    return median(times[NUM_OUTPUT_TOKENS:]) / 1000


def record(directory: Path, num_streams: int, num_steps: int) -> tuple[Path, float, float]:
    """A run of so many steps: its directory, and what a step cost the encoding of its records and
    the journal, in microseconds of CPU time."""
    streams = Streams(num_streams)
    meta = describe_run(streams.engine.config, LOGIC_VERSION)
    recorder = Recorder.create(directory, meta)
    encoding: list[int] = []
    journaling: list[int] = []
    for _ in range(num_steps):
        turn = list(streams.turn())
        began_ns = time.thread_time_ns()
        records = [
            (tag_of(message), flags, encode(message))
            for event, effects in turn
            for message, flags in [(event, INPUT), *((effect, EFFECT) for effect in effects)]
        ]
        encoded_ns = time.thread_time_ns()
        now_ns = time.monotonic_ns()
        recorder.extend([(kind, flags, payload, now_ns) for kind, flags, payload in records])
        recorder.commit()
        encoding.append(encoded_ns - began_ns)
        journaling.append(time.thread_time_ns() - encoded_ns)
    recorder.close()
    return recorder.run_dir, median(encoding) / 1000, median(journaling) / 1000


def verify_time_s(run_dir: Path) -> tuple[float, float]:
    """What it costs to check a journal for damage, and to replay and compare it."""
    began_s = time.process_time()
    journal = open_journal(run_dir)
    opened_s = time.process_time()
    verdict = verify(journal, installed_core())
    assert verdict.divergence is None, verdict.divergence
    return opened_s - began_s, time.process_time() - opened_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=int, default=32, help="concurrent requests (32)")
    parser.add_argument("--steps", type=int, default=4000, help="steps to record and verify (4000)")
    options = parser.parse_args()
    for sizes in CORE_SIZES:
        who = "{} running, {:,} waiting, {:,} over".format(*sizes)
        _print_cost("core", who, core_time_us(*sizes))
    with tempfile.TemporaryDirectory() as directory:
        run_dir, encode_us, journal_us = record(Path(directory), options.streams, options.steps)
        who = f"{options.streams} streams"
        _print_cost("encode", who, encode_us)
        _print_cost("journal", who, journal_us)
        opening_s, replay_s = min((verify_time_s(run_dir) for _ in range(3)), key=sum)
    _print_cost("open", who, 1e6 * opening_s / options.steps)
    _print_cost("verify", who, 1e6 * replay_s / options.steps)
    return 0


def _print_cost(what: str, who: str, step_us: float) -> None:
    print(f"{what:8} {who:36} {step_us:9,.1f} us a step {1e6 / step_us:10,.0f} steps/s")


if __name__ == "__main__":
    raise SystemExit(main())
