"""`engine-replay view` as a person starts and ends it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tokenreel.tools.replay.cli import main

PATIENCE_S = 60


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "view", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " is shown at http://127.0.0.1:" in line and line.endswith("/ (Ctrl-C to stop)\n")
    return line.split(" is shown at ")[1].split()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_leave_and_says_nothing_else(
    journal: Path, number: signal.Signals
) -> None:
    with started(str(journal), "--port", "0") as process:
        with httpx.Client(base_url=address_of(process), trust_env=False) as client:
            assert client.get("api/run").json()["run_id"] == journal.name
            process.send_signal(number)
            assert process.communicate(timeout=PATIENCE_S) == ("", "")
        assert process.returncode == 0


def test_neither_torch_nor_zmq_is_loaded(journal: Path) -> None:
    with started(str(journal), "--port", "0") as process:
        with httpx.Client(base_url=address_of(process), trust_env=False) as client:
            assert client.get("api/step/9").status_code == 200
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "msgspec" in mapped
        assert "zmq" not in mapped and "torch" not in mapped


def test_on_a_socket_only_its_owner_may_ask_and_the_journal_may_come_later(
    journal: Path, tmp_path: Path
) -> None:
    place, link = tmp_path / "view.sock", tmp_path / "journal"
    death_fd, own_fd = os.pipe()
    command = [sys.executable, "-P", "-m", "tokenreel.tools.replay", "view", str(link)]
    command += ["--socket", str(place), "--death-fd", str(death_fd)]
    with subprocess.Popen(command, pass_fds=[death_fd], stderr=subprocess.PIPE) as process:
        os.close(death_fd)
        _wait_for(place)
        transport = httpx.HTTPTransport(uds=str(place))
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            early = client.get("/api/run")
            assert (early.status_code, early.json()["error"]["code"]) == (503, "journal")
            assert place.stat().st_mode & 0o077 == 0
            link.symlink_to(journal)
            assert client.get("/api/run").json()["run_id"] == journal.name
        os.close(own_fd)  # as when the supervisor is killed
        assert process.wait(PATIENCE_S) != 0


def _wait_for(place: Path) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(place)) == 0:
                return
        assert time.monotonic() < deadline, "nobody ever listened"
        time.sleep(0.01)


def refusal(capsys: pytest.CaptureFixture[str], exit_code: int, *arguments: str) -> str:
    try:
        found = main(["view", *arguments])
    except SystemExit as stop:
        found = stop.code  # type: ignore[assignment]
    assert found == exit_code
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def test_a_port_that_is_taken_is_told(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal(capsys, 64, str(journal), "--port", port)
    assert line == (
        f"engine-replay: port {port} on 127.0.0.1 is in use; choose another with --port"
    )


@pytest.mark.parametrize("flags", [("--port", "65536"), ("--port", "x"), ("--host", "no such")])
def test_a_wrong_place_to_listen_is_told(
    journal: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    assert flags[0] in refusal(capsys, 64, str(journal), *flags)


def test_no_journal_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no journal segments" in refusal(capsys, 66, str(tmp_path), "--port", "0")


def test_a_damaged_journal_is_told_with_its_place(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = tmp_path / "engine-1-0.tkr"
    data = bytearray((journal / segment.name).read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    line = refusal(capsys, 65, str(tmp_path), "--port", "0")
    assert "engine-1-0.tkr, offset " in line
