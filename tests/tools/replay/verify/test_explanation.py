"""A divergence comes with what a person needs: state, events, the request's life, what then."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from capturing import capture
from msgspec import structs
from mutants import (
    code_of,
    drifting_at,
    forgetful_of_aborts,
    lying_at,
    misremembering_before,
    raising_at,
)

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.digest import COMPONENTS
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.kv_manager import KvManager
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import Row, StepId
from tokenreel.messages.requests import AbortRequest, RequestAdmitted
from tokenreel.messages.steps import SequencePreempted, StepBegan, StepScheduled
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import Journal, open_journal
from tokenreel.tools.replay.text_layout import MAX_WIDTH
from tokenreel.tools.replay.verify.component_state import states_of
from tokenreel.tools.replay.verify.divergence import Divergence
from tokenreel.tools.replay.verify.divergence_text import detail_lines, place_lines, short_line
from tokenreel.tools.replay.verify.verify import verify


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return open_journal(capture(tmp_path_factory.mktemp("journals"), events_per_segment=150))


@pytest.fixture(scope="module")
def events(journal: Journal) -> list[RecordedEvent]:
    return list(recorded_events(journal))


def divergence_of(journal: Journal, code: CoreCode) -> Divergence:
    found = verify(journal, code).divergence
    assert found is not None
    return found


def text_of(divergence: Divergence) -> str:
    lines = [*place_lines(divergence), *detail_lines(divergence, 0), short_line(divergence)]
    text = "\n".join(lines)
    assert [line for line in text.splitlines() if len(line) > MAX_WIDTH] == []
    return " ".join(text.split())


def test_a_digest_comes_with_the_replayed_state_of_what_differs(
    journal: Journal, events: list[RecordedEvent]
) -> None:
    found = divergence_of(journal, drifting_at(30))
    assert found.components == ("counters",)
    began = next(e for e in events if isinstance(e.event, StepBegan) and e.event.step_id == 30)
    engine = Engine(_config(journal))
    for event in events[: events.index(began) + 1]:
        engine.apply(event.event)
    counters = found.replayed_state["counters"]
    assert counters["num_ignored"] == engine.num_ignored + 1
    assert counters["next_step_id"] == 31
    assert counters["num_open_steps"] == len(engine.open_steps)
    assert counters["num_requests"] == len(engine.requests)
    assert "num_ignored" in text_of(found)


def test_every_component_of_the_real_core_can_be_shown(journal: Journal) -> None:
    """Against a core that is asked directly, so that a renamed field does not go unseen."""
    engine = Engine(_config(journal))
    for event in list(recorded_events(journal))[:400]:
        engine.apply(event.event)
    states = states_of(engine.snapshot(), COMPONENTS)
    assert tuple(states) == COMPONENTS
    assert states["queues"]["running"] == [s.seq_id for s in engine.queues.running]
    assert set(states["queues"]["waiting"]) == set(engine.queues.waiting)
    [first, *_] = states["sequences"]["sequences"]
    sequence = engine.sequences[first["seq_id"]]
    assert first["num_computed"] == sequence.num_computed
    assert first["num_known"] == sequence.num_known
    assert first["status"] == sequence.status.name.lower()
    tables = states["block_tables"]
    assert tables == {
        f"sequence {s.seq_id}": s.block_table for s in engine.queues.running if s.block_table
    }
    assert states["free_list"]["free"] == list(engine.kv.pool.free)
    assert states["free_list"]["evictable"] == list(engine.kv.pool.evictable)
    assert len(states["cache"]["blocks"]) == len(engine.kv.cache.hash_of)


def test_a_drift_that_no_effect_shows_is_followed_to_the_next_snapshot(journal: Journal) -> None:
    found = divergence_of(journal, drifting_at(30))
    behind = found.aftermath
    assert behind is not None and behind.first_effect is None
    assert behind.state is not None
    assert behind.state.path == "snapshot['num_ignored']"
    assert behind.state.segment == "engine-1-1.tkr"
    assert int(behind.state.replayed) == int(behind.state.recorded) + 1
    text = text_of(found)
    assert "drift" in text and "no effect differs up to the segment's end" in text


class Reversing(Engine):
    """Whoever ends gives its blocks back the other way round: who gets which shows it later."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.kv.__class__ = GivesBackInReverse


class GivesBackInReverse(KvManager):
    def release(self, sequence: Sequence) -> None:
        drops: list[Callable[[], None]] = []
        drop = self.pool.drop
        self.pool.drop = lambda *args, **kw: drops.append(partial(drop, *args, **kw))  # type: ignore[method-assign]
        super().release(sequence)
        del self.pool.drop
        for give_back in reversed(drops):
            give_back()


def test_a_drift_that_shows_later_names_the_first_effect_that_differs(journal: Journal) -> None:
    found = divergence_of(journal, code_of(Reversing))
    assert "free_list" in found.components
    behind = found.aftermath
    assert behind is not None and behind.first_effect is not None
    assert behind.first_effect.seq > found.seq and behind.first_effect.step > found.step
    assert behind.first_effect.path.startswith("StepScheduled.")
    assert "first effect that differs" in text_of(found)


def test_an_effect_that_alone_differs_is_told_from_a_state_that_does(journal: Journal) -> None:
    lied = divergence_of(journal, lying_at(30))
    behind = lied.aftermath
    assert behind is not None
    assert behind.num_steps > 10 and behind.num_steps_agreed == behind.num_steps
    assert "as recorded in all" in text_of(lied)

    deaf = divergence_of(journal, forgetful_of_aborts())
    behind = deaf.aftermath
    assert behind is not None
    assert behind.num_steps_agreed < behind.num_steps
    assert "steps behind it" in text_of(deaf)


def test_the_events_since_the_last_step_that_agreed_are_told(
    journal: Journal, events: list[RecordedEvent]
) -> None:
    found = divergence_of(journal, drifting_at(30))
    steps = [
        number
        for number, event in enumerate(events)
        if isinstance(event.event, StepBegan) and event.effects
    ]
    place = next(number for number in steps if events[number].event == StepBegan(StepId(30)))
    before = steps[steps.index(place) - 1]
    expected = [(event.seq, event.offset) for event in events[before + 1 : place + 1]]
    assert [(line.seq, line.offset) for line in found.inputs] == expected
    assert found.num_inputs_omitted == 0
    assert "Given to the core since step 29, which agreed:" in text_of(found)


class OtherRow(Engine):
    """From step 40 on, names another row for the second sequence that it schedules."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        return [_with_other_row(effect) for effect in super().apply(event)]


def _with_other_row(effect: Effect) -> Effect:
    if isinstance(effect, StepScheduled) and len(effect.scheduled) > 1 and effect.step_id >= 40:
        second = structs.replace(effect.scheduled[1], row=Row(99))
        others = [effect.scheduled[0], second, *effect.scheduled[2:]]
        return structs.replace(effect, scheduled=others)
    return effect


def test_the_request_is_told_from_the_field_and_its_life_up_to_there(
    journal: Journal, events: list[RecordedEvent]
) -> None:
    found = divergence_of(journal, code_of(OtherRow))
    assert found.path == "StepScheduled.scheduled[1].row"
    effects = [(event, effect) for event in events for effect in event.effects]
    steps = {e.step_id: e for _, e in effects if isinstance(e, StepScheduled)}
    [history] = found.requests
    assert steps[StepId(found.step)].scheduled[1].seq_id in history.seq_ids
    assert history.is_whole

    admitted, seq_ids = next(
        (event, effect.seq_ids)
        for event, effect in effects
        if isinstance(effect, RequestAdmitted) and effect.key == history.key
    )
    assert history.seq_ids == seq_ids
    assert [line.what for line in history.lines[:2]] == ["arrived", "admitted"]
    assert history.lines[0].seq == admitted.seq
    assert all(line.seq <= found.seq for line in history.lines)
    scheduled = sum(
        share.num_tokens
        for step_id, step in steps.items()
        if step_id <= found.step
        for share in step.scheduled
        if share.seq_id in seq_ids
    )
    assert sum(line.num_tokens for line in history.lines) == scheduled > 0
    preempted = [
        event.seq < found.seq
        for event, effect in effects
        if isinstance(effect, SequencePreempted) and effect.seq_id in seq_ids
    ]
    told = [line.what for line in history.lines]
    assert told.count("preempted") == sum(preempted)
    assert history.key is not None
    assert f"The life of request {history.key[0]}.{history.key[1]}" in text_of(found)


def test_an_event_names_the_request_where_no_field_does(
    journal: Journal, events: list[RecordedEvent]
) -> None:
    found = divergence_of(journal, forgetful_of_aborts())
    abort = next(e for e in events if isinstance(e.event, AbortRequest) and e.effects)
    assert isinstance(abort.event, AbortRequest)
    assert found.input_seq == abort.seq
    [history] = found.requests
    assert history.key == abort.event.key
    assert "abort asked" in [line.what for line in history.lines]


def test_a_life_that_began_before_the_journal_does_is_told_as_far_as_it_is_there(
    journal: Journal,
) -> None:
    alone = open_journal(journal.directory / journal.segments[2].name)
    found = divergence_of(alone, code_of(OtherRow))
    [history] = found.requests
    assert not history.is_whole and history.key is None
    assert "it came in before this journal begins" in text_of(found)


def test_an_exception_has_no_aftermath_but_a_place(journal: Journal) -> None:
    found = divergence_of(journal, raising_at(30))
    assert found.step == 30
    assert found.replayed == "raised IndexError: pop from an empty deque"
    text_of(found)


def test_a_snapshot_that_differs_names_the_sequence(journal: Journal) -> None:
    step = _next_step_at(journal, 2)
    found = divergence_of(journal, misremembering_before(step))
    assert found.path == "snapshot['num_ignored']" and found.aftermath is None
    text_of(found)


def test_without_explanations_the_place_is_the_same(journal: Journal) -> None:
    plain = verify(journal, forgetful_of_aborts(), explained=False).divergence
    assert plain is not None and not plain.requests and plain.aftermath is None
    full = divergence_of(journal, forgetful_of_aborts())
    kept = msgspec.structs.replace(full, requests=[], aftermath=None, inputs=[], replayed_state={})
    assert kept == plain


def _config(journal: Journal) -> CoreConfig:
    configuration = verify(journal, installed_core()).configuration
    assert isinstance(configuration, CoreConfig)
    return configuration


def _next_step_at(journal: Journal, index: int) -> int:
    first = journal.segments[index].header.first_seq
    return 1 + max(
        event.event.step_id
        for event in recorded_events(journal)
        if isinstance(event.event, StepBegan) and event.effects and event.seq < first
    )
