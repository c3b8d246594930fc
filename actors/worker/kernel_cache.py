"""Where compiled kernels are kept between starts, so that only the first start pays for compiling.

Numba looks at the file that a function stands in, not at those it calls, to tell whether a kept
result is stale. So the folder is named by a hash of all kernels, and a new version begins anew.
It may not import numba: the folder is chosen before.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tokenreel import kernels
from tokenreel.kernels.cpu.amx_permission import may_use_tiles

VARIABLE = "NUMBA_CACHE_DIR"
LEVEL_VARIABLE, LEVEL = "NUMBA_OPT", "2"
"""LLVM's second level makes kernels that are as fast as the third's, in a tenth less time."""
MAX_VERSIONS = 4
"""Folders of other versions beyond these are removed, the least recently used first. Whoever uses
one has read it, and what it still writes makes a new one."""
MIN_FREE_BYTES = 64 << 20
"""A folder on a fuller disk is not used: Numba would fail on it. Kernels take a few megabytes."""
LOCK, AHEAD_LOCK = "lock", "ahead-lock"
"""Held by who compiles: a process that does so ahead of the worker has a lock of its own. Should
both compile the same function, it is for the same types: either's file is good (and one of other
types is not taken)."""
_VERSION = re.compile("[0-9a-f]{32}")
MAX_WAIT_S = 300.0
_LOOK_EVERY_S = 0.05


def use_kernel_cache() -> Path | None:
    """Points Numba at the folder for these kernels, in `tokenreel/kernels` in $NUMBA_CACHE_DIR,
    $XDG_CACHE_HOME or ~/.cache, or else in a folder of this user's among temporary files. None:
    nothing is kept. How much they are optimized is chosen too, unless $NUMBA_OPT says it."""
    os.environ.setdefault(LEVEL_VARIABLE, LEVEL)
    name = _name()
    for parent in _places(name):
        folder = parent / name
        if _prepare(folder):
            os.environ[VARIABLE] = str(folder)
            _remove_old_versions(parent)
            return folder
    os.environ.pop(VARIABLE, None)
    return None


@contextlib.contextmanager
def kernel_cache_held(lock: str = LOCK) -> Iterator[None]:
    """One process at a time, for each of the locks: two that compile at once would mix their files
    up, and all but the first find what the first has kept. Whoever waits for long goes on all the
    same."""
    folder = os.environ.get(VARIABLE)
    try:
        file = Path(folder or os.devnull, lock).open("w")
    except OSError:
        yield
        return
    with file:
        deadline = time.monotonic() + MAX_WAIT_S
        while not _is_locked(file.fileno()) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        yield


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # A file system without locks.
    return True


def _places(name: str) -> Iterator[Path]:
    if given := os.environ.get(VARIABLE):
        folder = Path(given).absolute()
        # Another process of this program may have chosen it.
        yield folder.parent if folder.name == name else folder / "tokenreel" / "kernels"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home ~ stays as it is.
    if os.path.isabs(home):
        yield Path(home) / "tokenreel" / "kernels"
    yield Path(tempfile.gettempdir()) / f"tokenreel-kernels-{os.getuid()}"


def _prepare(folder: Path) -> bool:
    """Whether this user alone can write it: what is in it will be run."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        folder.touch()
        for path in (folder.parent, folder):
            status = path.stat(follow_symlinks=False)
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return False
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= MIN_FREE_BYTES
    except OSError:
        return False


def _name() -> str:
    """A hash of all kernels, of the compiler and its level, and of what the system allows; Numba
    itself minds the processor."""
    digest = hashlib.blake2b(digest_size=16)
    level = os.environ[LEVEL_VARIABLE]
    digest.update(f"{version('numba')} {version('llvmlite')} {level} {may_use_tiles()}".encode())
    folder = Path(next(iter(kernels.__path__)), "cpu")
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _remove_old_versions(parent: Path) -> None:
    with contextlib.suppress(OSError):
        # Only what looks like one of ours: the folder may have been named by its user.
        folders = [path for path in parent.iterdir() if _VERSION.fullmatch(path.name)]
        folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[MAX_VERSIONS:]:
            shutil.rmtree(folder, ignore_errors=True)
