"""The journal while the engine runs: read by others, rotated, and on a disk that is full."""

import resource
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from running_engine import RunningEngine, verify

StartEngine = Callable[..., RunningEngine]
REQUEST: Any = {"model": "tokenreel-demo", "prompt": "x", "max_tokens": 30, "seed": 2}
MAX_ROUNDS = 1000
"""Of asking for something, until what must happen within a second or two has happened."""


def test_a_run_can_be_verified_while_it_goes_on(start_engine: StartEngine) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client:
        stream = client.completions.create(**REQUEST | {"n": 8, "max_tokens": 1500}, stream=True)
        num_chunks = sum(1 for _, chunk in zip(range(50), stream, strict=False) if chunk.choices)
        verdict = verify(engine.journal)
        num_chunks += sum(1 for _ in stream)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert num_chunks > 8


def test_a_journal_over_its_bound_drops_its_oldest_part_and_verifies_from_a_snapshot(
    start_engine: StartEngine,
) -> None:
    engine = start_engine("--stub-worker", "--journal-max-bytes", "1M").wait_until_ready()
    with engine.client() as client:
        for _ in range(6):
            client.completions.create(**REQUEST | {"n": 16, "max_tokens": 600})
    engine.stop()
    segments = sorted(path.name for path in engine.journal.glob("*.tkr"))
    assert "engine-1-0.tkr" not in segments and len(segments) > 3
    assert sum(path.stat().st_size for path in engine.journal.iterdir()) < 1.3 * 2**20
    verdict = verify(engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_without_a_journal_nothing_is_written(start_engine: StartEngine) -> None:
    engine = start_engine("--stub-worker", "--no-journal").wait_until_ready()
    with engine.client() as client:
        client.completions.create(**REQUEST)
    engine.stop()
    assert not engine.journal_dir.exists()


def fill_the_disk(engine: RunningEngine) -> None:
    """From now on the core can write little more into its journal."""
    (segment,) = engine.journal.glob("*.tkr")
    size = segment.stat().st_size + 1000
    resource.prlimit(
        engine.pids["engine_core"], resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)
    )


def empty_the_disk(engine: RunningEngine) -> None:
    _, hard = resource.prlimit(engine.pids["engine_core"], resource.RLIMIT_FSIZE)
    resource.prlimit(engine.pids["engine_core"], resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk_ends_the_engine_with_a_line_and_every_stream_in_band(
    start_engine: StartEngine,
) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    with engine.client() as client:
        client.completions.create(**REQUEST)
        fill_the_disk(engine)
        with pytest.raises((openai.APIError, httpx.HTTPError), match="engine_core"):
            list(client.completions.create(**REQUEST, stream=True))
    assert engine.wait_for_exit() == 1
    (complaint,) = engine.complaints
    assert complaint.startswith("engine-up: engine_core failed: ")
    assert "cannot write the journal" in complaint and "--journal-dir" in complaint
    verdict = verify(engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_told_to_go_on_it_serves_through_a_full_disk_and_marks_the_gap(
    start_engine: StartEngine,
) -> None:
    engine = start_engine("--stub-worker", "--on-journal-error", "gap").wait_until_ready()
    with engine.client() as client:
        expected = client.completions.create(**REQUEST).choices[0].text
        fill_the_disk(engine)
        assert client.completions.create(**REQUEST).choices[0].text == expected
        engine.wait_for_line("NOT RECORDING")
        empty_the_disk(engine)
        # A second later it tries again, once there is something to write.
        for _ in range(MAX_ROUNDS):
            client.completions.create(**REQUEST | {"n": 16, "max_tokens": 500})
            if "recording again" in engine.output:
                break
        engine.wait_for_line("recording again")
        assert client.completions.create(**REQUEST).choices[0].text == expected
    engine.stop()
    verdict = verify(engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "gap" in verdict.stdout
