"""Writes the journal of a live run: the only code that does.

Per turn of the shell: `extend` by its records, then `commit`, which is one write; only then may
effects leave. What `commit` returned for survives the death of the process.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from tokenreel.actors.runtime.clock import Clock, SystemClock
from tokenreel.actors.runtime.journal_directory import (
    is_run_id,
    lock_run,
    make_room,
    segment_name,
)
from tokenreel.actors.runtime.journal_sync import BackgroundSync, sync_directory
from tokenreel.messages.journal import (
    AFTER_GAP,
    MAX_PAYLOAD_BYTES,
    META,
    RUN_ENDED,
    SNAPSHOT,
    PendingRecord,
    SegmentEncoder,
    SegmentHeader,
    split_snapshot,
)

SyncMode = Literal["none", "interval", "step"]
ErrorPolicy = Literal["stop", "gap"]

MIN_JOURNAL_BYTES = 1 << 20
MAX_ROTATION_BYTES = 64 << 20
SEGMENTS_PER_BOUND = 8
FIRST_RETRY_NS = 1_000_000_000
MAX_RETRY_NS = 64_000_000_000


class JournalError(Exception):
    """The journal could not be written: one line that says what to do."""


class RecorderStatistics(msgspec.Struct, frozen=True):
    num_records: int
    num_bytes: int
    num_writes: int
    num_segments: int
    num_gaps: int
    num_records_lost: int
    is_recording: bool
    sync_cpu_ns: int
    """Processor time of the thread that brings the bytes to the disk."""


class Recorder:
    """The journal of one run, from `create` to `close`. For one thread."""

    def __init__(
        self,
        run_dir: Path,
        lock: int,
        meta: bytes,
        *,
        epoch: int,
        sync: SyncMode,
        max_bytes: int,
        on_error: ErrorPolicy,
        clock: Clock,
        notify: Callable[[str], None],
    ) -> None:
        """Use `create`."""
        self.run_dir = run_dir
        self.run_id = run_dir.name
        self.rotation_bytes = min(max_bytes // SEGMENTS_PER_BOUND, MAX_ROTATION_BYTES)
        self._lock = lock
        self._meta = meta
        self._epoch = epoch
        self._sync_mode: SyncMode = sync
        self._max_bytes = max_bytes
        self._on_error: ErrorPolicy = on_error
        self._clock = clock
        self._notify = notify
        self._pending: list[tuple[int, int, bytes, int]] = []
        self._next_seq = 1
        self._number = 0
        # All of these belong to the segment being written; without one (`_descriptor` -1) the run
        # is in a gap.
        self._descriptor = -1
        self._encoder: SegmentEncoder
        self._sync: BackgroundSync | None = None
        self._committed_length = 0
        self._committed_crc = 0
        self._rotate_at = 0
        self._retry_at_ns = 0
        self._retry_ns = FIRST_RETRY_NS
        self._closed = False
        self._num_records = self._num_bytes = self._num_writes = 0
        self._num_segments = self._num_gaps = self._num_records_lost = 0
        self._sync_cpu_ns = 0

    @classmethod
    def create(
        cls,
        journal_dir: Path,
        meta: bytes,
        *,
        run_id: str | None = None,
        epoch: int = 1,
        sync: SyncMode = "interval",
        max_bytes: int = 1 << 30,
        on_error: ErrorPolicy = "stop",
        clock: Clock | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> "Recorder":
        """Start the journal of a new run below `journal_dir`, which is created if need be.

        `meta` is the META payload (`code_identity.describe_run`). `max_bytes` bounds all journals
        in `journal_dir` together. `notify` gets the lines that a person must see. Raises
        JournalError.
        """
        clock = clock or SystemClock()
        run_id = run_id or _new_run_id(clock.wall_ns())
        if not is_run_id(run_id):
            raise JournalError(f"the run id {run_id!r} is not 1 to 32 letters, digits and dashes")
        if max_bytes < MIN_JOURNAL_BYTES:
            raise JournalError(
                f"--journal-max-bytes is {max_bytes}; it must be at least {MIN_JOURNAL_BYTES}"
            )
        run_dir = journal_dir / run_id
        try:
            journal_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            run_dir.mkdir(mode=0o700)
            lock = lock_run(run_dir)
        except OSError as error:
            raise JournalError(
                f"cannot create the journal directory {run_dir}: {error.strerror}; "
                "choose another with --journal-dir, or run with --no-journal"
            ) from error
        if lock is None:
            raise JournalError(f"{run_dir} is being written by another process")
        recorder = cls(
            run_dir,
            lock,
            meta,
            epoch=epoch,
            sync=sync,
            max_bytes=max_bytes,
            on_error=on_error,
            clock=clock,
            notify=notify or _print_to_stderr,
        )
        try:
            recorder._begin_segment([], flags=0)
        except OSError as error:
            os.close(lock)
            raise JournalError(_advice(run_dir, error)) from error
        return recorder

    def append(self, record_type: int, flags: int, payload: bytes, t_ns: int) -> int:
        """Add a record to the next write; returns its seq. `t_ns` is the monotonic clock's."""
        self.extend([(record_type, flags, payload, t_ns)])
        return self._next_seq + len(self._pending) - 1

    def extend(self, records: list[tuple[int, int, bytes, int]]) -> None:
        """Add many at once: the type, flags, payload and time of each."""
        for _, _, payload, _ in records:
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise JournalError(
                    f"a record of {len(payload)} bytes is over the journal's {MAX_PAYLOAD_BYTES}"
                )
        self._pending += records

    def commit(self) -> None:
        """Write everything appended, at once. Under the policy "stop" raises JournalError if that
        failed: nothing of this turn may leave then. Under "gap" the records are lost, and counted.
        """
        pending = self._pending
        if not pending:
            return
        if self._closed or (self._descriptor < 0 and self._on_error == "stop"):
            raise JournalError(f"the journal in {self.run_dir} has ended; nothing is recorded")
        first_seq = self._next_seq
        self._next_seq = first_seq + len(pending)
        self._pending = []
        if self._descriptor < 0:
            self._num_records_lost += len(pending)
            return
        try:
            self._check_background_sync()
            data = self._encoder.encode(pending, first_seq)
            self._write(data)
        except OSError as error:
            self._num_records_lost += len(pending)
            self._handle_failure(error)
            return
        self._num_records += len(pending)

    def should_rotate(self) -> bool:
        """Whether the shell should call `rotate` now, between two commits: the segment is full, or
        it is time to try again to end a gap."""
        if self._descriptor >= 0:
            return self._committed_length >= self._rotate_at
        return not self._closed and self._clock.monotonic_ns() >= self._retry_at_ns

    def rotate(self, snapshot: bytes) -> None:
        """Begin a new segment, which starts with this snapshot of the core: the state after the
        last committed record. Raises JournalError as `commit` does."""
        self.commit()
        parts = split_snapshot(snapshot)
        in_gap = self._descriptor < 0
        try:
            self._check_background_sync()
            self._begin_segment(parts, flags=AFTER_GAP if in_gap else 0)
        except OSError as error:
            self._handle_failure(error)
            return
        if in_gap:
            self._retry_ns = FIRST_RETRY_NS
            self._notify(
                f"journal: recording again in {segment_name(self._epoch, self._number - 1)}; "
                f"{self._num_records_lost} records were lost since the run began"
            )

    def close(self, *, tidily: bool = True) -> None:
        """End the journal: a RUN_ENDED record if the run ended `tidily`, everything on disk (unless
        `sync` is "none"), the lock given back. Calling it again does nothing. Raises JournalError.
        """
        if self._closed:
            return
        try:
            if self._descriptor >= 0 and tidily:
                self.append(RUN_ENDED, 0, b"", self._clock.monotonic_ns())
                self.commit()
            if self._descriptor >= 0:
                self._finish_segment()
        except OSError as error:
            raise JournalError(_advice(self.run_dir, error)) from error
        finally:
            self._abandon_segment()
            self._closed = True
            os.close(self._lock)

    def statistics(self) -> RecorderStatistics:
        return RecorderStatistics(
            num_records=self._num_records,
            num_bytes=self._num_bytes,
            num_writes=self._num_writes,
            num_segments=self._num_segments,
            num_gaps=self._num_gaps,
            num_records_lost=self._num_records_lost,
            is_recording=self._descriptor >= 0,
            sync_cpu_ns=self._sync_cpu_ns + (self._sync.cpu_ns if self._sync is not None else 0),
        )

    def _write(self, data: bytes) -> None:
        """One write; more only if the kernel took a part. Cuts a part away that cannot be
        completed, so that the file ends with a commit mark."""
        num_bytes = len(data)
        try:
            written = os.write(self._descriptor, data)
            while written < num_bytes:
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._committed_length)
            except OSError:  # readers know a torn tail
                pass
            raise
        self._committed_length += num_bytes
        self._committed_crc = self._encoder.last_crc
        self._num_bytes += num_bytes
        self._num_writes += 1
        if self._sync is not None:
            self._sync.written(num_bytes)
        elif self._sync_mode == "step":
            os.fdatasync(self._descriptor)

    def _begin_segment(self, snapshot_parts: list[bytes], flags: int) -> None:
        """Create the next segment and write its start; only when that is done does it become the
        current one, so that a failure leaves everything as it was."""
        now_ns = self._clock.monotonic_ns()
        header = SegmentHeader(
            run_id=self.run_id,
            epoch=self._epoch,
            number=self._number,
            first_seq=self._next_seq,
            wall_ns=self._clock.wall_ns(),
            monotonic_ns=now_ns,
            salt=secrets.randbits(32),
            flags=flags,
            previous_length=self._committed_length,
            previous_crc=self._committed_crc,
        )
        records = [PendingRecord(META, 0, self._meta, now_ns)]
        records += [PendingRecord(SNAPSHOT, 0, part, now_ns) for part in snapshot_parts]
        encoder = SegmentEncoder(header)
        start = encoder.header_bytes + encoder.encode(records, self._next_seq)
        room = self._max_bytes - self.rotation_bytes - len(start)
        make_room(self.run_dir.parent, self.run_dir, room)
        descriptor = self._create_file(start)
        self._enter_segment(descriptor, encoder, len(start), len(records))

    def _create_file(self, start: bytes) -> int:
        path = self.run_dir / segment_name(self._epoch, self._number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            written = 0
            while written < len(start):
                written += os.write(descriptor, memoryview(start)[written:])
            if self._sync_mode == "step":
                os.fdatasync(descriptor)
                sync_directory(self.run_dir)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor

    def _enter_segment(
        self, descriptor: int, encoder: SegmentEncoder, length: int, num_records: int
    ) -> None:
        if self._sync is not None:
            self._sync.switch(descriptor)  # it syncs and closes the old one
        else:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            if self._sync_mode == "interval":
                self._sync = BackgroundSync(descriptor, self.run_dir)
        self._descriptor = descriptor
        self._encoder = encoder
        self._committed_length = length
        self._committed_crc = encoder.last_crc
        self._rotate_at = length + self.rotation_bytes
        self._next_seq += num_records
        self._number += 1
        self._num_records += num_records
        self._num_bytes += length
        self._num_writes += 1
        self._num_segments += 1

    def _finish_segment(self) -> None:
        sync = self._sync
        if sync is not None:
            self._stop_sync(sync)
            if sync.error is not None:
                raise sync.error
        elif self._sync_mode == "step":
            os.fdatasync(self._descriptor)

    def _abandon_segment(self) -> None:
        if self._sync is not None:
            self._stop_sync(self._sync)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _stop_sync(self, sync: BackgroundSync) -> None:
        self._sync = None
        sync.stop()
        self._sync_cpu_ns += sync.cpu_ns

    def _check_background_sync(self) -> None:
        if self._sync is not None and self._sync.error is not None:
            raise self._sync.error

    def _handle_failure(self, error: OSError) -> None:
        was_recording = self._descriptor >= 0
        self._abandon_segment()
        if self._on_error == "stop":
            raise JournalError(_advice(self.run_dir, error)) from error
        if was_recording:
            self._num_gaps += 1
            self._notify(
                f"journal: {_advice(self.run_dir, error)}. "
                "NOT RECORDING: the run goes on with a gap in its journal (--on-journal-error gap)"
            )
        self._retry_at_ns = self._clock.monotonic_ns() + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, MAX_RETRY_NS)


def _new_run_id(wall_ns: int) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(wall_ns // 1_000_000_000))
    return f"{moment}-{secrets.token_hex(3)}"


def _advice(run_dir: Path, error: OSError) -> str:
    return (
        f"cannot write the journal in {run_dir}: {error.strerror or error}; make room there, "
        "choose another place with --journal-dir, or lower --journal-max-bytes"
    )


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
