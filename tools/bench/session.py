"""One load, run to its end or to the first Ctrl-C, and what the engine's processes spent on it."""

import asyncio
import signal

import uvloop

from tokenreel.tools.bench.client.load import Load, Measured
from tokenreel.tools.bench.target import Target


class LoadRun:
    """What came of it. `is_interrupted`: by hand; the rest was not sent, or was cut short."""

    def __init__(self, measured: Measured, actor_times_s: dict[str, float]) -> None:
        self.measured = measured
        self.actor_times_s = actor_times_s

    @property
    def is_interrupted(self) -> bool:
        return self.measured.num_cut_short > 0


def run_load(load: Load, target: Target) -> LoadRun:
    """A second Ctrl-C is a KeyboardInterrupt as ever."""
    before = target.processor_times_s()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(_until_interrupted(load))
    after = target.processor_times_s()
    return LoadRun(measured, {role: after[role] - before.get(role, 0.0) for role in after})


async def _until_interrupted(load: Load) -> Measured:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        load.stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        return await load.run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
