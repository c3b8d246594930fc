"""Where compiled kernels are kept between starts, so that only the first start pays for compiling.

Numba looks at the file that a function stands in, not at those it calls, to tell whether a kept
result is stale. So the folder is named by a hash of all kernels, and a new version begins anew.
It may not import numba: the folder is chosen before.
"""

import contextlib
import hashlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from tokenreel import kernels

VARIABLE = "NUMBA_CACHE_DIR"
MAX_VERSIONS = 4
"""Folders of other versions beyond these are removed, the least recently used first."""


def use_kernel_cache() -> Path | None:
    """Points Numba at the folder for these kernels, `tokenreel/kernels` in $XDG_CACHE_HOME or
    ~/.cache. NUMBA_CACHE_DIR overrides it. If it cannot be written Numba finds a place itself, or
    compiles at every start: None."""
    if VARIABLE in os.environ:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parent = Path(home) / "tokenreel" / "kernels"
    folder = parent / _source_hash()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.touch()
    except OSError:
        return None
    os.environ[VARIABLE] = str(folder)
    _remove_old_versions(parent)
    return folder


def _source_hash() -> str:
    """Of all kernels and of the compiler; Numba itself minds the processor."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{version('numba')} {version('llvmlite')}".encode())
    folder = Path(next(iter(kernels.__path__)), "cpu")
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _remove_old_versions(parent: Path) -> None:
    with contextlib.suppress(OSError):
        folders = sorted(parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[MAX_VERSIONS:]:
            shutil.rmtree(folder, ignore_errors=True)
