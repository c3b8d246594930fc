"""The directory of one run, private to its user: made at the start, removed at the end.

The supervisor holds a lock on a file in it. A directory whose lock can be taken belongs to a
supervisor that was killed, and the next one that starts removes it.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX = "tokenreel-"
LOCK_NAME = "lock"


class RunDirectory:
    """Use as a context manager; `path` exists inside."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent if parent is not None else Path(tempfile.gettempdir())
        self._lock_fd = -1
        self.path = Path()

    def __enter__(self) -> "RunDirectory":
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        # Locked before it gets its name, so that nobody finds the file unlocked.
        unnamed = self.path / f"{LOCK_NAME}.new"
        self._lock_fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        unnamed.rename(self.path / LOCK_NAME)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def remove_stale_directories(parent: Path | None = None) -> int:
    """Clear away after this user's supervisors that were killed; how many there were."""
    num_removed = 0
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_own_directory(path) and _is_unlocked(path / LOCK_NAME):
                shutil.rmtree(path)
                num_removed += 1
    return num_removed


def _is_own_directory(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_unlocked(lock_path: Path) -> bool:
    """Raises `FileNotFoundError` if this was never a run directory, or is just being made."""
    lock_fd = os.open(lock_path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
    return True
