"""A processor has one holder at a time, and somebody else always has another one."""

import os
import subprocess
import sys

import pytest

from tokenreel.actors.runtime import own_processor
from tokenreel.actors.runtime.own_processor import OwnProcessor

ALLOWED = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def claims_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs an engine beside the tests may hold processors."""
    monkeypatch.setattr(own_processor, "CLAIM", f"test/{os.getpid()}")


def test_all_but_one_can_be_claimed_once_and_again_when_they_are_given_back() -> None:
    held = []
    while (claimed := OwnProcessor.claim(os.getpid())) is not None:
        held.append(claimed)
    assert sorted(processor.number for processor in held) == sorted(ALLOWED)[1:]
    for processor in held:
        processor.close()
    again = OwnProcessor.claim(os.getpid())
    assert (again is not None) == (len(ALLOWED) > 1)
    if again is not None:
        again.close()


@pytest.mark.skipif(len(ALLOWED) < 2, reason="there is one processor")
@pytest.mark.parametrize("number", sorted(ALLOWED)[1:3])
def test_where_a_process_runs_is_taken_first(number: int) -> None:
    os.sched_setaffinity(0, {number})
    try:
        pid = os.getpid()
        assert own_processor._last_processor(pid) == number
        assert own_processor._in_order_of_choice(ALLOWED, pid)[0] == number
    finally:
        os.sched_setaffinity(0, ALLOWED)


def test_the_only_processor_is_nobodys_own() -> None:
    """In a process that may use but one, as `taskset` leaves it."""
    script = (
        "import os; from tokenreel.actors.runtime.own_processor import OwnProcessor;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "assert OwnProcessor.claim(os.getpid()) is None"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=60)


@pytest.mark.skipif(len(ALLOWED) < 2, reason="there is one processor")
def test_a_process_that_has_ended_cannot_be_given_one() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    processor = OwnProcessor.claim(os.getpid())
    assert processor is not None
    assert not processor.separate(child.pid, os.getpid())
    assert not processor.separate(os.getpid(), child.pid)
    assert os.sched_getaffinity(0) == ALLOWED, "half of it is taken back"
    processor.close()
