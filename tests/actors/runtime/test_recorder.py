"""What `commit` returned for is in the journal, whatever befalls process, disk and neighbours."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tokenreel.actors.runtime.journal_directory import is_live, segments_of
from tokenreel.actors.runtime.recorder import JournalError, Recorder
from tokenreel.messages.journal import (
    AFTER_GAP,
    EFFECT,
    INPUT,
    LAST_OF_WRITE,
    MAX_PAYLOAD_BYTES,
    META,
    RUN_ENDED,
    SNAPSHOT,
    Record,
    join_snapshot,
)
from tokenreel.messages.journal_reader import SegmentReader, check_order, check_segment

MIB = 1 << 20


class ManualClock:
    def __init__(self) -> None:
        self.now_ns = 1_000

    def thread_cpu_ns(self) -> int:
        return 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return 1_767_225_600_000_000_000 + self.now_ns


def read_run(run_dir: Path) -> list[list[Record]]:
    """The records per segment, after everything about the segments was checked."""
    paths = [segment.path for segment in segments_of(run_dir)]
    check_order([check_segment(path.read_bytes(), path.name) for path in paths])
    return [list(SegmentReader(path.read_bytes(), path.name)) for path in paths]


def write_turn(recorder: Recorder, *payloads: bytes) -> list[int]:
    seqs = [
        recorder.append(5 if i == 0 else 35, INPUT if i == 0 else EFFECT, payload, 7)
        for i, payload in enumerate(payloads)
    ]
    recorder.commit()
    return seqs


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond; a write over it is cut short, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("sync", ["none", "interval", "step"])
def test_a_run_is_read_back_as_it_was_recorded(tmp_path: Path, sync: str) -> None:
    recorder = Recorder.create(tmp_path / "journals", b"the meta", sync=sync)  # type: ignore[arg-type]
    assert write_turn(recorder, b"input", b"effect", b"") == [2, 3, 4]
    assert write_turn(recorder, b"x" * 5000) == [5]
    recorder.close()
    [records] = read_run(recorder.run_dir)
    assert [record.payload for record in records] == [
        *(b"the meta", b"input", b"effect", b"", b"x" * 5000),
        b"",
    ]
    assert [record.seq for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.type for record in records] == [META, 5, 35, 35, 5, RUN_ENDED]
    statistics = recorder.statistics()
    assert (statistics.num_records, statistics.num_writes, statistics.num_segments) == (6, 4, 1)


def test_only_the_owner_can_enter_a_run_and_read_it(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path / "journals", b"", run_id="one")
    recorder.close()
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "journals", *(tmp_path / "journals").rglob("*")]
    }
    assert modes == {"journals": 0o700, "one": 0o700, "lock": 0o600, "engine-1-0.tkr": 0o600}


def test_a_commit_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.create(tmp_path, b"")
    real_write, sizes = os.write, []

    def counted(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    write_turn(recorder, *[b"payload"] * 50)
    recorder.commit()
    assert sizes == [50 * 40]
    monkeypatch.undo()
    recorder.close()


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.create(tmp_path, b"", sync="none")
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:11]))
    write_turn(recorder, b"one", b"two" * 30)
    recorder.rotate(b"snapshot" * 10)
    monkeypatch.undo()
    recorder.close()
    first, second = read_run(recorder.run_dir)
    assert [record.payload for record in first[1:]] == [b"one", b"two" * 30]
    assert [record.type for record in second] == [META, SNAPSHOT, RUN_ENDED]


def test_a_rotation_starts_a_segment_with_meta_and_snapshot(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, b"meta", max_bytes=MIB)
    snapshots: list[bytes] = []
    while len(snapshots) < 3:
        write_turn(recorder, b"i" * 1000, b"e" * 1000)
        if recorder.should_rotate():
            snapshots.append(b"state %d" % len(snapshots))
            recorder.rotate(snapshots[-1])
            assert not recorder.should_rotate()
    recorder.close()
    first, *others = read_run(recorder.run_dir)
    assert first[1].type != SNAPSHOT
    for records, snapshot in zip(others, snapshots, strict=True):
        assert records[0].type == META and records[0].payload == b"meta"
        assert records[1].type == SNAPSHOT and records[1].flags & LAST_OF_WRITE
        assert join_snapshot([records[1].payload]) == snapshot


def test_journals_stay_within_their_bound(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, b"meta", max_bytes=MIB, sync="none")
    most = 0
    for _ in range(3000):
        write_turn(recorder, b"i" * 1000)
        if recorder.should_rotate():
            recorder.rotate(b"s" * 5000)
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("*.tkr")))
    recorder.close()
    assert MIB // 2 < most <= MIB
    remaining = [segment.number for segment in segments_of(recorder.run_dir)]
    assert remaining[0] > 0
    assert remaining == list(range(remaining[0], remaining[-1] + 1))
    assert all(records[1].type == SNAPSHOT for records in read_run(recorder.run_dir))


def run_of(tmp_path: Path, run_id: str, num_bytes: int, age: int) -> Path:
    recorder = Recorder.create(tmp_path, b"", run_id=run_id, sync="none")
    write_turn(recorder, bytes(num_bytes))
    recorder.close()
    for path in recorder.run_dir.iterdir():
        os.utime(path, (10**9 - age, 10**9 - age))
    return recorder.run_dir


def test_the_oldest_finished_runs_go_first_and_only_as_many_as_needed(tmp_path: Path) -> None:
    newer = run_of(tmp_path, "a-newer", 340_000, age=10)
    oldest = run_of(tmp_path, "z-oldest", 340_000, age=30)
    older = run_of(tmp_path, "m-older", 340_000, age=20)
    recorder = Recorder.create(tmp_path, b"", max_bytes=MIB, sync="none")
    assert [path.exists() for path in (oldest, older, newer)] == [False, True, True]
    recorder.close()


def test_a_live_run_of_another_process_is_never_deleted(tmp_path: Path) -> None:
    live = Recorder.create(tmp_path, b"", run_id="live", sync="none")
    write_turn(live, bytes(2 * MIB))
    os.utime(live.run_dir / "engine-1-0.tkr", (0, 0))
    finished = run_of(tmp_path, "finished", 1000, age=1)
    other = Recorder.create(tmp_path, b"", max_bytes=MIB, sync="none")
    assert not finished.exists()
    assert is_live(live.run_dir)
    other.close()
    live.close()
    assert not is_live(live.run_dir)
    read_run(live.run_dir)


def test_files_of_the_user_and_links_survive_the_deletion_of_a_run(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    precious = elsewhere / "engine-1-0.tkr"
    precious.write_bytes(bytes(5 * MIB))
    journals = tmp_path / "journals"
    finished = run_of(journals, "finished", 2 * MIB, age=1)
    (finished / "notes.txt").write_text("why it stalled")
    (journals / "linked").symlink_to(elsewhere)
    (finished / "engine-1-1.tkr").symlink_to(precious)
    Recorder.create(journals, b"", max_bytes=MIB).close()
    assert precious.exists()
    assert sorted(path.name for path in finished.iterdir()) == ["engine-1-1.tkr", "notes.txt"]


def test_a_write_error_stops_the_run_and_leaves_no_torn_write(tmp_path: Path) -> None:
    recorder = Recorder.create(tmp_path, b"")
    write_turn(recorder, b"kept")
    path = recorder.run_dir / "engine-1-0.tkr"
    with largest_file(path.stat().st_size + 50):
        with pytest.raises(JournalError, match="cannot write the journal in .*make room there"):
            write_turn(recorder, b"lost" * 100)
    with pytest.raises(JournalError, match="has ended"):
        write_turn(recorder, b"too late")
    recorder.close()
    [records] = read_run(recorder.run_dir)
    assert [record.payload for record in records] == [b"", b"kept"]
    assert path.stat().st_size == records[-1].offset + 40


def failing(error_number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(error_number, os.strerror(error_number))

    return fail


def test_with_the_policy_gap_the_run_goes_on_and_is_recorded_again_from_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = ManualClock(), list[str]()
    recorder = Recorder.create(tmp_path, b"", on_error="gap", clock=clock, notify=said.append)
    write_turn(recorder, b"before")
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    assert write_turn(recorder, b"lost", b"lost") == [3, 4]
    assert write_turn(recorder, b"lost too") == [5]
    assert len(said) == 1 and "No space left" in said[0] and "NOT RECORDING" in said[0]
    assert not recorder.should_rotate()
    clock.now_ns += 1_100_000_000
    assert recorder.should_rotate()
    recorder.rotate(b"not yet")  # still no room
    assert not recorder.should_rotate() and not recorder.statistics().is_recording
    clock.now_ns += 1_100_000_000
    assert not recorder.should_rotate(), "each attempt is further from the one before"
    clock.now_ns += 1_100_000_000
    monkeypatch.undo()
    assert recorder.should_rotate()
    recorder.rotate(b"state")
    write_turn(recorder, b"after")
    recorder.close()
    assert len(said) == 2 and "recording again in engine-1-1.tkr; 3 records were lost" in said[1]

    first, second = read_run(recorder.run_dir)
    assert [record.payload for record in first] == [b"", b"before"]
    assert [record.type for record in second] == [META, SNAPSHOT, 5, RUN_ENDED]
    assert second[0].seq == 6, "sequence numbers tell how much is missing"
    header = SegmentReader((recorder.run_dir / "engine-1-1.tkr").read_bytes(), "s").header
    assert header.flags == AFTER_GAP
    assert recorder.statistics().num_gaps == 1


@pytest.mark.parametrize("policy", ["stop", "gap"])
def test_a_failed_sync_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    calls, said = list[int](), list[str]()

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    clock = ManualClock()
    recorder = Recorder.create(
        tmp_path,
        b"",
        sync="step",
        on_error=policy,  # type: ignore[arg-type]
        clock=clock,
        notify=said.append,
    )
    monkeypatch.setattr(os, "fdatasync", fail)
    if policy == "stop":
        with pytest.raises(JournalError, match="Input/output error"):
            write_turn(recorder, b"x")
    else:
        write_turn(recorder, b"x")
        write_turn(recorder, b"y")
        assert len(said) == 1
    monkeypatch.undo()
    recorder.close()
    assert len(calls) == 1


def test_a_failed_sync_in_the_background_is_met_by_a_later_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
    recorder = Recorder.create(tmp_path, b"")
    sync = recorder._sync
    assert sync is not None
    sync._thread.join(timeout=30)  # it ends with the failure
    assert not sync._thread.is_alive()
    with pytest.raises(JournalError, match="Input/output error"):
        write_turn(recorder, b"x")
    recorder.close()


def test_what_cannot_be_is_refused_with_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="choose another with --journal-dir"):
        Recorder.create(tmp_path / "file", b"")
    with pytest.raises(JournalError, match="--journal-max-bytes is 5; it must be at least 1048576"):
        Recorder.create(tmp_path, b"", max_bytes=5)
    with pytest.raises(JournalError, match="'../up' is not 1 to 32 letters"):
        Recorder.create(tmp_path, b"", run_id="../up")
    recorder = Recorder.create(tmp_path, b"", run_id="taken")
    with pytest.raises(JournalError, match="File exists"):
        Recorder.create(tmp_path, b"", run_id="taken")
    with pytest.raises(JournalError, match="over the journal's"):
        recorder.append(1, INPUT, bytes(MAX_PAYLOAD_BYTES + 1), 0)
    recorder.close()
    recorder.close()


CHILD = """
import sys
from pathlib import Path
from tokenreel.actors.runtime.recorder import Recorder
recorder = Recorder.create(Path(sys.argv[1]), b"meta", run_id="killed", max_bytes=1 << 20)
while True:
    for i in range(3):
        seq = recorder.append(5, 1, b"p" * 300, 1)
    recorder.commit()
    if recorder.should_rotate():
        recorder.rotate(b"state")
    print(seq, flush=True)
"""


def test_kill_9_loses_nothing_that_commit_returned_for(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    last = 0
    with child.stdout:
        for line in child.stdout:
            last = int(line)
            if last > 2000:
                child.send_signal(signal.SIGKILL)
                break
        told = [int(line) for line in child.stdout.read().split("\n")[:-1] if line]
    child.wait(timeout=30)
    last = max([last, *told])
    records = [record for segment in read_run(tmp_path / "killed") for record in segment]
    assert records[-1].seq >= last
    assert records[-1].type != RUN_ENDED
    assert not is_live(tmp_path / "killed")
