"""A processor has one holder at a time, and somebody else always has another one."""

import os
import subprocess
import sys

import pytest

from tokenreel.actors.runtime import own_processor
from tokenreel.actors.runtime.own_processor import OwnProcessor


@pytest.fixture(autouse=True)
def claims_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs an engine beside the tests may hold processors."""
    monkeypatch.setattr(own_processor, "CLAIM", f"test/{os.getpid()}")


def test_all_but_one_can_be_claimed_once_and_again_when_they_are_given_back() -> None:
    allowed = os.sched_getaffinity(0)
    held = []
    while (claimed := OwnProcessor.claim()) is not None:
        held.append(claimed)
    assert sorted(processor.number for processor in held) == sorted(allowed)[1:]
    for processor in held:
        processor.close()
    again = OwnProcessor.claim()
    assert (again and again.number) == (max(allowed) if len(allowed) > 1 else None)
    if again is not None:
        again.close()


def test_the_only_processor_is_nobodys_own() -> None:
    """In a process that may use but one, as `taskset` leaves it."""
    script = (
        "import os; from tokenreel.actors.runtime.own_processor import OwnProcessor;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "assert OwnProcessor.claim() is None"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=60)


def test_a_process_that_has_ended_is_no_trouble() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    processor = OwnProcessor.claim()
    if processor is not None:
        processor.give_to(child.pid)
        processor.keep_off(child.pid)
        processor.close()
