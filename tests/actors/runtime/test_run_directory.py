"""The run directory: private, gone at the end, cleared away after a killed supervisor."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from tokenreel.actors.runtime.run_directory import (
    LOCK_NAME,
    PREFIX,
    RunDirectory,
    remove_stale_directories,
)


def abandoned(parent: Path, name: str = "killed") -> Path:
    """What a killed supervisor leaves: its lock file, locked by nobody."""
    path = parent / f"{PREFIX}{name}"
    path.mkdir(mode=0o700)
    (path / LOCK_NAME).touch()
    (path / "options.json").write_text("{}")
    return path


def test_it_is_private_while_it_exists_and_gone_afterwards(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as run:
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        (run.path / "worker.0").touch()
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_exception_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunDirectory(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_directory_is_removed(tmp_path: Path) -> None:
    abandoned(tmp_path, "one")
    abandoned(tmp_path, "two")
    assert remove_stale_directories(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_stays(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as run:
        assert remove_stale_directories(tmp_path) == 0
        assert run.path.is_dir()


def test_a_lock_does_not_pass_to_children(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as run:
        assert not os.get_inheritable(run._lock_fd)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}without-a-lock").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    target = abandoned(tmp_path / "other")
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    assert remove_stale_directories(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_another_process_has_locked_stays(tmp_path: Path) -> None:
    path = abandoned(tmp_path)
    with (path / LOCK_NAME).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_stale_directories(tmp_path) == 0
    assert remove_stale_directories(tmp_path) == 1
