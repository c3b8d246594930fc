"""A captured run with a bug in it comes down to a few requests and a test that shows the bug."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from capturing import CONFIG, REQUESTS, capture

from tokenreel.actors.core.block_pool import BlockPool
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.kv_manager import KvManager
from tokenreel.actors.core.prefix_cache import PrefixCache
from tokenreel.actors.core.queues import Queues
from tokenreel.actors.core.scenario import Scenario
from tokenreel.actors.core.scheduler import Scheduler
from tokenreel.messages.ids import BlockId
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.shrink.lifting import scenario_of
from tokenreel.tools.replay.shrink.pytest_file import (
    MAX_COLUMNS,
    MAX_LINES,
    name_of_test,
    pytest_file,
)
from tokenreel.tools.replay.shrink.shrink import Found, Shrunk, anything, look_for, shrink
from tokenreel.tools.replay.shrink.symptoms import Leaks, Raises, Stalls, Starves, Violates
from tokenreel.tools.replay.shrink.trial import Symptom, try_out

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    config = msgspec.structs.replace(CONFIG, num_blocks=24)  # or whatever leaks stalls, too
    scenario = Scenario(config=config, requests=REQUESTS)
    run = capture(tmp_path_factory.mktemp("journals"), scenario=scenario)
    return scenario_of(open_journal(run)).scenario


# Bugs, planted into the core of this process.


def a_block_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a run: with more the run would stall as well."""
    put_free, robbed = BlockPool._put_free, WeakSet[BlockPool]()

    def faulty(pool: BlockPool, block: BlockId) -> None:
        if pool.next_stamp > pool.num_blocks + 3 and pool not in robbed:
            robbed.add(pool)
        else:
            put_free(pool, block)

    monkeypatch.setattr(BlockPool, "_put_free", faulty)


def siblings_stay_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_unblock_siblings", lambda engine, sequence: None)


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvManager, "_written_by_open_steps", lambda kv, sequence: (None, 0, 0))


def stale_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a prefix gets blocks that another one filled."""

    def match(cache: PrefixCache, hashes: list[bytes], max_blocks: int) -> list[Any]:
        return list(cache.hash_of)[: min(1, max_blocks, len(hashes))]

    monkeypatch.setattr(PrefixCache, "match", match)


def last_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def head(queues: Queues) -> Any:
        return max(queues.waiting.values(), key=lambda s: s.order, default=None)

    monkeypatch.setattr(Queues, "head", head)


def raises_at_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = Scheduler.compose

    def faulty(scheduler: Scheduler, step_id: Any) -> Any:
        if len(scheduler._queues.running) > 2:
            raise LookupError("three are too many")
        return compose(scheduler, step_id)

    monkeypatch.setattr(Scheduler, "compose", faulty)


CASES = [
    pytest.param(a_block_is_lost, Leaks(), 1, id="leak"),
    pytest.param(siblings_stay_blocked, Stalls(), 1, id="stall"),
    pytest.param(no_fence, Violates("may still write"), 1, id="write-to-a-block-given-away"),
    pytest.param(stale_hits, Violates("somebody else's KV"), 2, id="wrong-kv"),
    pytest.param(last_come_first_served, Starves(4), 4, id="starvation"),
    pytest.param(raises_at_the_third, Raises("LookupError"), 2, id="exception"),
]


def shrunk_by(scenario: Scenario, symptom: Symptom) -> tuple[Found, Shrunk]:
    found = look_for(scenario, [symptom])
    assert found is not None
    return found, shrink(found)


@pytest.mark.parametrize(("plant", "symptom", "num_requests"), CASES)
def test_it_still_shows_and_each_request_is_needed(
    captured: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    plant: Plant,
    symptom: Symptom,
    num_requests: int,
) -> None:
    plant(monkeypatch)
    found, shrunk = shrunk_by(captured, symptom)
    left = shrunk.scenario.requests
    assert shrunk.is_minimal
    assert try_out(shrunk.scenario, symptom) is not None
    assert len(left) == num_requests
    for place in range(len(left)):
        without = left[:place] + left[place + 1 :]
        fewer = msgspec.structs.replace(shrunk.scenario, requests=without)
        assert try_out(fewer, symptom) is None


@pytest.mark.parametrize(("plant", "symptom", "num_requests"), CASES)
def test_the_written_test_fails_with_the_bug_and_passes_without(
    captured: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    plant: Plant,
    symptom: Symptom,
    num_requests: int,
) -> None:
    with monkeypatch.context() as planted:
        plant(planted)
        _, shrunk = shrunk_by(captured, symptom)
        text = pytest_file(shrunk.scenario, symptom, "seen", "here")
        test = function_in(text, name_of_test(symptom))
        with pytest.raises((AssertionError, LookupError)):
            test()
    test()
    lines = text.splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= MAX_COLUMNS


def test_when_time_is_up_the_smallest_so_far_is_what_comes_out(
    captured: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings_stay_blocked(monkeypatch)
    found = look_for(captured, [Stalls()])
    assert found is not None
    cut = shrink(found, deadline=0.0)
    assert not cut.is_minimal
    assert cut.num_tries == 0
    assert try_out(cut.scenario, Stalls()) is not None


def test_what_is_wrong_is_found_without_being_told(
    captured: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_for(captured, anything([])) is None
    with monkeypatch.context() as planted:
        siblings_stay_blocked(planted)
        found = look_for(captured, anything([]))
        assert found is not None and found.symptom.name == "stall"
    with monkeypatch.context() as planted:
        raises_at_the_third(planted)
        found = look_for(captured, anything([]))
        assert found is not None and found.symptom.name == "exception:LookupError"
    with monkeypatch.context() as planted:
        stale_hits(planted)
        found = look_for(captured, anything([]))
        assert found is not None and found.symptom.name.startswith("invariant:")


def function_in(text: str, name: str) -> Callable[[], None]:
    names: dict[str, Any] = {}
    exec(compile(text, "test_shrunk.py", "exec"), names)
    function: Callable[[], None] = names[name]
    return function
