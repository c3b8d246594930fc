"""A team does every item once, whoever does it, and nobody passes a barrier early."""

import numpy as np
import pytest

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.team import Team, barrier, next_item

NUM_PHASES, NUM_ITEMS = 40, 500


@compiled
def count_items(rank, meeting, taken, seen):  # type: ignore[no-untyped-def]
    """Each phase reads what all threads have written in the one before."""
    for phase in range(NUM_PHASES):
        while True:
            item = next_item(meeting, phase)
            if item >= NUM_ITEMS:
                break
            taken[phase, item] += 1
        barrier(meeting)
        total = 0
        for item in range(NUM_ITEMS):
            total += taken[phase, item]
        seen[rank, phase] = total


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_every_item_is_done_once_before_anybody_goes_on(num_threads: int) -> None:
    team = Team(num_threads, NUM_PHASES)
    for _ in range(3):
        taken = np.zeros((NUM_PHASES, NUM_ITEMS), np.int64)
        seen = np.zeros((num_threads, NUM_PHASES), np.int64)
        team.run(count_items, taken, seen)
        assert (taken == 1).all()
        assert (seen[0] == NUM_ITEMS).all()
    team.close()


def test_the_caller_can_work_alone() -> None:
    team = Team(3, NUM_PHASES)
    taken = np.zeros((NUM_PHASES, NUM_ITEMS), np.int64)
    seen = np.zeros((3, NUM_PHASES), np.int64)
    team.run(count_items, taken, seen, alone=True)
    assert (taken == 1).all()
    assert seen.tolist() == [[NUM_ITEMS] * NUM_PHASES, [0] * NUM_PHASES, [0] * NUM_PHASES]
    team.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_thread_that_fails_is_not_waited_for(failing: int) -> None:
    """Before it can meet the others: memory ran out, or its kernels could not be read."""
    team = Team(2, NUM_PHASES)
    taken = np.zeros((NUM_PHASES, NUM_ITEMS), np.int64)
    seen = np.zeros((2, NUM_PHASES), np.int64)

    def fail_in_one(rank: int, *arguments: object) -> None:
        if rank == failing:
            raise MemoryError("no more")
        count_items(rank, *arguments)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="a thread of the team") as failure:
            team.run(fail_in_one, taken, seen)
        assert isinstance(failure.value.__cause__, MemoryError)
    team.close()


def test_the_callers_arithmetic_stays_what_it_was() -> None:
    """Only while a team computes do numbers below 1e-38 count as zero."""
    team = Team(1, NUM_PHASES)
    taken = np.zeros((NUM_PHASES, NUM_ITEMS), np.int64)
    team.run(count_items, taken, np.zeros((1, NUM_PHASES), np.int64))
    assert np.float32(1e-40) * np.float32(1.0) > 0
    team.close()
