"""Scheduler bugs that other engines had, one test per symptom. None may stall, leak or crash here.

Every scenario is played with all invariants checked after every event, against a worker that
notices a wrong block, a wrong token and an empty step.
"""

import contextlib

import msgspec
import pytest
from playing import limits, play

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import ConfigError, fitted
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.queues import max_line_length
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest, admit_of
from tokenreel.actors.core.scheduler import Composition, Scheduler
from tokenreel.actors.core.sequence import Sequence
from tokenreel.actors.core.snapshot import SnapshotError
from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import RequestKey, SeqId, StepId
from tokenreel.messages.outputs import OutputDelivered, TokensEmitted
from tokenreel.messages.requests import AbortRequest, RequestAdmitted, RequestRejected
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import (
    SampledTokens,
    SequenceFailure,
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepScheduled,
    Unscheduled,
)

LENGTH, STOP, ABORT = FinishReason.LENGTH, FinishReason.STOP, FinishReason.ABORT
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 3])


def request(num_prompt_tokens: int, max_tokens: int, **more: object) -> ScenarioRequest:
    return ScenarioRequest(
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=max_tokens,
        **more,  # type: ignore[arg-type]
    )


@DEPTHS
def test_b01_a_request_larger_than_the_pool_is_refused_and_wedges_nobody(depth: int) -> None:
    config = limits(num_blocks=8, max_model_len=1000, pipeline_depth=depth)
    transcript = play(config, request(33, 4), request(4, 3))
    assert transcript.rejected == {0: "context_length_exceeded"}
    assert transcript.reasons == {(1, 0): LENGTH}


def test_b01_a_request_within_the_pool_but_not_with_its_output_is_refused() -> None:
    config = limits(num_blocks=8, max_model_len=1000)
    transcript = play(config, request(30, 3), request(30, 2))
    assert transcript.rejected == {0: "context_length_exceeded"}
    assert transcript.reasons == {(1, 0): LENGTH}


@DEPTHS
def test_b02_two_half_loaded_requests_never_hold_what_the_other_needs(depth: int) -> None:
    config = limits(num_blocks=16, max_num_batched_tokens=8, pipeline_depth=depth)
    transcript = play(config, request(38, 2), request(38, 2))
    assert transcript.reasons == {(0, 0): LENGTH, (1, 0): LENGTH}
    assert transcript.num_preemptions == 0


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("num_blocks", [5, 6, 7])
def test_b04_an_output_returns_after_its_request_was_preempted(depth: int, num_blocks: int) -> None:
    config = limits(num_blocks=num_blocks, block_size=2, max_model_len=10, pipeline_depth=depth)
    transcript = play(config, *(request(2, 6) for _ in range(4)))
    assert transcript.num_preemptions >= 2
    assert set(transcript.reasons.values()) == {LENGTH}


@DEPTHS
@pytest.mark.parametrize("num_prompt_tokens", [7, 8, 9, 15, 16, 17])
def test_b05_the_step_message_alone_says_whether_a_chunk_yields_a_token(
    depth: int, num_prompt_tokens: int
) -> None:
    config = limits(max_num_batched_tokens=8, pipeline_depth=depth)
    transcript = play(config, *(request(num_prompt_tokens, 3) for _ in range(3)))
    assert [len(tokens) for tokens in transcript.outputs.values()] == [3, 3, 3]


@DEPTHS
def test_b06_a_priority_victim_is_never_one_already_scheduled_in_the_step(depth: int) -> None:
    config = limits(num_blocks=8, scheduling_policy="priority", pipeline_depth=depth)
    transcript = play(
        config,
        request(12, 8, priority=5),
        request(8, 4, priority=1, arrival=2),
        request(12, 6, priority=0, arrival=3),
    )
    assert transcript.num_preemptions >= 1
    assert set(transcript.reasons.values()) == {LENGTH}


@DEPTHS
def test_b08_high_priority_does_not_wait_behind_a_full_running_set(depth: int) -> None:
    config = limits(max_num_seqs=2, scheduling_policy="priority", pipeline_depth=depth)
    transcript = play(
        config,
        request(4, 20, priority=9),
        request(4, 20, priority=9),
        request(4, 3, priority=0, arrival=3),
    )
    order = [number for number, _ in transcript.reasons]
    assert order[0] == 2, "the urgent request ends first"
    assert transcript.num_preemptions == 1


@DEPTHS
def test_b08_equal_priorities_do_not_displace_one_another(depth: int) -> None:
    config = limits(max_num_seqs=2, scheduling_policy="priority", pipeline_depth=depth)
    transcript = play(config, *(request(4, 6, priority=3, arrival=i) for i in range(6)))
    assert transcript.num_preemptions == 0
    assert [number for number, _ in transcript.reasons] == [0, 1, 2, 3, 4, 5]


@DEPTHS
def test_b10_hit_blocks_are_held_before_others_are_taken(depth: int) -> None:
    """The pool is nearly full of evictable blocks; the hit and the allocation want the same."""
    config = limits(num_blocks=8, max_num_seqs=3, pipeline_depth=depth)
    shared = {"prefix_group": 3, "num_shared_tokens": 16}
    transcript = play(
        config,
        request(20, 4, **shared),
        request(24, 4, arrival=20),
        request(22, 6, arrival=21, **shared),
        request(21, 6, arrival=22, **shared),
    )
    assert set(transcript.reasons.values()) == {LENGTH}


@pytest.mark.parametrize("depth", [2, 3])
def test_b11_a_block_is_not_reused_while_a_step_in_flight_may_write_it(depth: int) -> None:
    engine = Engine(limits(num_blocks=2, max_num_seqs=2, max_model_len=8, pipeline_depth=depth))
    scenario = Scenario(
        config=engine.config,
        requests=(request(4, 4, stop_token_ids=(0,)), request(4, 4)),
    )
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepBegan(StepId(2)))  # writes the second block
    engine.apply(admit_of(scenario, 1))
    engine.apply(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [0])], 0, 0))
    assert engine.statistics().num_fenced_blocks == 1
    assert engine.kv.pool.num_available == 1
    engine.apply(StepCompleted(StepId(2), [SampledTokens(SeqId(1), [5])], 0, 0))
    assert engine.statistics().num_fenced_blocks == 0
    assert engine.kv.pool.num_available == 2


@DEPTHS
def test_b12_a_preempted_sequence_starts_from_a_clean_slate(depth: int) -> None:
    """With a full prefix hit on resumption: every derived counter is restored by one function."""
    config = limits(num_blocks=9, max_num_seqs=3, pipeline_depth=depth)
    shared = {"prefix_group": 1, "num_shared_tokens": 8}
    transcript = play(config, *(request(8, 20, **shared) for _ in range(3)))
    assert transcript.num_preemptions >= 1
    assert set(transcript.reasons.values()) == {LENGTH}


@DEPTHS
def test_b13_a_request_skipped_by_the_budget_feeds_no_placeholder(depth: int) -> None:
    config = limits(max_num_batched_tokens=2, pipeline_depth=depth)
    transcript = play(config, *(request(3 + i, 5) for i in range(4)))
    assert set(transcript.reasons.values()) == {LENGTH}


@DEPTHS
@pytest.mark.parametrize("abort_turn", range(0, 14))
def test_b15_b17_b19_b24_an_abort_at_any_turn_frees_once_and_ends_the_stream(
    depth: int, abort_turn: int
) -> None:
    config = limits(max_num_batched_tokens=4, pipeline_depth=depth)
    transcript = play(
        config,
        request(11, 5, abort_turn=abort_turn, n=2),
        request(6, 4),
        request(9, 3, arrival=abort_turn, abort_turn=abort_turn + 1),
    )
    assert transcript.reasons[1, 0] is LENGTH
    ends = {reason for (number, _), reason in transcript.reasons.items() if number != 1}
    assert ends <= {ABORT, LENGTH}


def test_b15_aborting_twice_is_aborting_once() -> None:
    engine, _ = admitted()
    assert len(engine.apply(AbortRequest(RequestKey(1, 0)))) == 2
    assert engine.apply(AbortRequest(RequestKey(1, 0))) == []
    engine.apply(OutputDelivered((SeqId(1),)))
    assert engine.apply(AbortRequest(RequestKey(1, 0))) == []
    assert engine.apply(OutputDelivered((SeqId(1),))) == []
    assert not engine.tombstones


def test_b16_an_abort_that_overtakes_its_admit_annuls_it() -> None:
    transcript = play(limits(), request(4, 4, arrival=3, abort_turn=1), request(4, 4, arrival=3))
    assert transcript.rejected == {0: "aborted"}
    assert transcript.reasons == {(1, 0): LENGTH}


def test_b16_a_key_is_never_used_twice() -> None:
    engine, admit = admitted()
    assert engine.apply(admit) == []
    assert engine.statistics().num_requests == 1


def test_b16_tombstones_are_bounded() -> None:
    engine = Engine(limits(max_in_flight=3))
    for number in range(10):
        engine.apply(AbortRequest(RequestKey(1, 100 + number)))
    assert list(engine.tombstones) == [RequestKey(1, 100 + number) for number in (7, 8, 9)]


@DEPTHS
@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
@pytest.mark.parametrize("stop_delay", [0, 2, 5])
def test_b18_a_late_stop_string_decides_by_its_place_not_its_time(
    depth: int, stop_after: int, stop_delay: int
) -> None:
    config = limits(pipeline_depth=depth)
    transcript = play(config, request(5, 5, stop_after=stop_after, stop_delay=stop_delay))
    assert transcript.reasons == {(0, 0): STOP}
    assert len(transcript.outputs[0, 0]) == stop_after


def test_b19_no_token_follows_an_abort() -> None:
    engine, _ = admitted()
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepBegan(StepId(2)))
    engine.apply(AbortRequest(RequestKey(1, 0)))
    for step in (1, 2):
        completed = StepCompleted(StepId(step), [SampledTokens(SeqId(1), [5])], 0, 0)
        assert engine.apply(completed) == []
    assert engine.kv.pool.num_available == engine.config.num_blocks


@pytest.mark.parametrize("depth", [2, 3])
def test_b20_a_row_is_reused_while_a_step_of_its_last_owner_is_in_flight(depth: int) -> None:
    """What a step brings is booked by sequence, never by whatever the row holds meanwhile."""
    config = limits(max_num_seqs=1, pipeline_depth=depth)
    transcript = play(config, *(request(3, 9, stop_after=2 + i % 3) for i in range(6)))
    assert set(transcript.reasons.values()) == {STOP}


@DEPTHS
def test_b22_the_last_running_request_can_always_grow(depth: int) -> None:
    config = limits(num_blocks=6, block_size=1, max_model_len=6, pipeline_depth=depth)
    transcript = play(config, *(request(1, 5) for _ in range(3)))
    assert set(transcript.reasons.values()) == {LENGTH}


def test_b23_an_empty_batch_is_never_dispatched() -> None:
    engine, _ = admitted(max_tokens=1)
    first = engine.apply(StepBegan(StepId(1)))
    assert any(isinstance(effect, StepScheduled) for effect in first)
    assert engine.apply(StepBegan(StepId(2))) == []  # all that may be computed is in flight
    assert not engine.wants_step()
    assert engine.next_step_id == 2


@DEPTHS
def test_b27_a_pool_filled_by_long_outputs_is_an_answer_not_an_exception(depth: int) -> None:
    config = limits(num_blocks=10, max_model_len=40, max_num_seqs=4, pipeline_depth=depth)
    transcript = play(config, *(request(5, 30, n=2) for _ in range(4)))
    assert set(transcript.reasons.values()) == {LENGTH}
    assert transcript.num_preemptions > 0


# What the design adds to that list.


@DEPTHS
@pytest.mark.parametrize("caching", [True, False])
def test_siblings_share_the_full_blocks_of_their_prompt(depth: int, caching: bool) -> None:
    config = limits(enable_prefix_caching=caching, pipeline_depth=depth, max_num_batched_tokens=64)
    engine = Engine(config)
    scenario = Scenario(config=config, requests=(request(10, 4, n=3),))
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))
    assert engine.statistics().num_blocked == 2, "siblings wait for the prompt"
    engine.apply(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [5])], 0, 0))
    (scheduled, *_) = steps(engine.apply(StepBegan(StepId(2))))
    tables = [added.block_ids for added in scheduled.added]
    assert tables == [engine.sequences[SeqId(1)].block_table[:2]] * 2
    assert [entry.start for entry in scheduled.scheduled] == [10, 8, 8]


def test_without_prefix_caching_strangers_share_nothing() -> None:
    config = limits(enable_prefix_caching=False)
    shared = {"prefix_group": 1, "num_shared_tokens": 12}
    scenario = Scenario(
        config=config, requests=(request(12, 2, **shared), request(12, 2, **shared))
    )
    engine = Engine(config)
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [5])], 0, 0))
    engine.apply(admit_of(scenario, 1))
    (step,) = steps(engine.apply(StepBegan(StepId(2))))
    assert step.added[0].block_ids == []


def test_a_prefix_hit_leaves_one_token_to_compute() -> None:
    config = limits()
    shared = {"prefix_group": 1, "num_shared_tokens": 8}
    scenario = Scenario(config=config, requests=(request(8, 2, **shared), request(8, 2, **shared)))
    engine = Engine(config)
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [5])], 0, 0))
    engine.apply(admit_of(scenario, 1))
    (step,) = steps(engine.apply(StepBegan(StepId(2))))
    entry = next(entry for entry in step.scheduled if entry.seq_id == 2)
    assert (entry.start, entry.num_tokens) == (4, 4)
    assert engine.sequences[SeqId(2)].num_cached_tokens == 4


def test_a_wrong_answer_of_the_worker_ends_one_sequence_only() -> None:
    config = limits()
    scenario = Scenario(config=config, requests=(request(4, 3), request(4, 3), request(4, 3)))
    engine = Engine(config)
    for number in range(3):
        engine.apply(admit_of(scenario, number))
    engine.apply(StepBegan(StepId(1)))
    outputs = [SampledTokens(SeqId(1), [5]), SampledTokens(SeqId(2), [config.vocab_size])]
    (emitted, *_) = engine.apply(StepCompleted(StepId(1), outputs, 0, 0))
    assert isinstance(emitted, TokensEmitted)
    assert [tokens.finish_reason for tokens in emitted.sequences] == [
        None,
        FinishReason.ERROR,
        FinishReason.ERROR,
    ]
    assert "outside the vocabulary" in emitted.sequences[1].error


def test_a_chunk_that_failed_is_no_prefix_for_anybody() -> None:
    config = limits(max_num_batched_tokens=8)
    shared = {"prefix_group": 1, "num_shared_tokens": 12}
    scenario = Scenario(config=config, requests=(request(12, 2, **shared),) * 2)
    engine = Engine(config)
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))  # 8 of 12 tokens: no logits
    refused = [SequenceFailure(SeqId(1), "the worker refused the step")]
    (emitted, *_) = engine.apply(StepCompleted(StepId(1), [], 0, 0, refused))
    assert isinstance(emitted, TokensEmitted)
    assert emitted.sequences[0].finish_reason is FinishReason.ERROR
    engine.apply(admit_of(scenario, 1))
    (step,) = steps(engine.apply(StepBegan(StepId(2))))
    assert step.added[0].block_ids == []


def test_b16_tombstones_of_requests_that_never_come_go_with_the_next_that_does() -> None:
    engine = Engine(limits())
    scenario = Scenario(config=engine.config, requests=(request(4, 3),) * 3)
    engine.apply(AbortRequest(RequestKey(1, 0)))
    engine.apply(AbortRequest(RequestKey(1, 1)))
    engine.apply(AbortRequest(RequestKey(2, 0)))
    (admitted,) = engine.apply(admit_of(scenario, 2))
    assert isinstance(admitted, RequestAdmitted)
    assert list(engine.tombstones) == [RequestKey(2, 0)]


def test_the_queue_is_bounded_and_says_so() -> None:
    config = limits(max_in_flight=2)
    transcript = play(config, *(request(4, 3) for _ in range(3)))
    assert transcript.rejected == {2: "queue_full"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prompt_token_ids": [], "block_hashes": []}, "empty_prompt"),
        ({"prompt_token_ids": [1, -1, 3, 4]}, "invalid_token_id"),
        ({"prompt_token_ids": [1, 1000, 3, 4]}, "invalid_token_id"),
        ({"n": 0}, "invalid_value"),
        ({"n": 5}, "invalid_value"),
        ({"block_hashes": []}, None),
        ({"block_hashes": [b"x" * 16] * 3}, "internal_error"),
    ],
)
def test_an_admit_is_validated_never_asserted_upon(
    changes: dict[str, object], code: str | None
) -> None:
    scenario = Scenario(config=limits(), requests=(request(4, 3),))
    admit = msgspec.structs.replace(admit_of(scenario, 0), **changes)
    (effect,) = Engine(limits()).apply(admit)
    found = effect.code if isinstance(effect, RequestRejected) else None
    assert found == code
    assert isinstance(effect, RequestAdmitted | RequestRejected)


def test_a_key_with_a_negative_epoch_does_not_kill_the_core() -> None:
    config = limits(enable_prefix_caching=False)
    admit = admit_of(Scenario(config=config, requests=(request(4, 3, n=2),)), 0)
    admit = msgspec.structs.replace(admit, key=RequestKey(-1, 0))
    (effect,) = Engine(config).apply(admit)
    assert isinstance(effect, RequestAdmitted)


def test_those_who_gave_up_waiting_behind_others_leave_nothing_behind() -> None:
    """An urgent request waits all the time, so that nobody behind it ever comes to the front."""
    config = limits(scheduling_policy="priority")
    urgent, late = request(4, 2, priority=1), request(4, 2, priority=9)
    scenario = Scenario(config=config, requests=(urgent, *[late] * 1000))
    engine = Engine(config)
    engine.apply(admit_of(scenario, 0))
    for number in range(1, 1001):
        (admitted,) = engine.apply(admit_of(scenario, number))
        assert isinstance(admitted, RequestAdmitted)
        engine.apply(AbortRequest(admitted.key))
        engine.apply(OutputDelivered(admitted.seq_ids))
    assert len(engine.queues.line) <= max_line_length(1 + 1)


def test_the_first_who_was_passed_over_is_named_with_the_reason() -> None:
    config = limits(max_num_seqs=1)
    scenario = Scenario(config=config, requests=(request(4, 3), request(4, 3)))
    engine = Engine(config)
    for number in range(2):
        engine.apply(admit_of(scenario, number))
    decided = engine.apply(StepBegan(StepId(1)))[-1]
    assert (decided.unscheduled, decided.seq_id) == (Unscheduled.MAX_NUM_SEQS, 2)  # type: ignore[union-attr]


def test_max_model_len_is_lowered_to_what_the_pool_can_hold() -> None:
    assert fitted(limits(max_model_len=10_000)).max_model_len == 64
    with pytest.raises(ConfigError, match="max_num_seqs"):
        fitted(limits(max_num_seqs=0))
    with pytest.raises(ConfigError, match="room for two"):
        fitted(limits(num_blocks=1, block_size=1))


def test_a_block_dropped_twice_is_the_cores_own_fault_and_says_so() -> None:
    pool = Engine(limits()).kv.pool
    block, _ = pool.take()
    pool.drop(block, cached=False, fence=None)
    with pytest.raises(InvariantViolated, match="without a holder"):
        pool.drop(block, cached=False, fence=None)


def test_a_senior_gets_blocks_that_only_running_dry_will_free() -> None:
    """The last in the order holds one block, which an open step always writes: preempting it would
    free nothing now. Whoever stands behind the senior pauses until it can be done."""
    config = limits(pipeline_depth=2)
    engine = Engine(config)
    scenario = Scenario(config=config, requests=(request(3, 8), request(1, 8)))
    for number in range(2):
        engine.apply(admit_of(scenario, number))
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepBegan(StepId(2)))
    while engine.kv.pool.num_available:  # somebody else has the rest
        engine.kv.pool.take()
    engine.apply(completed(1, 2))
    assert steps(engine.apply(StepBegan(StepId(3)))) == [], "the senior lacks its second block"
    engine.apply(completed(2, 2))
    preempted, scheduled, _ = engine.apply(StepBegan(StepId(3)))
    assert preempted == SequencePreempted(SeqId(2), SeqId(1), 2)
    assert [entry.seq_id for entry in steps([scheduled])[0].scheduled] == [1]


@pytest.mark.parametrize("depth", [2, 3])
def test_an_urgent_request_gets_blocks_that_only_running_dry_will_free(depth: int) -> None:
    config = limits(
        num_blocks=2,
        block_size=32,
        max_model_len=64,
        max_num_batched_tokens=64,
        scheduling_policy="priority",
        pipeline_depth=depth,
    )
    transcript = play(config, request(1, 31, priority=5), request(40, 4, arrival=4))
    assert transcript.num_preemptions == 1
    assert [number for number, _ in transcript.reasons] == [1, 0]


def admitted(max_tokens: int = 8) -> tuple[Engine, object]:
    config = limits()
    admit = admit_of(Scenario(config=config, requests=(request(4, max_tokens),)), 0)
    engine = Engine(config)
    engine.apply(admit)
    return engine, admit


def completed(step_id: int, num_sequences: int) -> StepCompleted:
    outputs = [SampledTokens(SeqId(1 + index), [5]) for index in range(num_sequences)]
    return StepCompleted(StepId(step_id), outputs, 0, 0)


def steps(effects: list[Effect]) -> list[StepScheduled]:
    return [effect for effect in effects if isinstance(effect, StepScheduled)]


@DEPTHS
def test_an_urgent_request_does_not_wait_for_a_junior_that_holds_nothing_but_its_prefix(
    depth: int,
) -> None:
    """All blocks of the last in the order are shared with the first: taking them frees none. The
    first needs one more, no step is open, and the one between them has some to give."""
    config = limits(
        num_blocks=6,
        max_model_len=24,
        max_num_batched_tokens=2,
        scheduling_policy="priority",
        pipeline_depth=depth,
    )
    transcript = play(
        config,
        request(8, 4, priority=9, prefix_group=1, num_shared_tokens=8),
        request(9, 12, priority=0, arrival=4, prefix_group=1, num_shared_tokens=8),
        request(1, 20, priority=1, arrival=4),
    )
    assert set(transcript.reasons.values()) == {LENGTH}


@DEPTHS
@pytest.mark.parametrize("num_blocks", [5, 6, 7, 8])
def test_a_sequence_does_not_give_way_while_all_it_holds_is_still_being_written(
    depth: int, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    preempt = Scheduler._preempt

    def checked(
        self: Scheduler, step: Composition, victim: Sequence, beneficiary: Sequence
    ) -> None:
        before = self._kv.pool.num_available
        preempt(self, step, victim, beneficiary)
        assert self._kv.pool.num_available > before

    monkeypatch.setattr(Scheduler, "_preempt", checked)
    config = limits(num_blocks=num_blocks, block_size=2, max_model_len=10, pipeline_depth=depth)
    transcript = play(config, *(request(2, 6) for _ in range(4)))
    assert transcript.num_preemptions > 0


def test_bytes_that_are_no_snapshot_of_this_engine_are_refused_as_such() -> None:
    scenario = Scenario(config=limits(), requests=(request(9, 4), request(9, 4)))
    engine = Engine(limits())
    for number in range(2):
        engine.apply(admit_of(scenario, number))
    engine.apply(StepBegan(StepId(1)))
    encoded = engine.snapshot()
    for place in range(len(encoded)):
        for value in (0x7F, 0xFF):
            changed = encoded[:place] + bytes([value]) + encoded[place + 1 :]
            with contextlib.suppress(SnapshotError):  # some bytes may have any value
                Engine.restore(limits(), changed)


def test_preemption_names_for_whom() -> None:
    config = limits(max_num_seqs=1, scheduling_policy="priority")
    scenario = Scenario(
        config=config, requests=(request(4, 9, priority=5), request(4, 3, priority=1))
    )
    engine = Engine(config)
    engine.apply(admit_of(scenario, 0))
    engine.apply(StepBegan(StepId(1)))
    engine.apply(StepCompleted(StepId(1), [SampledTokens(SeqId(1), [5])], 0, 0))
    engine.apply(admit_of(scenario, 1))
    effects = engine.apply(StepBegan(StepId(2)))
    assert effects[0] == SequencePreempted(SeqId(1), SeqId(2), 4)
