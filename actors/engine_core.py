"""The core's shell: takes frames, stamps and journals them, and sends what follows from them.

One turn: drain the inbox -> `Engine.apply` each event -> one write to the journal -> send. Nothing
leaves before the journal holds it. The shell decides one thing only: when a step begins.
"""

import sys
import traceback
from pathlib import Path

import msgspec

from tokenreel.actors.core.config import LOGIC_VERSION, ConfigError, CoreConfig, fitted
from tokenreel.actors.core.engine import Engine, EngineStatistics
from tokenreel.actors.runtime.actor import Actor, ActorRuntime, StartError, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import JournalError, Recorder, RecorderStatistics
from tokenreel.actors.runtime.topology import role_of
from tokenreel.messages.codec import CoreEvent, Effect, MalformedMessage, decode, encode, tag_of
from tokenreel.messages.journal import CORE_FAILED, EFFECT, IGNORABLE, INPUT, LOGPROBS
from tokenreel.messages.journal_meta import core_failed, encode_core_failed
from tokenreel.messages.lifecycle import EngineFacts, WorkerReady
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.outputs import OutputDelivered, StopStringMatched, TokensEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.steps import StepBegan, StepCompleted, StepScheduled

EXPECTED_SENDER: dict[type, str] = {
    AdmitRequest: "input_processor",
    AbortRequest: "frontend",
    StepCompleted: "worker",
    StopStringMatched: "detokenizer",
    OutputDelivered: "detokenizer",
}
"""Who may raise which event; StepBegan is the shell's own."""

DESTINATIONS_OF: dict[type, tuple[str, ...]] = {
    RequestAdmitted: ("detokenizer", "frontend"),
    RequestRejected: ("frontend",),
    RequestFinished: ("frontend",),
    StepScheduled: ("worker",),
    TokensEmitted: ("detokenizer",),
}
"""Effects that are not here are for the journal alone."""

MAX_DRAINS_PER_TURN = 8
RETRY_S = 0.001
"""How soon a step is tried again after a reader was too slow to take what it would bring."""
LINGER_S = 0.01
"""How long what came during a step may wait for the step's end, to share its write."""


class CoreStatistics(msgspec.Struct, frozen=True):
    """`stepping_ns` is the time during which a step was open. `journal_cpu_ns` is the processor
    time that writing the journal has cost: encoding what nobody is sent, checksums, writes.
    `sync_cpu_ns` is that of the thread that brings it to the disk. `journal_ns` is how long this
    thread was at it, which counts what else the machine did meanwhile."""

    engine: EngineStatistics
    journal: RecorderStatistics | None
    num_steps: int
    num_dropped_frames: int
    journal_cpu_ns: int
    sync_cpu_ns: int
    journal_ns: int
    stepping_ns: int


class EngineCoreActor(Actor):
    ROLE = "engine_core"
    DESTINATIONS = ("worker", "detokenizer", "frontend", "input_processor")

    def __init__(self, runtime: ActorRuntime) -> None:
        super().__init__(runtime)
        self._engine: Engine | None = None
        self._recorder: Recorder | None = None
        self._records: list[tuple[int, int, bytes | CoreEvent | Effect, int]] = []
        """The turn's: type, flags, payload, time. A message stands for its payload if nobody is
        sent it: the journal has to encode it."""
        self._outgoing: list[tuple[str, bytes, bytes]] = []
        self._has_stepped = False
        """This turn has begun or completed a step."""
        self._lingering = False
        self._retrying = False
        self._is_sound = True
        """False once `Engine.apply` has raised: nothing follows from its state any more."""
        self._num_dropped = 0
        self._num_steps = 0
        self._journal_cpu_ns = self._journal_ns = 0
        self._stepping_ns = 0
        self._stepping_since: int | None = None

    def start(self) -> None:
        """Nothing until the worker says what fits its memory."""

    def on_frames(self, frames: list[Frame]) -> None:
        self._take_all(frames)
        for _ in range(MAX_DRAINS_PER_TURN):
            frames = self.runtime.inbox.drain()
            if not frames:
                break
            self._take_all(frames)
        self._begin_steps()
        self._end_turn_soon()

    def close(self) -> None:
        if self._recorder is None:
            return
        try:
            self._write_journal()
            self._recorder.close(tidily=self._is_sound)
        except JournalError as error:
            print(error, file=sys.stderr, flush=True)
            self.runtime.exit_code = 1
        statistics, journal = self.statistics(), self._recorder.statistics()
        told = (
            f"journal: {journal.num_records} records, {journal.num_bytes} bytes in "
            f"{self._recorder.run_dir}; {statistics.num_steps} steps"
        )
        if statistics.stepping_ns:
            percent = 100 / statistics.stepping_ns
            told += (
                f", of whose time writing it took {percent * statistics.journal_cpu_ns:.2f} % in "
                f"processor time ({percent * statistics.journal_ns:.2f} % by the clock), syncing "
                f"it {percent * statistics.sync_cpu_ns:.2f} % in a thread of its own"
            )
        print(told, flush=True)

    def statistics(self) -> CoreStatistics:
        """Raises RuntimeError before the worker is ready."""
        if self._engine is None:
            raise RuntimeError("the engine does not exist before the worker is ready")
        stepping_ns = self._stepping_ns
        if self._stepping_since is not None:
            stepping_ns += self.runtime.clock.monotonic_ns() - self._stepping_since
        journal = self._recorder.statistics() if self._recorder else None
        return CoreStatistics(
            engine=self._engine.statistics(),
            journal=journal,
            num_steps=self._num_steps,
            num_dropped_frames=self._num_dropped,
            journal_cpu_ns=self._journal_cpu_ns,
            sync_cpu_ns=journal.sync_cpu_ns if journal else 0,
            journal_ns=self._journal_ns,
            stepping_ns=stepping_ns,
        )

    # What comes in.

    def _take_all(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        """A frame that says nothing it may say is counted and dropped, never asserted upon."""
        try:
            message = decode(frame.payload)
        except MalformedMessage:
            self._num_dropped += 1
            return
        sender = role_of(frame.sender)
        if isinstance(message, WorkerReady) and sender == "worker" and self._engine is None:
            self._come_up(message)
        elif self._engine is not None and EXPECTED_SENDER.get(type(message)) == sender:
            self._apply(message, frame.payload, frame.attachment)  # type: ignore[arg-type]
        else:
            self._num_dropped += 1

    def _begin_steps(self) -> None:
        engine = self._engine
        while engine is not None and self._is_sound and engine.wants_step():
            if not self._readers_keep_up():
                self._retry_soon()
                return
            event = StepBegan(engine.next_step_id)
            self._apply(event, event, b"")

    def _retry_soon(self) -> None:
        if not self._retrying:
            self._retrying = True
            self.runtime.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._begin_steps()
        self._end_turn()

    def _readers_keep_up(self) -> bool:
        """A step's output must find room; a slow reader slows the steps down, and loses nothing.
        The worker need not be asked: it holds the open steps at most, and they are few."""
        return self.runtime.outboxes["detokenizer"].is_writable()

    def _apply(self, event: CoreEvent, payload: bytes | StepBegan, attachment: bytes) -> None:
        assert self._engine is not None
        now_ns = self.runtime.clock.monotonic_ns()
        self._has_stepped |= isinstance(event, StepBegan | StepCompleted)
        self._records.append((tag_of(event), INPUT, payload, now_ns))
        if attachment:
            self._records.append((LOGPROBS, IGNORABLE, attachment, now_ns))
        try:
            effects = self._engine.apply(event)
        except Exception as error:
            self._record_failure(error, now_ns)
            raise
        for effect in effects:
            self._book(effect, attachment, now_ns)
        self._keep_step_time(now_ns)

    def _book(self, effect: Effect, attachment: bytes, now_ns: int) -> None:
        """Encodes an effect once, for the journal and for whoever it goes to."""
        destinations = DESTINATIONS_OF.get(type(effect))
        if destinations is None:
            self._records.append((tag_of(effect), EFFECT, effect, now_ns))
            return
        payload = encode(effect)
        self._records.append((tag_of(effect), EFFECT, payload, now_ns))
        for destination in destinations:
            beside = attachment if isinstance(effect, TokensEmitted) else b""
            self._outgoing.append((destination, payload, beside))
        self._num_steps += isinstance(effect, StepScheduled)

    def _keep_step_time(self, now_ns: int) -> None:
        assert self._engine is not None
        if self._engine.open_steps:
            if self._stepping_since is None:
                self._stepping_since = now_ns
        elif self._stepping_since is not None:
            self._stepping_ns += now_ns - self._stepping_since
            self._stepping_since = None

    # What goes out.

    def _end_turn_soon(self) -> None:
        """While the worker computes and no further step may begin, the core can do nothing for
        anybody: what came meanwhile goes out with what the step puts out, in one write."""
        is_computing = self._engine is not None and self._engine.open_steps
        if self._has_stepped or not is_computing or self._recorder is None:
            self._end_turn()
        elif self._records and not self._lingering:
            self._lingering = True
            self.runtime.call_later(LINGER_S, self._end_lingering)

    def _end_lingering(self) -> None:
        self._lingering = False
        self._end_turn()

    def _end_turn(self) -> None:
        self._has_stepped = False
        try:
            self._write_journal()
        except JournalError as error:
            self._outgoing.clear()  # what the journal does not hold, nobody may see
            self.runtime.fail(str(error))
        outgoing, self._outgoing = self._outgoing, []
        # The worker may stand still; what wakes the others may also put this thread to sleep.
        outgoing.sort(key=_is_for_others)
        for destination, payload, attachment in outgoing:
            self.runtime.outboxes[destination].send(payload, attachment)

    def _write_journal(self) -> None:
        records, self._records = self._records, []
        recorder, engine = self._recorder, self._engine
        if recorder is None or engine is None or not records:
            return
        clock = self.runtime.clock
        began_ns, began_cpu_ns = clock.monotonic_ns(), clock.thread_cpu_ns()
        recorder.extend(
            [
                (kind, flags, payload if isinstance(payload, bytes) else encode(payload), at_ns)
                for kind, flags, payload, at_ns in records
            ]
        )
        recorder.commit()
        if recorder.should_rotate() and self._is_sound:
            recorder.rotate(engine.snapshot())
        self._journal_cpu_ns += clock.thread_cpu_ns() - began_cpu_ns
        self._journal_ns += clock.monotonic_ns() - began_ns

    def _record_failure(self, error: Exception, now_ns: int) -> None:
        """The input that the core could not digest is what a replay needs most."""
        failure = encode_core_failed(core_failed(error, traceback.format_exc()))
        self._records.append((CORE_FAILED, 0, failure, now_ns))
        self._is_sound = False
        self._write_journal()
        self._outgoing.clear()

    # How it comes up.

    def _come_up(self, facts: WorkerReady) -> None:
        config = _config(self.runtime.options, facts)
        self._engine = Engine(config)
        # Counts every block, 1 us each: now, and not while the first request waits.
        self._engine.state_digest()
        self._recorder = _recorder(self.runtime.options, config, facts, self.runtime)
        self._announce(config, facts)
        place = str(self._recorder.run_dir) if self._recorder else "none"
        self.runtime.ready(
            f"{config.num_blocks} blocks of {config.block_size} tokens, "
            f"max_model_len {config.max_model_len}, journal {place}"
        )

    def _announce(self, config: CoreConfig, facts: WorkerReady) -> None:
        announcement = EngineFacts(
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_in_flight=config.max_in_flight,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            vocab_size=config.vocab_size,
            model_hash=facts.model_hash,
        )
        for destination in ("input_processor", "frontend", "detokenizer"):
            self._outgoing.append((destination, encode(announcement), b""))


def _is_for_others(outgoing: tuple[str, bytes, bytes]) -> bool:
    return outgoing[0] != "worker"


def _config(options: EngineOptions, facts: WorkerReady) -> CoreConfig:
    """Raises StartError if the limits cannot hold together."""
    try:
        return fitted(
            CoreConfig(
                num_blocks=facts.num_blocks,
                block_size=facts.block_size,
                max_model_len=facts.max_model_len,
                max_num_seqs=options.max_num_seqs,
                max_num_batched_tokens=options.max_num_batched_tokens,
                max_in_flight=options.max_num_seqs + options.max_num_queued_reqs,
                vocab_size=facts.vocab_size,
                enable_prefix_caching=options.enable_prefix_caching,
                scheduling_policy=options.scheduling_policy,
                pipeline_depth=options.pipeline_depth,
            )
        )
    except ConfigError as error:
        raise StartError(str(error)) from error


def _recorder(
    options: EngineOptions, config: CoreConfig, facts: WorkerReady, runtime: ActorRuntime
) -> Recorder | None:
    if options.journal_dir is None:
        return None
    meta = describe_run(
        config,
        LOGIC_VERSION,
        facts={
            "model_hash": facts.model_hash,
            "served_model_name": options.served_model_name,
            "device": facts.device,
            "dtype": facts.dtype,
            "quantization": options.quantization,
            "batch_invariant": facts.is_batch_invariant,
        },
        seeds={"seed": options.seed},
    )
    try:
        recorder = Recorder.create(
            Path(options.journal_dir),
            meta,
            epoch=runtime.epoch,
            sync=options.journal_sync,  # type: ignore[arg-type]
            max_bytes=options.journal_max_bytes,
            on_error=options.on_journal_error,  # type: ignore[arg-type]
            clock=runtime.clock,
        )
    except JournalError as error:
        raise StartError(str(error)) from error
    runtime.topology.link_journal(recorder.run_dir)
    return recorder


if __name__ == "__main__":
    raise SystemExit(run_actor(EngineCoreActor))
