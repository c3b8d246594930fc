"""The background sync reaches everything that was written, and never closes what is in use."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenreel.actors.runtime import journal_sync
from tokenreel.actors.runtime.journal_sync import SYNC_BYTES, BackgroundSync

PATIENCE_S = 60.0


class WatchedDisk:
    """Stands in for fdatasync: notes what was synced, and waits while it is told to."""

    def __init__(self) -> None:
        self.synced: list[tuple[int, int]] = []
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.began = threading.Semaphore(0)

    def fdatasync(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        self.began.release()
        assert self.may_finish.wait(PATIENCE_S)
        self.synced.append((descriptor, size))

    def wait_for_sync(self) -> None:
        assert self.began.acquire(timeout=PATIENCE_S)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> WatchedDisk:
    disk = WatchedDisk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    return disk


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "one", os.O_WRONLY | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_what_was_written_before_stop_is_synced(
    tmp_path: Path, disk: WatchedDisk, descriptor: int
) -> None:
    sync = BackgroundSync(descriptor, tmp_path)
    os.write(descriptor, bytes(100))
    sync.written(100)
    assert sync.stop() == descriptor
    assert disk.synced[-1] == (descriptor, 100)
    assert sync.error is None


def test_what_is_written_during_a_sync_gets_another(
    tmp_path: Path, disk: WatchedDisk, descriptor: int
) -> None:
    disk.may_finish.clear()
    sync = BackgroundSync(descriptor, tmp_path)
    disk.wait_for_sync()
    os.write(descriptor, bytes(7))
    sync.written(7)
    disk.may_finish.set()
    disk.wait_for_sync()
    sync.stop()
    assert (descriptor, 0) in disk.synced and (descriptor, 7) in disk.synced


def test_what_is_written_while_stop_waits_for_a_sync_is_synced(
    tmp_path: Path, disk: WatchedDisk, descriptor: int
) -> None:
    disk.may_finish.clear()
    sync = BackgroundSync(descriptor, tmp_path)
    disk.wait_for_sync()
    os.write(descriptor, bytes(7))
    sync.written(7)
    stopping = threading.Thread(target=sync.stop)
    stopping.start()
    disk.may_finish.set()
    stopping.join(PATIENCE_S)
    assert disk.synced[-1] == (descriptor, 7)


def test_many_bytes_do_not_wait_for_the_interval(
    tmp_path: Path, disk: WatchedDisk, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_sync, "SYNC_INTERVAL_S", 10 * PATIENCE_S)
    sync = BackgroundSync(descriptor, tmp_path)
    sync.written(SYNC_BYTES - 1)
    sync.written(1)
    disk.wait_for_sync()
    sync.stop()


def test_a_file_that_was_left_is_synced_and_then_closed(
    tmp_path: Path, disk: WatchedDisk, descriptor: int
) -> None:
    left = os.open(tmp_path / "left", os.O_WRONLY | os.O_CREAT)
    sync = BackgroundSync(left, tmp_path)
    os.write(left, bytes(9))
    sync.written(9)
    sync.switch(descriptor)
    assert sync.stop() == descriptor
    assert (left, 9) in disk.synced
    assert disk.synced[-1][0] == descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)


def test_after_a_failure_nothing_is_synced_any_more(
    tmp_path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    sync = BackgroundSync(descriptor, tmp_path)
    sync._thread.join(PATIENCE_S)
    sync.written(SYNC_BYTES)
    sync.written(SYNC_BYTES)
    assert sync.stop() == descriptor
    assert sync.error is not None and sync.error.errno == 5
    assert calls == [descriptor]
