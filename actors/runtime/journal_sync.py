"""Brings a journal's bytes to the disk in a thread of its own, soon after they were written.

An fdatasync that failed is never tried again: the kernel may have dropped what it could not write,
and a second call would report success.
"""

import os
import threading
import time
from collections import deque
from pathlib import Path

SYNC_INTERVAL_S = 0.1
SYNC_BYTES = 1 << 20


def sync_directory(path: Path) -> None:
    """Make the names of the files in `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BackgroundSync:
    """fdatasync within SYNC_INTERVAL_S of a write, or once SYNC_BYTES are waiting.

    All methods are for the one thread that writes. `error` is what a sync failed with, if one did;
    `cpu_ns` is the processor time that syncing has taken.
    """

    def __init__(self, descriptor: int, directory: Path) -> None:
        """Syncs the new file `descriptor` in `directory`, and its name."""
        self.error: OSError | None = None
        self.cpu_ns = 0
        self._descriptor = descriptor
        self._directory = directory
        self._has_new_file = True
        self._retired: deque[int] = deque()
        self._written = 0
        self._synced = 0
        self._armed = False
        self._hurried = False
        self._stopping = False
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()
        self.written(0)

    def written(self, num_bytes: int) -> None:
        """Bytes were written. Wakes the thread at most twice per interval."""
        self._written += num_bytes
        if not self._armed:
            self._armed = True
            self._work.set()
        elif not self._hurried and self._written - self._synced >= SYNC_BYTES:
            self._hurried = True
            self._hurry.set()

    def switch(self, descriptor: int) -> None:
        """Writes go to a new file from here on; the one before is synced, then closed."""
        self._retired.append(self._descriptor)
        self._descriptor = descriptor
        self._has_new_file = True
        self.written(0)

    def stop(self) -> int:
        """Sync what is left, end the thread, and return the descriptor, still open."""
        self._stopping = True
        self._hurry.set()
        self._work.set()
        self._thread.join()
        while self._retired:
            os.close(self._retired.popleft())
        return self._descriptor

    def _run(self) -> None:
        try:
            while True:
                self._work.wait()
                self._work.clear()
                if not self._stopping:
                    self._hurry.wait(SYNC_INTERVAL_S)
                    self._hurry.clear()
                # In this order, so that a write from here on wakes the thread once more.
                self._hurried = False
                self._armed = False
                stopping = self._stopping
                target = self._written
                self._sync_files()
                self._synced = target
                self.cpu_ns = time.thread_time_ns()
                if stopping:
                    return
        except OSError as error:
            self.error = error

    def _sync_files(self) -> None:
        while self._retired:
            os.fdatasync(self._retired[0])
            os.close(self._retired.popleft())
        # Should the writer switch files now, this one stays open: only this thread closes them.
        os.fdatasync(self._descriptor)
        if self._has_new_file:
            self._has_new_file = False
            sync_directory(self._directory)
