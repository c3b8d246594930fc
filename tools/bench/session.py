"""Loads, run to their end or to the first Ctrl-C, and what the engine's processes spent on them."""

import argparse
import asyncio
import resource
import signal
from collections.abc import Callable
from types import FrameType

import uvloop
from msgspec.structs import replace

from tokenreel.tools.bench.client.load import Load, Measured
from tokenreel.tools.bench.flags import random_prompts
from tokenreel.tools.bench.processes.processor_time import busy_time_s, spent_s
from tokenreel.tools.bench.progress import telling
from tokenreel.tools.bench.target import Target

WARMUP_TOKENS = 8
MIN_PROMPTS = 32
ROUNDS = 4
"""Of requests per client of a closed loop, unless --num-prompts says otherwise."""


class LoadRun:
    """What came of it. `actor_times_s` is the processor time of each of the server's processes, if
    they are ours; `others_s` that of everybody who has no part in the measurement, as far as
    `busy_time_s`, which is everybody's together, can be divided."""

    def __init__(
        self, measured: Measured, actor_times_s: dict[str, float], busy_time_s: float | None
    ) -> None:
        self.measured = measured
        self.actor_times_s = actor_times_s
        own_s = sum(actor_times_s.values()) + measured.cpu_s
        self.others_s = None if busy_time_s is None else max(0.0, busy_time_s - own_s)

    @property
    def is_interrupted(self) -> bool:
        """By hand: the rest was not sent, or was cut short."""
        return self.measured.num_cut_short > 0


def closed_loop_prompts(concurrency: int) -> int:
    """How many requests make a run that tells something."""
    return max(MIN_PROMPTS, ROUNDS * concurrency)


class Session:
    """Use as a context manager around loads, what starts and stops their engine, and the telling of
    the result. From the first load on the first Ctrl-C ends what is running and is remembered, so
    that nothing that was measured is lost; a second one is a KeyboardInterrupt as ever."""

    def __init__(self) -> None:
        self.is_interrupted = False
        self._stop_load: Callable[[], None] | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def release(self) -> None:
        """Before a further start of an engine: until its first load Ctrl-C is a KeyboardInterrupt.
        Raises one if there has been a Ctrl-C already."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.is_interrupted:
            raise KeyboardInterrupt

    def run_load(self, load: Load, target: Target) -> LoadRun:
        if not self.is_interrupted:
            signal.signal(signal.SIGINT, self._note)
        _allow_sockets()
        before, busy_before_s = target.processor_times_s(), busy_time_s()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(self._until_interrupted(load))
        after, busy_s = target.processor_times_s(), busy_time_s() - busy_before_s
        is_whole = bool(after) and all(after.values())  # The clock of one that ended is gone.
        return LoadRun(measured, spent_s(before, after), busy_s if is_whole else None)

    def warm_up(self, target: Target, options: argparse.Namespace, num_requests: int) -> None:
        """So that what a server does once is done: short requests, which no later one resembles.
        They may fail: whoever refuses them will be seen to."""
        if not num_requests:
            return
        long = random_prompts(options, target.vocab_size, "warm-up")
        short = replace(long, output_len=min(WARMUP_TOKENS, options.output_len))
        asks = target.asks(short.make(num_requests), options)
        load = Load(target.endpoint, asks, timeout_s=options.request_timeout)
        with telling("warming up", not options.disable_tqdm):
            self.run_load(load, target)
        if self.is_interrupted:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.is_interrupted = True
        if self._stop_load is not None:
            self._stop_load()

    async def _until_interrupted(self, load: Load) -> Measured:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(load.stop)

        self._stop_load = stop
        if self.is_interrupted:
            stop()
        try:
            return await load.run()
        finally:
            self._stop_load = None


def _allow_sockets() -> None:
    """As many open files as the system lets us have: each request in flight is one."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
