"""Process lifetime: whatever happens, a clear line, the right exit code, nothing left behind."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenreel.actors.runtime.run_directory import remove_stale_directories

PATIENCE_S = 60.0
TINY_ENGINE = Path(__file__).with_name("tiny_engine.py")
LIMITS = {"start_timeout_s": PATIENCE_S, "drain_timeout_s": PATIENCE_S, "shutdown_s": PATIENCE_S}


class TinyEngine:
    """A supervisor process and what it prints."""

    def __init__(self, directory: Path, limits: dict[str, float], behaviours: dict[str, str]):
        self.directory = directory
        self.pids: dict[str, int] = {}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(TINY_ENGINE),
                str(directory),
                json.dumps(LIMITS | limits),
                json.dumps(behaviours),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A test that hangs fails by the end of the engine, not by the end of the test run.
        self.watchdog = threading.Timer(2 * PATIENCE_S, self.process.kill)
        self.watchdog.start()

    def wait_until_up(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "everybody is here\n":
                return
            if " pid " in line:
                role, _, pid, *_ = line.split()
                self.pids[role] = int(pid)
        raise AssertionError(self.end())

    def wait_for_error_line(self, part: str) -> None:
        assert self.process.stderr is not None
        assert any(part in line for line in self.process.stderr)

    def wait_until_heard(self, line: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while line not in self.heard():
            assert time.monotonic() < deadline, f"{line!r} was never heard: {self.heard()}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_actor(self, role: str) -> None:
        os.kill(self.pids[role], signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """Returns when its children have ended too."""
        descriptors = [os.pidfd_open(pid) for pid in self.pids.values()]
        self.process.kill()
        # A child may be gone before the system has closed all of its parent's files.
        self.process.wait()
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], PATIENCE_S)[0], "a child lives on"
            os.close(descriptor)

    def end(self) -> tuple[int, list[str]]:
        """The exit code and the supervisor's own lines on stderr."""
        _, errors = self.process.communicate()
        self.watchdog.cancel()
        return self.process.returncode, [
            line.removeprefix("engine-up: ")
            for line in errors.splitlines()
            if line.startswith("engine-up: ")
        ]

    def heard(self) -> list[str]:
        path = self.directory / "heard"
        return path.read_text().splitlines() if path.exists() else []

    def left_behind(self) -> list[str]:
        """Files and processes; `heard` is the tests' own."""
        files = [path.name for path in self.directory.iterdir() if path.name != "heard"]
        processes = [
            path.name
            for path in Path("/proc").glob("[0-9]*")
            if str(self.directory).encode() in _command_line(path)
        ]
        return files + processes


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


class Engines:
    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tiny-"))
        self.engine: TinyEngine | None = None

    def start(self, limits: dict[str, float] | None = None, **behaviours: str) -> TinyEngine:
        self.engine = TinyEngine(self.directory, limits or {}, behaviours)
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.process.kill()
            self.engine.process.communicate()
            self.engine.watchdog.cancel()
        shutil.rmtree(self.directory)


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    engines.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_drains_and_the_exit_code_is_0(
    engines: Engines, number: signal.Signals
) -> None:
    engine = engines.start()
    engine.wait_until_up()
    engine.signal(number)
    assert engine.end() == (0, [])
    assert engine.heard()[:2] == ["frontend SystemReady", "frontend DrainRequested"]
    assert sorted(engine.heard()[2:]) == ["engine_core close", "frontend close", "worker close"]
    assert engine.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(engines: Engines, number: signal.Signals) -> None:
    engine = engines.start(frontend="deaf")
    engine.wait_until_up()
    engine.signal(signal.SIGINT)
    assert engine.process.stdout is not None
    assert "running requests have" in engine.process.stdout.readline()
    engine.signal(number)
    assert engine.end() == (128 + number, [])
    assert "frontend close" not in engine.heard()
    assert engine.left_behind() == []


def test_a_drain_that_takes_too_long_is_cut_off(engines: Engines) -> None:
    engine = engines.start({"drain_timeout_s": 0.05}, frontend="deaf")
    engine.wait_until_up()
    engine.signal(signal.SIGINT)
    assert engine.end() == (0, [])
    assert engine.left_behind() == []


def test_requests_that_were_cut_short_are_told(engines: Engines) -> None:
    engine = engines.start(frontend="cut short")
    engine.wait_until_up()
    engine.signal(signal.SIGTERM)
    assert engine.end() == (0, ["2 requests were cut short"])


def test_a_signal_during_the_start_ends_it(engines: Engines) -> None:
    engine = engines.start(worker="hang on")
    engine.wait_for_error_line("hanging on")
    engine.signal(signal.SIGINT)
    engine.signal(signal.SIGTERM)
    assert engine.end()[0] in (130, 143)
    assert engine.left_behind() == []


def test_a_signal_during_a_long_load_needs_no_patience(engines: Engines) -> None:
    engine = engines.start(worker="hang")
    assert engine.process.stdout is not None
    engine.process.stdout.readline()
    engine.signal(signal.SIGTERM)
    assert engine.end() == (0, [])
    assert engine.left_behind() == []


def test_an_expected_start_failure_is_told_in_one_line(engines: Engines) -> None:
    engine = engines.start(worker="start error")
    assert engine.end() == (1, ["worker failed: there is no model: fetch one"])
    assert engine.left_behind() == []


def test_an_actor_that_crashes_at_the_start_is_told(engines: Engines) -> None:
    engine = engines.start(engine_core="crash", worker="hang")
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert len(lines) == 1 and lines[0].startswith("engine_core ended with exit code 3")
    assert engine.left_behind() == []


def test_a_process_that_cannot_be_started_is_told(engines: Engines) -> None:
    engine = engines.start(nobody="there is no such program")
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert len(lines) == 1 and lines[0].startswith("cannot start a process: ")
    assert engine.left_behind() == []


def test_a_start_that_takes_too_long_is_told(engines: Engines) -> None:
    engine = engines.start({"start_timeout_s": 0.5}, engine_core="never ready", worker="hang")
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert len(lines) == 1 and lines[0].startswith("not ready after 0.5 s: ")
    assert "engine_core, worker" in lines[0] and "--start-timeout" in lines[0]
    assert engine.left_behind() == []


@pytest.mark.parametrize("role", ["engine_core", "worker"])
def test_an_actor_that_dies_later_ends_the_streams_and_the_engine(
    engines: Engines, role: str
) -> None:
    engine = engines.start()
    engine.wait_until_up()
    engine.kill_actor(role)
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert len(lines) == 1 and lines[0].startswith(f"{role} was killed (SIGKILL)")
    assert "frontend ActorDied" in engine.heard()
    assert "frontend close" in engine.heard()
    assert engine.left_behind() == []


def test_a_frontend_that_dies_later_ends_the_engine(engines: Engines) -> None:
    engine = engines.start()
    engine.wait_until_up()
    engine.kill_actor("frontend")
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert lines[0].startswith("frontend was killed (SIGKILL)")
    assert engine.left_behind() == []


def test_an_actor_that_fails_later_is_told_with_its_reason(engines: Engines) -> None:
    engine = engines.start(frontend="fail later")
    assert engine.end() == (1, ["frontend failed: ValueError: broke on a message"])
    assert engine.left_behind() == []


def test_a_frontend_that_cannot_end_its_streams_is_not_waited_for(engines: Engines) -> None:
    engine = engines.start(frontend="deaf")
    engine.wait_until_up()
    engine.kill_actor("worker")
    assert engine.end()[0] == 1
    assert "frontend ActorDied" in engine.heard()
    assert engine.left_behind() == []


def test_an_actor_that_does_not_leave_is_killed(engines: Engines) -> None:
    engine = engines.start({"shutdown_s": 0.2}, worker="slow to leave")
    engine.wait_until_up()
    engine.signal(signal.SIGINT)
    assert engine.end() == (0, ["worker did not leave in time and is killed"])
    assert engine.left_behind() == []


def test_children_do_not_outlive_a_supervisor_that_was_killed(engines: Engines) -> None:
    engine = engines.start(worker="talk")
    engine.wait_until_up()
    engine.kill_supervisor()


def test_the_next_engine_clears_away_after_one_that_was_killed(engines: Engines) -> None:
    engine = engines.start()
    engine.wait_until_up()
    engine.kill_supervisor()
    assert engine.left_behind() != []
    assert remove_stale_directories(engine.directory) == 1
    assert engine.left_behind() == []


def test_what_an_actor_writes_is_shown_with_its_role(engines: Engines) -> None:
    engine = engines.start(worker="talk")
    engine.wait_for_error_line("worker          | hello from the inside")
    engine.wait_until_up()
    engine.signal(signal.SIGINT)
    assert engine.end() == (0, [])


def test_every_actor_has_a_session_of_its_own(engines: Engines) -> None:
    engine = engines.start()
    engine.wait_until_up()
    for pid in engine.pids.values():
        assert os.getsid(pid) == pid
    engine.signal(signal.SIGINT)
    assert engine.end()[0] == 0


def test_a_companion_leaves_with_the_engine_and_is_told_nothing(engines: Engines) -> None:
    engine = engines.start(companion="stay")
    engine.wait_until_up()
    engine.wait_until_heard("companion --death-fd")
    engine.signal(signal.SIGINT)
    assert engine.end() == (0, [])
    assert [line for line in engine.heard() if "companion" in line] == ["companion --death-fd"]
    assert engine.left_behind() == []


@pytest.mark.parametrize("behaviour", ["end", "crash"])
def test_a_companion_that_ends_does_not_end_the_engine(engines: Engines, behaviour: str) -> None:
    engine = engines.start(companion=behaviour)
    engine.wait_until_up()
    engine.wait_for_error_line("engine-up: companion ended with exit code")
    engine.signal(signal.SIGINT)
    assert engine.end() == (0, [])
    assert engine.left_behind() == []


def test_a_companion_that_ends_during_the_start_does_not_stop_it(engines: Engines) -> None:
    engine = engines.start({"start_timeout_s": 0.5}, companion="end", worker="never ready")
    exit_code, lines = engine.end()
    assert exit_code == 1
    assert any(
        line == "not ready after 0.5 s: worker; a large model may need a longer --start-timeout"
        for line in lines
    )


def processors_of(pid: int) -> list[set[int]]:
    """Of its threads, the first one's first."""
    others = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    others.remove(pid)
    return [os.sched_getaffinity(thread) for thread in (pid, *others)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_a_worker_of_one_thread_and_the_core_are_kept_apart(engines: Engines) -> None:
    engine = engines.start(worker="one thread")
    engine.wait_until_up()
    allowed = os.sched_getaffinity(0)
    own, *links = processors_of(engine.pids["worker"])
    elsewhere = links + processors_of(engine.pids["engine_core"])
    assert len(own) == 1 and own < allowed
    assert links and all(thread and thread <= allowed - own for thread in elsewhere)
    assert all(thread == allowed for thread in processors_of(engine.pids["frontend"]))


@pytest.mark.parametrize("worker", ["", "one free thread"])
def test_a_worker_of_many_threads_or_by_request_runs_anywhere(
    worker: str, engines: Engines
) -> None:
    engine = engines.start(worker=worker)
    engine.wait_until_up()
    for pid in engine.pids.values():
        assert all(thread == os.sched_getaffinity(0) for thread in processors_of(pid))
