"""Where journals lie, whose they are, and how much room they take together.

`<journal-dir>/<run-id>/` holds the segments of one run and the file `lock`, on which the recorder
of a live run holds a lock. Only finished runs are ever deleted for room, and a run's own segments.
"""

import fcntl
import os
import re
from pathlib import Path
from typing import NamedTuple

LOCK_NAME = "lock"
MAX_RUNS = 256
"""Finished runs beyond are deleted however small they are, so that a look at all of them is quick.
"""
_SEGMENT_NAME = re.compile(r"engine-(\d{1,9})-(\d{1,9})\.tkr")
_INDEX_NAME = re.compile(r"(engine-\d{1,9}-\d{1,9})\.tki.*")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")


class StoredSegment(NamedTuple):
    """A segment file as its name tells."""

    path: Path
    epoch: int
    number: int


def is_run_id(text: str) -> bool:
    return _RUN_ID.fullmatch(text) is not None


def segment_name(epoch: int, number: int) -> str:
    return f"engine-{epoch}-{number}.tkr"


def index_of(segment: Path) -> Path:
    """Where tools keep what they found out about a segment (`engine-replay index`). It is made
    from the segment, so it goes with it; a name that continues with anything is one in the making.
    """
    return segment.with_suffix(".tki")


def segments_of(run_dir: Path) -> list[StoredSegment]:
    """The run's segment files by number. A directory that cannot be read raises OSError."""
    found = []
    for entry in os.scandir(run_dir):
        match = _SEGMENT_NAME.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            found.append(StoredSegment(Path(entry.path), int(match[1]), int(match[2])))
    return sorted(found, key=lambda segment: (segment.number, segment.epoch))


def runs_in(journal_dir: Path) -> list[Path]:
    """Directories in `journal_dir` that hold segments, the longest untouched first."""
    return [run.path for run in _stored_runs(journal_dir)]


def lock_run(run_dir: Path) -> int | None:
    """Take the run's lock and return its descriptor; None if a live process holds it.

    The lock goes when the descriptor is closed, or with the process.
    """
    descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_live(run_dir: Path) -> bool:
    """Whether a recorder is writing this run. Creates nothing."""
    try:
        descriptor = os.open(run_dir / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def make_room(journal_dir: Path, own_run: Path, max_bytes: int) -> int:
    """Delete until all journals together take at most `max_bytes` and are at most MAX_RUNS;
    returns the bytes that remain.

    First the oldest segments of finished runs, the longest untouched run first: what is left of a
    run replays from a snapshot, so the end of one that crashed a moment ago is the last to go. Then
    the oldest segments of `own_run`. Other live runs and the newest segment of `own_run` stay, even
    if that means to exceed the bound.
    """
    runs = _stored_runs(journal_dir)
    total = sum(run.num_bytes for run in runs)
    num_runs = len(runs)
    for run in runs:
        if total <= max_bytes and num_runs <= MAX_RUNS:
            return total
        if run.path == own_run:
            continue
        excess = run.num_bytes if num_runs > MAX_RUNS else total - max_bytes
        freed = _delete_finished(run, excess)
        total -= freed
        num_runs -= freed == run.num_bytes
    for own in runs:
        if own.path == own_run:
            for segment, size in own.segments[:-1]:
                if total <= max_bytes:
                    break
                total -= _delete(segment, size)
    return total


class _StoredRun(NamedTuple):
    """`segments` are paths and sizes, each with its index, in the order of their numbers."""

    newest_ns: int
    path: Path
    segments: list[tuple[Path, int]]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.segments)


def _stored_runs(journal_dir: Path) -> list[_StoredRun]:
    runs = []
    for entry in os.scandir(journal_dir):
        if not entry.is_dir(follow_symlinks=False):
            continue
        try:
            found = [(each.path, os.stat(each.path)) for each in segments_of(Path(entry.path))]
            indexes = _index_bytes(Path(entry.path))
        except OSError:  # somebody else is deleting it, or it is not ours to read
            continue
        if found:
            newest_ns = max(status.st_mtime_ns for _, status in found)
            segments = [
                (path, status.st_size + indexes.get(path.stem, 0)) for path, status in found
            ]
            runs.append(_StoredRun(newest_ns, journal_dir / entry.name, segments))
    return sorted(runs)


def _delete_finished(run: _StoredRun, excess: int) -> int:
    """Delete the oldest segments of a run that nobody writes until `excess` bytes are freed, and
    its directory if nothing else is there; returns the bytes that this freed."""
    try:
        lock = lock_run(run.path)
    except OSError:
        return 0
    if lock is None:
        return 0
    freed = 0
    try:
        for path, size in run.segments:
            if freed >= excess:
                return freed
            freed += _delete(path, size)
        (run.path / LOCK_NAME).unlink(missing_ok=True)
        run.path.rmdir()
    except OSError:  # the user keeps something of his own there
        pass
    finally:
        os.close(lock)
    return freed


def _index_bytes(run_dir: Path) -> dict[str, int]:
    """What the index files of each segment take, by the segment's name without its ending."""
    sizes: dict[str, int] = {}
    for entry in os.scandir(run_dir):
        match = _INDEX_NAME.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            sizes[match[1]] = sizes.get(match[1], 0) + entry.stat().st_size
    return sizes


def _delete(path: Path, size: int) -> int:
    """The index first: without its segment nobody would ever delete it."""
    for index in path.parent.glob(f"{path.stem}.tki*"):
        index.unlink(missing_ok=True)
    try:
        path.unlink()
    except FileNotFoundError:
        return size
    except OSError:
        return 0
    return size
