"""Every run that was kept here does what it is kept for; see docs/replay/keep.md."""

from pathlib import Path

import pytest

from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.keep.keep import MAX_BYTES, complaint, kept_in

KEPT = kept_in(Path(__file__).parent)


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_replay(kept: Path) -> None:
    complained = complaint(kept, installed_core())
    assert complained is None, complained


def test_there_is_something_to_replay() -> None:
    assert KEPT


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_kept_runs_are_small(kept: Path) -> None:
    assert sum(path.stat().st_size for path in kept.iterdir()) <= 2 * MAX_BYTES
