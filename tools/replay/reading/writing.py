"""Writes the journal of a run that no engine recorded: a redacted, shrunk or played one.

Equal arguments give equal bytes, so that a kept journal can be made anew. The directory appears
whole or not at all. Runs of a live engine are `actors.runtime.recorder`'s.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.journal_directory import is_run_id, segment_name
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import (
    CORE_FAILED,
    EFFECT,
    INPUT,
    MAX_PAYLOAD_BYTES,
    MAX_SEGMENT_BYTES,
    META,
    REDACTED,
    RUN_ENDED,
    SNAPSHOT,
    PendingRecord,
    SegmentEncoder,
    SegmentHeader,
    split_snapshot,
)
from tokenreel.messages.journal_meta import CoreFailed, core_failed, encode_core_failed

EVENT_NS = 1_000_000
"""How far apart the events of a run stand that has no clock of its own."""


class RunExists(Exception):
    """Something is at the place where the run should be written; it is left alone."""


class Identity(NamedTuple):
    """What distinguishes one run from another with the same events."""

    run_id: str = "written"
    salt: int = 0
    wall_ns: int = 0
    monotonic_ns: int = 0
    epoch: int = 1


class RunWriter:
    """The segments of one run, in a directory that must not exist yet.

    A context manager: leaving it puts the directory in place, an exception leaves nothing behind.
    Raises RunExists, and OSError as the file system does.
    """

    def __init__(
        self,
        run_dir: Path,
        meta: bytes,
        identity: Identity | None = None,
        *,
        is_redacted: bool = False,
    ) -> None:
        """`meta` is a META payload (`code_identity.describe_run`). With `is_redacted`, every record
        carries the flag REDACTED."""
        self.run_dir = run_dir
        self.num_bytes = 0
        self.num_records = 0
        self._meta = meta
        self._identity = identity or Identity()
        if not is_run_id(self._identity.run_id):
            raise ValueError(f"{self._identity.run_id!r} is no run id")
        self._flags = REDACTED if is_redacted else 0
        self._staging = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.partial")
        self._pending: list[PendingRecord] = []
        self._header: SegmentHeader | None = None
        self._encoder: SegmentEncoder
        self._descriptor = -1
        self._length = 0
        self._next_seq = 1

    def __enter__(self) -> "RunWriter":
        if os.path.lexists(self.run_dir):
            raise RunExists(f"{self.run_dir} exists already; name a place where nothing is")
        self._staging.mkdir(mode=0o700)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close_file()
            shutil.rmtree(self._staging, ignore_errors=True)

    def begin_segment(
        self,
        snapshot: bytes | None = None,
        t_ns: int | None = None,
        *,
        number: int | None = None,
        first_seq: int | None = None,
        flags: int = 0,
    ) -> None:
        """Start a segment; every one but a run's first needs the `snapshot` of the core. Without
        `number` and `first_seq` it follows the one before it. The first starts by itself."""
        self.commit()
        identity, previous = self._identity, self._header
        t_ns = identity.monotonic_ns if t_ns is None else t_ns
        if number is None:
            number = previous.number + 1 if previous else 0
        if first_seq is not None:
            self._next_seq = max(first_seq, self._next_seq)
        header = SegmentHeader(
            run_id=identity.run_id,
            epoch=identity.epoch,
            number=number,
            first_seq=self._next_seq,
            wall_ns=identity.wall_ns + (t_ns - identity.monotonic_ns if identity.wall_ns else 0),
            monotonic_ns=t_ns,
            salt=(identity.salt + number) & 0xFFFF_FFFF,
            flags=flags,
            previous_length=self._length if previous else 0,
            previous_crc=self._encoder.last_crc if previous else 0,
        )
        self._open_file(header)
        self.append(META, 0, self._meta, t_ns)
        for part in split_snapshot(snapshot) if snapshot is not None else []:
            self.append(SNAPSHOT, 0, part, t_ns)
        self.commit()

    def append(self, record_type: int, flags: int, payload: bytes, t_ns: int) -> None:
        """Add one record to the next write."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a record of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
        if self._header is None:
            self.begin_segment(t_ns=t_ns)
        self._pending.append(PendingRecord(record_type, flags | self._flags, payload, t_ns))

    def write(self, t_ns: int, event: CoreEvent, effects: Iterable[Effect]) -> None:
        """An input and what followed from it, as one write."""
        self.append(tag_of(event), INPUT, encode(event), t_ns)
        for effect in effects:
            self.append(tag_of(effect), EFFECT, encode(effect), t_ns)
        self.commit()

    def write_failure(self, t_ns: int, event: CoreEvent, failure: CoreFailed) -> None:
        """An input at which the core raised; nothing may follow it."""
        self.append(tag_of(event), INPUT, encode(event), t_ns)
        self.append(CORE_FAILED, 0, encode_core_failed(failure), t_ns)
        self.commit()

    def end(self, t_ns: int) -> None:
        """The run ended tidily."""
        self.append(RUN_ENDED, 0, b"", t_ns)
        self.commit()

    def commit(self) -> None:
        """Write everything appended; its last record carries the commit mark."""
        if not self._pending:
            return
        data = self._encoder.encode(self._pending, self._next_seq)
        self._next_seq += len(self._pending)
        self.num_records += len(self._pending)
        self._pending = []
        self._write(data)

    def complete(self) -> Path:
        """Everything is written: a directory with all of it, to look at before it is put in place,
        which leaving the context does."""
        if self._header is None:
            self.begin_segment()
        self.commit()
        self._close_file()
        return self._staging

    def _open_file(self, header: SegmentHeader) -> None:
        self._close_file()
        path = self._staging / segment_name(header.epoch, header.number)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._header, self._encoder = header, SegmentEncoder(header)
        self._length = 0
        self._write(self._encoder.header_bytes)

    def _write(self, data: bytes) -> None:
        self._length += len(data)
        self.num_bytes += len(data)
        if self._length > MAX_SEGMENT_BYTES:
            raise ValueError(f"a segment of more than {MAX_SEGMENT_BYTES} bytes")
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _finish(self) -> None:
        self.complete()
        try:
            self._staging.rename(self.run_dir)
        except OSError:
            if os.path.lexists(self.run_dir):
                raise RunExists(f"{self.run_dir} appeared while it was being written") from None
            raise

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Capture:
    """Writes down what an engine does: an observer for `actors.core.scenario.Player`, or called
    with any engine, event and effects. Events without a time stand EVENT_NS apart."""

    def __init__(self, writer: RunWriter, events_per_segment: int = 0) -> None:
        """A segment with a snapshot begins after every `events_per_segment` events; 0: never."""
        self._writer = writer
        self._events_per_segment = events_per_segment
        self.num_events = 0
        self.t_ns = 0

    def __call__(
        self, engine: Engine, event: CoreEvent, effects: list[Effect], t_ns: int | None = None
    ) -> None:
        self._pass_time(t_ns)
        self._writer.write(self.t_ns, event, effects)
        self.num_events += 1
        if self._events_per_segment and self.num_events % self._events_per_segment == 0:
            self._writer.begin_segment(engine.snapshot(), self.t_ns)

    def failed(self, event: CoreEvent, error: Exception, t_ns: int | None = None) -> None:
        """The engine raised at `event`."""
        self._pass_time(t_ns)
        self._writer.write_failure(self.t_ns, event, core_failed(error, ""))

    def _pass_time(self, t_ns: int | None) -> None:
        self.t_ns = self.t_ns + EVENT_NS if t_ns is None else t_ns


def write_run(
    run_dir: Path,
    engine: Engine,
    events: Iterable[tuple[int, CoreEvent]],
    identity: Identity | None = None,
    *,
    facts: dict[str, object] | None = None,
    events_per_segment: int = 0,
    is_redacted: bool = False,
    has_ended: bool = True,
) -> CoreFailed | None:
    """The journal of `engine`, which is new, being told `events` with their `t_ns`. If it raises,
    the journal ends with that failure, which is returned."""
    meta = run_meta(engine.config, facts)
    with RunWriter(run_dir, meta, identity, is_redacted=is_redacted) as writer:
        capture = Capture(writer, events_per_segment)
        for t_ns, event in events:
            try:
                effects = engine.apply(event)
            except Exception as error:
                capture.failed(event, error, t_ns)
                return core_failed(error, "")
            capture(engine, event, effects, t_ns)
        if has_ended:
            writer.end(capture.t_ns)
    return None


def run_meta(configuration: msgspec.Struct, facts: dict[str, object] | None = None) -> bytes:
    """The META payload of a run of the installed core."""
    return describe_run(configuration, LOGIC_VERSION, facts)
