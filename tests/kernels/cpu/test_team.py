"""A team does every item once, whoever does it, and nobody passes a barrier early."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.team import Team, barrier, next_item

NUM_PHASES, NUM_ITEMS = 40, 500


@compiled
def count_items(rank, meeting, taken, marks, seen):  # type: ignore[no-untyped-def]
    """In each phase a thread leaves its mark, and behind the barrier counts those of all."""
    for phase in range(NUM_PHASES):
        while True:
            item = next_item(meeting, phase)
            if item >= NUM_ITEMS:
                break
            taken[phase, item] += 1
        marks[phase, rank] = 1
        barrier(meeting)
        for other in range(marks.shape[1]):
            seen[phase, rank] += marks[phase, other]
    barrier(meeting)


def new_counts(num_threads: int) -> tuple[NDArray[np.int64], ...]:
    """taken, marks, seen"""
    sizes = (NUM_ITEMS, num_threads, num_threads)
    return tuple(np.zeros((NUM_PHASES, size), np.int64) for size in sizes)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_every_item_is_done_once_before_anybody_goes_on(num_threads: int) -> None:
    team = Team(num_threads, NUM_PHASES)
    for _ in range(3):
        taken, marks, seen = new_counts(num_threads)
        team.run(count_items, taken, marks, seen)
        assert (taken == 1).all()
        assert (seen == num_threads).all()
    team.close()


def test_the_caller_can_work_alone() -> None:
    team = Team(3, NUM_PHASES)
    taken, marks, seen = new_counts(3)
    team.run(count_items, taken, marks, seen, alone=True)
    assert (taken == 1).all()
    assert seen.tolist() == [[1, 0, 0]] * NUM_PHASES
    team.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_thread_that_fails_is_not_waited_for(failing: int) -> None:
    """Before it can meet the others: memory ran out, or its kernels could not be read."""
    team = Team(2, NUM_PHASES)
    counts = new_counts(2)

    def fail_in_one(rank: int, *arguments: object) -> None:
        if rank == failing:
            raise MemoryError("no more")
        count_items(rank, *arguments)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="a thread of the team") as failure:
            team.run(fail_in_one, *counts)
        assert isinstance(failure.value.__cause__, MemoryError)
    team.close()


def test_the_callers_arithmetic_stays_what_it_was() -> None:
    """Only while a team computes do numbers below 1e-38 count as zero."""
    team = Team(1, NUM_PHASES)
    team.run(count_items, *new_counts(1))
    assert np.float32(1e-40) * np.float32(1.0) > 0
    team.close()
