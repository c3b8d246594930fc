"""The worker process: loads a model, then carries out the engine core's steps in their order.

PyTorch is imported when the actor starts, after the process has been tied to its supervisor.
"""

import contextlib
import gc
import os
import sys
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from tokenreel.actors.runtime.actor import Actor, ActorRuntime, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.topology import role_of
from tokenreel.actors.worker.compiling_ahead import compiling_ahead
from tokenreel.actors.worker.impossible_step import ImpossibleStep
from tokenreel.actors.worker.kernel_cache import use_kernel_cache
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.logprobs import encode_logprobs
from tokenreel.messages.steps import (
    SampledTokens,
    SequenceFailure,
    StepCompleted,
    StepScheduled,
)

if TYPE_CHECKING:
    from tokenreel.actors.worker.model_runner import ModelRunner, PendingStep

CORE = "engine_core"
MAX_TURN_NS = 50_000_000
"""Then the loop may look at signals."""


class WorkerStatistics(msgspec.Struct, frozen=True):
    num_steps: int
    num_malformed: int
    """Frames that held no step, or none that could be carried out."""


class WorkerActor(Actor):
    ROLE = "worker"
    DESTINATIONS = (CORE,)

    def __init__(self, runtime: ActorRuntime) -> None:
        super().__init__(runtime)
        self._runner: ModelRunner | None = None
        self._pending: deque[tuple[StepScheduled, int, PendingStep]] = deque()
        self._last_step_id = 0
        self._num_steps = 0
        self._num_malformed = 0
        self._is_waiting = False

    def start(self) -> None:
        # Idle OpenMP threads sleep instead of spinning: other actors need the cores. Read by the
        # library when it is loaded, with PyTorch.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        use_kernel_cache()
        # What is made meanwhile mostly stays; collections took a tenth of the compilation.
        gc.disable()
        try:
            with compiling_ahead(self.runtime.options) as ahead:
                from tokenreel.actors.worker.loading import load

                loaded = load(self.runtime.options, ahead)
        finally:
            gc.enable()
        # Nobody waits for a walk over it either, now or later: 0.2 s, 0.3 after a compilation.
        gc.freeze()
        self._runner = loaded.runner
        self.runtime.outboxes[CORE].send(encode(loaded.ready))
        self.runtime.ready(loaded.detail, loaded.runner.num_threads)

    def on_frames(self, frames: list[Frame]) -> None:
        end_ns = self.runtime.clock.monotonic_ns() + MAX_TURN_NS
        # `Shutdown` may have come with the last of them.
        while frames and self.runtime.exit_code is None:
            for frame in frames:
                step = self._read_step(frame)
                if step is not None:
                    self._launch(step)
                    self._send_finished()
            if self.runtime.clock.monotonic_ns() > end_ns:
                break
            # The core is a step ahead: the next one is mostly here by now, and need not be heard
            # of from the loop, which takes 20 us.
            frames = self.runtime.inbox.drain()
        self._wait_for_pending()

    def close(self) -> None:
        self._runner = None

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(self._num_steps, self._num_malformed)

    def _read_step(self, frame: Frame) -> StepScheduled | None:
        message = None
        with contextlib.suppress(MalformedMessage):
            message = decode(frame.payload)
        if (
            isinstance(message, StepScheduled)
            and message.step_id > self._last_step_id
            and role_of(frame.sender) == CORE
        ):
            return message
        self._num_malformed += 1
        return None

    def _launch(self, step: StepScheduled) -> None:
        assert self._runner is not None
        began_ns = self.runtime.clock.monotonic_ns()
        try:
            pending = self._runner.launch(step)
        except ImpossibleStep as error:
            self._refuse(step, began_ns, str(error))
            return
        self._last_step_id = step.step_id
        self._pending.append((step, began_ns, pending))

    def _refuse(self, step: StepScheduled, began_ns: int, reason: str) -> None:
        """The core waits for an answer to every step, in order: its sequences fail, all of them,
        because none has its KV now."""
        self._num_malformed += 1
        while self._pending:
            self._send_first()
        print(f"worker: step {step.step_id} cannot be carried out: {reason}", file=sys.stderr)
        message = f"the worker refused step {step.step_id}: {reason}"
        failures = [SequenceFailure(entry.seq_id, message) for entry in step.scheduled]
        self._complete(step, began_ns, [], failures)

    def _send_finished(self) -> None:
        while self._pending and self._pending[0][2].is_done():
            self._send_first()

    def _send_first(self) -> None:
        step, began_ns, pending = self._pending.popleft()
        output = pending.collect()
        attachment = encode_logprobs(output.logprobs)
        self._complete(step, began_ns, output.outputs, output.failures, attachment)
        self._num_steps += 1

    def _complete(
        self,
        step: StepScheduled,
        began_ns: int,
        outputs: list[SampledTokens],
        failures: list[SequenceFailure],
        attachment: bytes = b"",
    ) -> None:
        ended_ns = self.runtime.clock.monotonic_ns()
        completed = StepCompleted(step.step_id, outputs, began_ns, ended_ns, failures)
        self.runtime.outboxes[CORE].send(encode(completed), attachment)

    def _wait_for_pending(self) -> None:
        """On CUDA a step may still run: look again each turn of the loop, so that the next step's
        frame is taken in between."""
        if self._pending and not self._is_waiting:
            self._is_waiting = True
            self.runtime.call_soon(self._look_again)

    def _look_again(self) -> None:
        self._is_waiting = False
        self._send_finished()
        self._wait_for_pending()


if __name__ == "__main__":
    raise SystemExit(run_actor(WorkerActor))
