"""Puts a workload to a server and notes when what came.

Closed loop: so many clients, each of whom asks anew when it has its answer. Open loop: requests go
out at their times, whatever has become of the earlier ones; with a bound on those in flight they
may go out later, and by how much is noted. Latencies count from the sending, as in vLLM's bench.
"""

import asyncio
import gc
from array import array
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter, process_time
from typing import Any

import msgspec

from tokenreel.tools.bench.client.answers import StreamedAnswer, WholeAnswer
from tokenreel.tools.bench.client.connection import ConnectionFailed
from tokenreel.tools.bench.client.endpoint import Endpoint

MAX_IN_FLIGHT = 4096
"""Of the generator itself, in an open loop without a bound of its own: one socket each."""
TIMED_OUT = "timed out"
TOO_MANY = f"more than {MAX_IN_FLIGHT} requests in flight: the generator's own bound"


class Ask(msgspec.Struct, frozen=True):
    """A request, ready to be sent. `due_s` counts from the start of the load."""

    request: bytes
    num_output_tokens: int
    due_s: float = 0.0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """Of one request. Times are seconds since the start of the load."""

    sent_s: float
    ended_s: float
    lag_s: float = 0.0
    """How much later than due it was sent."""
    stamps: "array[float]" = array("d")
    """When each event with tokens arrived, in seconds of `perf_counter`."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    has_other_length: bool = False
    """It put out fewer or more tokens than were asked for."""
    failure: str | None = None


class Measured(msgspec.Struct, frozen=True):
    """A load that has been put. The generator's own CPU time is in `cpu_s`."""

    outcomes: list[Outcome]
    began: float
    duration_s: float
    cpu_s: float
    num_cut_short: int
    """Requests that were in flight, or not yet sent, when it was stopped."""


class Load:
    """`run` may be called once. `stop` ends it early: what was finished by then counts."""

    def __init__(
        self,
        endpoint: Endpoint,
        asks: Sequence[Ask],
        *,
        max_concurrency: int | None = None,
        is_open: bool = False,
        is_streaming: bool = True,
        timeout_s: float,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`max_concurrency` None: in a closed loop, everything at once. `is_streaming`: whether the
        requests ask for a stream."""
        self._endpoint = endpoint
        self._asks = asks
        self._max_concurrency = max_concurrency
        self._is_open = is_open
        self._answer_type = StreamedAnswer if is_streaming else WholeAnswer
        self._timeout_s = timeout_s
        self._on_outcome = on_outcome
        self._outcomes: list[Outcome] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_ended = asyncio.Event()
        self._fault: BaseException | None = None
        self._began = 0.0

    async def run(self) -> Measured:
        gc.collect()
        gc.disable()  # Little here is cyclic, and a collection would look like the server's delay.
        cpu_began, self._began = process_time(), perf_counter()
        try:
            await (self._run_open() if self._is_open else self._run_closed())
        finally:
            duration_s, cpu_s = perf_counter() - self._began, process_time() - cpu_began
            gc.enable()
            self._endpoint.connections.close()
        num_cut_short = len(self._asks) - len(self._outcomes)
        return Measured(self._outcomes, self._began, duration_s, cpu_s, num_cut_short)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run_closed(self) -> None:
        left = iter(self._asks)

        async def client() -> None:
            for ask in left:
                await self._serve(ask)

        num_clients = min(self._max_concurrency or len(self._asks), len(self._asks))
        for _ in range(num_clients):
            self._start(client())
        await self._wait()

    async def _run_open(self) -> None:
        places = asyncio.Semaphore(self._max_concurrency or MAX_IN_FLIGHT)

        async def one(ask: Ask) -> None:
            try:
                await self._serve(ask)
            finally:
                places.release()

        async def arrivals() -> None:
            for ask in self._asks:
                delay_s = ask.due_s - (perf_counter() - self._began)
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                if self._max_concurrency is None and places.locked():
                    self._note(Outcome(ask.due_s, ask.due_s, failure=TOO_MANY))
                    continue
                await places.acquire()
                self._start(one(ask))

        self._start(arrivals())
        await self._wait()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """At a cost that does not grow with the number of others."""
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self.stop()
        if not self._tasks:
            self._all_ended.set()

    async def _wait(self) -> None:
        if self._tasks:
            await self._all_ended.wait()
        if self._fault is not None:
            raise self._fault

    async def _serve(self, ask: Ask) -> None:
        answer = self._answer_type()
        failure = None
        sent = perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._endpoint.connections.ask(ask.request, answer)
        except TimeoutError:
            failure = TIMED_OUT
        except ConnectionFailed as error:
            failure = str(error)
        sent_s, ended_s = sent - self._began, perf_counter() - self._began
        lag_s = max(0.0, sent_s - ask.due_s) if self._is_open else 0.0
        if failure is None:
            finished = answer.finish()
            failure = finished.failure
        if failure is not None:
            self._note(Outcome(sent_s, ended_s, lag_s, failure=failure))
            return
        usage = finished.usage
        counted = usage.completion_tokens or 0 if finished.has_usage else len(answer.stamps)
        self._note(
            Outcome(
                sent_s,
                answer.stamps[-1] - self._began,
                lag_s,
                answer.stamps,
                usage.prompt_tokens or 0,
                usage.num_cached_tokens,
                counted,
                counted != ask.num_output_tokens,
            )
        )

    def _note(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._on_outcome(outcome)
