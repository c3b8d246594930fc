"""The times of a redacted journal tell how long, not when, and nothing of a machine's clock."""

from pathlib import Path

import pytest
from conversing import CONFIG, Asked, Conversation

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepCompleted
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.writing import EVENT_NS, Capture, Identity, RunWriter, run_meta
from tokenreel.tools.replay.redact.clock import RedactedClock
from tokenreel.tools.replay.redact.redact import redact

UPTIME_NS = 123_456_789_012_345
NOW_NS = UPTIME_NS + 9_000


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ((UPTIME_NS + 2_000, UPTIME_NS + 7_000), (2_000, 7_000)),
        ((UPTIME_NS, NOW_NS), (0, 9_000)),
        ((0, 0), (0, 0)),
        ((77, 5_077), (0, 5_000)),
        ((UPTIME_NS - 1, UPTIME_NS + 4_999), (0, 5_000)),
        ((NOW_NS - 1, NOW_NS + 4_999), (0, 5_000)),
        ((10**17, 10**17 + 5_000), (0, 5_000)),
        ((UPTIME_NS + 5_000, UPTIME_NS), (0, 0)),
        ((0, NOW_NS), (0, 9_000)),
    ],
)
def test_a_worker_with_another_clock_says_only_how_long_it_took(
    recorded: tuple[int, int], told: tuple[int, int]
) -> None:
    clock = RedactedClock(UPTIME_NS, 0, keeps_timing=True, keeps_day=True)
    clock.tick(NOW_NS)

    assert clock.at_worker(*recorded) == told


@pytest.mark.parametrize("recorded", [(0, 0), (NOW_NS - 5, NOW_NS - 1), (10**17, 10**17 + 5_000)])
def test_without_timing_a_step_takes_no_time(recorded: tuple[int, int]) -> None:
    clock = RedactedClock(UPTIME_NS, 0, keeps_timing=False, keeps_day=True)
    clock.tick(NOW_NS)

    assert clock.at_worker(*recorded) == (EVENT_NS, EVENT_NS)


class CaptureAtUptime(Capture):
    """Its worker counts from 0: as if it had another clock."""

    def __call__(
        self, engine: Engine, event: CoreEvent, effects: list[Effect], t_ns: int | None = None
    ) -> None:
        super().__call__(engine, event, effects, UPTIME_NS + EVENT_NS * (1 + self.num_events))


def test_when_the_machine_was_started_is_nowhere_in_the_result(tmp_path: Path) -> None:
    identity = Identity(monotonic_ns=UPTIME_NS, wall_ns=1)
    with RunWriter(tmp_path / "run", run_meta(CONFIG), identity) as writer:
        Conversation(Engine(CONFIG), [Asked(prompt=[1, 2, 3])], CaptureAtUptime(writer)).play()

    redact(open_journal(tmp_path / "run"), tmp_path / "out", installed_core())

    events = list(recorded_events(open_journal(tmp_path / "out")))
    done = [each.event for each in events if isinstance(each.event, StepCompleted)]
    times = [each.t_ns for each in events]
    times += [t_ns for event in done for t_ns in (event.began_ns, event.ended_ns)]
    assert done and all(0 <= t_ns < UPTIME_NS // 2 for t_ns in times)
