"""Programs are started, heard, timed and ended, whatever they do."""

import os
import select
import signal
import sys
import time

import pytest

from tokenreel.tools.bench.processes.child_process import ChildFailed, ChildProcess, Line
from tokenreel.tools.bench.processes.processor_time import (
    busy_time_s,
    processor_time_s,
    processor_times_s,
    spent_s,
)

PATIENCE_S = 30.0
CANNED_SERVER = "tokenreel.tools.bench.floor.canned_server"
TALK_AND_WAIT = """
import signal, sys, time
try:
    print("hello", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("leaving", flush=True)
    sys.exit(7)
"""


def python(program: str) -> ChildProcess:
    return ChildProcess("python", [sys.executable, "-c", program])


def hello(lines: list[Line]) -> str | None:
    return next((line.text for line in lines if line.text == "hello"), None)


def test_a_child_is_heard_and_interrupted() -> None:
    with python(TALK_AND_WAIT) as child:
        assert child.wait_for(hello, PATIENCE_S) == "hello"
        assert os.getsid(child.process.pid) == child.process.pid, "Ctrl-C here does not reach it"
        assert child.stop() == 7
    assert [line.text for line in child.lines] == ["hello", "leaving"]


def test_one_that_ends_or_says_nothing_is_told_with_its_last_words() -> None:
    with python("print('no such model')") as child:
        with pytest.raises(ChildFailed, match="ended\n  | no such model"):
            child.wait_for(hello, PATIENCE_S)
    with python(TALK_AND_WAIT) as child:
        child.wait_for(hello, PATIENCE_S)
        with pytest.raises(ChildFailed, match="was not ready after 0.01 s"):
            child.wait_for(lambda lines: None, 0.01)
        assert child.last_words is None
        child.process.kill()
        child.process.wait(PATIENCE_S)
        assert child.last_words == "python ended with exit code -9\n  | hello"


def test_the_last_words_are_the_last_however_much_was_said() -> None:
    with python("for number in range(12_000): print(number)") as child:
        assert child.process.wait(PATIENCE_S) == 0
        told = (child.last_words or "").split("\n")
    assert told == [
        "python ended with exit code 0",
        *(f"  | {number}" for number in range(11_985, 12_000)),
    ]


def test_whoever_still_holds_its_output_does_not_hold_up_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import subprocess, sys\n"
        "wait = 'import signal; signal.pause()'\n"
        "print(subprocess.Popen([sys.executable, '-c', wait]).pid, flush=True)\n"
    )
    child = python(program)
    heir = int(child.wait_for(lambda lines: lines[0].text if lines else None, PATIENCE_S))
    assert child.process.wait(PATIENCE_S) == 0
    with monkeypatch.context() as patch:
        patch.setattr("tokenreel.tools.bench.processes.child_process.STOP_TIMEOUT_S", 0.01)
        assert child.stop() == 0
    output = child.process.stdout
    assert output is not None and not output.closed
    os.kill(heir, signal.SIGKILL)
    assert child.stop() == 0
    assert output.closed


def test_a_program_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(ChildFailed, match="/no/such/program cannot be started"):
        ChildProcess("x", ["/no/such/program"])


def test_nothing_is_left_when_the_bench_is_killed() -> None:
    """The kernel interrupts the child when its parent is gone."""
    program = (
        "import time\n"
        "from tokenreel.tools.bench.processes.child_process import ChildProcess, python_module\n"
        f"child = ChildProcess('x', python_module({CANNED_SERVER!r}))\n"
        "child.wait_for(lambda lines: lines or None, 30)\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with python(program) as parent:
        pid = int(parent.wait_for(lambda lines: lines[0].text if lines else None, PATIENCE_S))
        descriptor = os.pidfd_open(pid)
        parent.process.send_signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor)
        assert poll.poll(PATIENCE_S * 1000), "it runs for ever"
        os.close(descriptor)


def test_processor_time_is_that_of_the_process() -> None:
    assert busy_time_s() > 0
    before = processor_time_s(os.getpid())
    while time.process_time() == 0:
        pass
    after = processor_time_s(os.getpid())
    assert 0 < before <= after <= time.process_time()
    with python(TALK_AND_WAIT) as child:
        child.wait_for(hello, PATIENCE_S)
        alive = processor_times_s({"child": child.process.pid})
        assert alive["child"] > 0
    gone = processor_times_s({"child": child.process.pid})
    assert gone == {"child": 0}
    assert spent_s({}, alive) == alive
    assert spent_s(alive, gone) == {"child": 0}, "and not less than nothing"
