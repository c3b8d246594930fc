"""Where index files lie: beside the journal, or in a cache directory if that cannot be written."""

import os
import tempfile
import time
import weakref
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from tokenreel.actors.runtime.journal_directory import index_of
from tokenreel.tools.replay.index.part import (
    FileStamp,
    IndexDamaged,
    Part,
    open_part,
    part_in_memory,
)

RACY_NS = 2_000_000_000
"""A file that was seen so soon after its last change may have changed again unseen."""


class IndexPlace:
    """The index files of the segments in one directory."""

    def __init__(self, directory: Path, notify: Callable[[str], None]) -> None:
        self.kept = "nowhere"
        """For a person: where the files are that were found or stored last."""
        self._directory = directory
        self._notify = notify
        self._has_complained = False

    def find(self, segment: Path) -> Part | None:
        """The stored index of a segment file; None if there is none that can be read."""
        for path in self._places(segment):
            try:
                part = open_part(_reader(path))
            except (OSError, IndexDamaged):
                continue
            self._keep(path)
            return part
        return None

    def store(self, segment: Path, packed: bytes) -> Part:
        """Writes a segment's index as a whole or not at all; whoever does so last wins. If it can
        be written nowhere, it lives as long as this process."""
        complaint = ""
        for path in self._places(segment):
            try:
                _write_whole(path, packed)
                part = open_part(_reader(path))
            except OSError as error:
                complaint = complaint or f"cannot write beside {segment}: {error.strerror}"
                continue
            self._keep(path)
            if complaint:
                self._complain(f"{complaint}; the index is kept in {path.parent}")
            return part
        self._complain(f"{complaint}; the index is not kept")
        return part_in_memory(packed)

    def _places(self, segment: Path) -> tuple[Path, Path]:
        return index_of(segment), self._cached(segment)

    def _keep(self, path: Path) -> None:
        is_beside = path.parent.resolve() == self._directory.resolve()
        self.kept = "beside the journal" if is_beside else f"in {path.parent}"

    def _cached(self, segment: Path) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if not os.path.isabs(home):  # nobody's home: only this user may read what lies there
            home = os.path.join(tempfile.gettempdir(), f"cache-{os.getuid()}")
        place = blake2b(os.fsencode(self._directory.resolve()), digest_size=8).hexdigest()
        return Path(home, "tokenreel", "indexes", place, index_of(segment).name)

    def _complain(self, line: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._notify(line)


def stamp_of(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, time.time_ns())


def is_same_file(then: FileStamp, now: FileStamp) -> bool:
    """Whether the file cannot have changed between the two looks."""
    return (
        then.num_bytes == now.num_bytes
        and then.mtime_ns == now.mtime_ns
        and then.ctime_ns == now.ctime_ns
        and then.seen_ns - max(then.mtime_ns, then.ctime_ns) >= RACY_NS
    )


def _reader(path: Path) -> Callable[[int, int], bytes]:
    """Reads pieces of the file that is there now, even if another takes its name later."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read(offset: int, num_bytes: int) -> bytes:
        return os.pread(descriptor, num_bytes, offset)

    weakref.finalize(read, os.close, descriptor)
    return read


def _write_whole(path: Path, packed: bytes) -> None:
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
