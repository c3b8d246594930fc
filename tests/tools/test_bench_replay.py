"""What the bench measures is a run as it should be: full, and replayed without a difference."""

from pathlib import Path

from tokenreel.messages.steps import StepDecided
from tokenreel.tools.bench_replay import Streams, record, verify_time_s


def test_every_stream_runs_all_the_time_whoever_waits_or_is_over() -> None:
    streams = Streams(4, max_in_flight=40)
    streams.finish(10)
    streams.admit(20)
    for _ in range(200):
        for _, effects in streams.turn():
            for effect in effects:
                if isinstance(effect, StepDecided):
                    assert effect.num_running == 4
    assert streams.num_admitted == 30
    assert 14 <= len(streams.engine.requests) < 30, "some have ended, others took their place"


def test_the_run_that_is_measured_verifies(tmp_path: Path) -> None:
    run_dir, encode_us, journal_us = record(tmp_path, num_streams=3, num_steps=50)
    assert min(encode_us, journal_us, *verify_time_s(run_dir)) > 0
