"""A team of threads that run one compiled function together: items handed out singly, and barriers.

A thread that the system takes off its core for a while holds up nobody but at a barrier: items are
taken one by one from a counter. At a barrier a thread spins for some microseconds, then offers its
core to others each time it looks.
"""

import platform
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import part
from tokenreel.kernels.cpu.vector import call_llvm, element_pointer

SPINS_BEFORE_YIELD = 4000
"""50 to 200 us, by the length of the processor's pause: longer than most items take."""
_ARRIVED, _GENERATION, _BROKEN = 0, 8, 16
"""Where in a team's state, on cache lines of their own."""
_IS_X86 = platform.machine() in ("x86_64", "AMD64")


class Meeting(NamedTuple):
    """What the threads of a team share during one run; compiled functions get it whole."""

    num_threads: int
    state: NDArray[np.int64]
    counters: NDArray[np.int64]
    """[num_phases], zero at the start: how many items of each phase have been taken."""


@intrinsic
def _add(typing, array, index, value):
    """Adds to an int64 element, for all threads at once; returns what it was."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, array, *arguments[:2])
        return builder.atomic_rmw("add", pointer, arguments[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def _read(typing, array, index):
    """An int64 element as other threads have left it."""

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, array, *arguments)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def _pause(typing):
    def generate(context, builder, signature, arguments):
        if _IS_X86:
            call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield_core(typing):
    def generate(context, builder, signature, arguments):
        call_llvm(builder, "sched_yield", ir.IntType(32), [])
        return context.get_dummy_value()

    return types.void(), generate


@part
def next_item(meeting, phase):
    """The number of an item of `phase` that no thread has taken yet; they count from 0, on and
    on: the caller knows how many there are."""
    return _add(meeting.counters, phase, 1)


@part
def barrier(meeting):
    """Returns once every thread of the team has called it, and seen what the others wrote; or if
    one of them has failed, so that the others do not wait for it."""
    if meeting.num_threads == 1:
        return
    generation = _read(meeting.state, _GENERATION)
    if _add(meeting.state, _ARRIVED, 1) == meeting.num_threads - 1:
        _add(meeting.state, _ARRIVED, -meeting.num_threads)
        _add(meeting.state, _GENERATION, 1)
        return
    spins = 0
    while _read(meeting.state, _GENERATION) == generation:
        _pause()
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            if _read(meeting.state, _BROKEN) != 0:
                return
            _yield_core()


class Team:
    """`num_threads` threads, the caller among them. The others sleep between runs."""

    def __init__(self, num_threads: int, num_phases: int) -> None:
        """`num_phases`: how many kinds of items a run may hand out."""
        counters = np.zeros(num_phases, np.int64)
        self._together = Meeting(num_threads, np.zeros(24, np.int64), counters)
        self._alone = Meeting(1, np.zeros(24, np.int64), counters)
        self._work: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._error: BaseException | None = None
        # Here, because whoever only compiles does without PyTorch.
        from torch import set_flush_denormal

        # On a thread: products with numbers below 1e-38 would take fifty times as long; they count
        # as zero.
        self._flush_denormals: Callable[[bool], object] = set_flush_denormal
        self._starts = [threading.Semaphore(0) for _ in range(num_threads - 1)]
        for rank, start in enumerate(self._starts, 1):
            thread = threading.Thread(target=self._serve, args=(rank, start), daemon=True)
            thread.start()

    @property
    def num_threads(self) -> int:
        return self._together.num_threads

    def run(self, function: Callable[..., Any], *arguments: Any, alone: bool = False) -> None:
        """Calls the compiled `function(rank, meeting, *arguments)` on every thread, or only on
        this one. It must end with a barrier, so that the work is done when rank 0 returns.

        Raises what a thread has raised; a team that failed once is of no use any more.
        """
        meeting = self._alone if alone else self._together
        meeting.counters.fill(0)
        if not alone:
            self._work = function, (meeting, *arguments)
            for start in self._starts:
                start.release()
        self._flush_denormals(True)
        try:
            function(0, meeting, *arguments)
        except BaseException as error:
            self._break(error)
        finally:
            self._flush_denormals(False)  # The caller's own arithmetic stays what it was.
        # Arrays of a step are not kept until the next.
        self._work = None
        if self._error is not None:
            raise RuntimeError("a thread of the team has failed") from self._error

    def close(self) -> None:
        self._work = None
        for start in self._starts:
            start.release()

    def _break(self, error: BaseException) -> None:
        self._error = error
        self._together.state[_BROKEN] = 1

    def _serve(self, rank: int, start: threading.Semaphore) -> None:
        self._flush_denormals(True)
        while True:
            start.acquire()
            if self._work is None:
                return
            function, arguments = self._work
            try:
                function(rank, *arguments)
            except BaseException as error:
                self._break(error)
            del function, arguments
