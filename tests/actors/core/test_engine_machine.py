"""Whatever happens in whatever order, every invariant holds after every event, every client gets
exactly the tokens that are theirs, and in the end nothing is left."""

from collections import deque

import pytest
from checking_worker import CheckingWorker, output_token
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from playing import VOCAB_SIZE, limits

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.invariants import check, check_quiet, check_step
from tokenreel.messages.block_hash import chain
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceTokens,
    StopStringMatched,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.sampling import (
    FinishReason,
    SamplingParams,
    StoppingParams,
    TextParams,
    derive_seed,
)
from tokenreel.messages.steps import (
    SequenceFailure,
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepScheduled,
)
from tokenreel.tools.replay.playing.write_watch import WriteWatch

STOP_TOKEN = 0
ROOT = BlockHash(b"machine's root!!")


class EngineMachine(RuleBasedStateMachine):
    """Drives one engine as its shell would, in orders that no shell would think of."""

    @initialize(
        num_blocks=st.integers(3, 14),
        block_size=st.sampled_from([1, 2, 4]),
        max_num_seqs=st.integers(1, 4),
        max_num_batched_tokens=st.integers(1, 12),
        max_in_flight=st.integers(2, 8),
        caching=st.booleans(),
        policy=st.sampled_from(["fcfs", "priority"]),
        depth=st.integers(1, 3),
    )
    def begin(
        self,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_in_flight: int,
        caching: bool,
        policy: str,
        depth: int,
    ) -> None:
        self.config: CoreConfig = limits(
            num_blocks=num_blocks,
            block_size=block_size,
            max_model_len=num_blocks * block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_in_flight=max_in_flight,
            enable_prefix_caching=caching,
            scheduling_policy=policy,
            pipeline_depth=depth,
        )
        self.engine = Engine(self.config)
        self.stops: dict[tuple[int, int], int] = {}
        self.worker = CheckingWorker(self.config, self.stops)
        self.dispatched: deque[StepScheduled] = deque()
        self.next_number = 0
        self.seed_of: dict[SeqId, int] = {}
        self.key_of: dict[SeqId, RequestKey] = {}
        self.received: dict[SeqId, list[int]] = {}
        self.ended: dict[SeqId, FinishReason] = {}
        self.undelivered: list[SeqId] = []
        self.live_keys: dict[RequestKey, None] = {}
        self.aborted: set[RequestKey] = set()
        self.writes = WriteWatch()
        self.log: list[tuple[CoreEvent, list[Effect]]] = []

    # Events.

    @rule(
        length=st.integers(1, 20),
        max_tokens=st.integers(1, 16),
        group=st.integers(0, 2),
        n=st.integers(1, 3),
        priority=st.integers(-1, 2),
        stop_at=st.none() | st.integers(0, 5),
        min_tokens=st.integers(0, 3),
    )
    def admit(
        self,
        length: int,
        max_tokens: int,
        group: int,
        n: int,
        priority: int,
        stop_at: int | None,
        min_tokens: int,
    ) -> None:
        key = RequestKey(7, self.next_number)
        self.next_number += 1
        seed = 10 * key.number
        if stop_at is not None:
            self.stops[seed, stop_at] = STOP_TOKEN
        prompt = [(1 + 13 * group + position) % VOCAB_SIZE for position in range(length)]
        self.apply(
            AdmitRequest(
                key=key,
                prompt_token_ids=prompt,
                sampling=SamplingParams(seed=seed),
                stopping=StoppingParams(max_tokens, min_tokens, (STOP_TOKEN,)),
                text=TextParams(),
                n=n,
                priority=priority,
                cache_root=ROOT,
                block_hashes=chain(ROOT, prompt, self.config.block_size),
            )
        )

    @rule()
    def begin_step(self) -> None:
        """Also when the engine does not want one, as a replayed journal might."""
        self.apply(StepBegan(self.engine.next_step_id))

    @precondition(lambda self: self.dispatched)
    @rule()
    def complete_step(self) -> None:
        self.apply(self.worker.complete(self.dispatched.popleft()))

    @precondition(lambda self: self.dispatched)
    @rule(victim=st.integers(0, 5))
    def complete_step_with_a_failure(self, victim: int) -> None:
        completed = self.worker.complete(self.dispatched.popleft())
        outputs = list(completed.outputs)
        failures = []
        if outputs:
            failed = outputs.pop(victim % len(outputs))
            failures = [SequenceFailure(failed.seq_id, "logits are not finite")]
        self.apply(StepCompleted(completed.step_id, outputs, 0, 0, failures))

    @rule(turns=st.integers(1, 12), num_kept_open=st.integers(0, 2))
    def run(self, turns: int, num_kept_open: int) -> None:
        """As the shell would: the pipeline full, completions as they come."""
        for _ in range(turns):
            while self.engine.wants_step():
                self.begin_step()
                check(self.engine)
            if len(self.dispatched) > num_kept_open:
                self.complete_step()
                check(self.engine)

    @rule(number=st.integers(0, 30))
    def abort(self, number: int) -> None:
        """Of a live request, a finished one, or one that is still to come."""
        key = RequestKey(7, number)
        self.aborted.add(key)
        self.apply(AbortRequest(key))

    @precondition(lambda self: any(self.received.values()))
    @rule(choice=st.integers(0, 50), at=st.integers(1, 12))
    def match_stop_string(self, choice: int, at: int) -> None:
        candidates = sorted(seq_id for seq_id, tokens in self.received.items() if tokens)
        seq_id = candidates[choice % len(candidates)]
        self.apply(StopStringMatched(seq_id, min(at, len(self.received[seq_id]))))

    @precondition(lambda self: self.undelivered)
    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        batch, self.undelivered = self.undelivered[:count], self.undelivered[count:]
        self.apply(OutputDelivered(tuple(batch)))

    @rule(step_id=st.integers(-1, 50), seq_id=st.integers(0, 20))
    def say_nonsense(self, step_id: int, seq_id: int) -> None:
        """Late, repeated or invented messages of other processes."""
        if not (self.engine.open_steps and self.engine.open_steps[0].step_id == step_id):
            self.apply(StepCompleted(step_id, [], 0, 0))  # type: ignore[arg-type]
        self.apply(StopStringMatched(SeqId(seq_id), 10_000))
        self.apply(OutputDelivered((SeqId(10_000 + seq_id),)))

    @rule()
    def survive_a_snapshot(self) -> None:
        """An engine restored from a snapshot is the engine itself."""
        encoded = self.engine.snapshot()
        self.engine = Engine.restore(self.config, encoded)
        assert self.engine.snapshot() == encoded

    # What must follow.

    def apply(self, happening: CoreEvent) -> None:
        effects = self.engine.apply(happening)
        self.log.append((happening, effects))
        check_step(self.engine, effects)
        self.writes.note(self.engine, effects)
        for effect in effects:
            self.take(effect)

    def take(self, effect: Effect) -> None:
        match effect:
            case RequestAdmitted(key=key, seq_ids=seq_ids):
                assert key not in self.live_keys
                self.live_keys[key] = None
                for index, seq_id in enumerate(seq_ids):
                    assert seq_id not in self.received
                    self.received[seq_id] = []
                    self.key_of[seq_id] = key
                    self.seed_of[seq_id] = derive_seed(10 * key.number, index)
            case RequestRejected(key=key, code=code):
                assert key not in self.live_keys
                assert code != "aborted" or key in self.aborted
            case RequestFinished(key=key):
                del self.live_keys[key]
                assert all(self.ended.get(s) is not None for s in self.seqs_of(key))
            case StepScheduled():
                self.dispatched.append(effect)
            case TokensEmitted(sequences=sequences):
                assert sequences, "an empty emission"
                for tokens in sequences:
                    self.receive(tokens)
            case SequencePreempted():
                event("preempted")
            case _:
                pass

    def seqs_of(self, key: RequestKey) -> list[SeqId]:
        return [seq_id for seq_id, owner in self.key_of.items() if owner == key]

    def receive(self, tokens: SequenceTokens) -> None:
        seq_id = tokens.seq_id
        assert seq_id not in self.ended, "tokens after the terminal event"
        output = self.received[seq_id]
        truncated = tokens.finish_reason is FinishReason.STOP and not tokens.token_ids
        if truncated:
            del output[tokens.first_output_index :]
        assert tokens.first_output_index == len(output), "a gap, or an overlap"
        output.extend(tokens.token_ids)
        seed = self.seed_of[seq_id]
        for index, token in enumerate(output):
            expected = self.stops.get((seed, index), output_token(seed, index, VOCAB_SIZE))
            assert token == expected, f"sequence {seq_id}: token {index} is not its own"
        if tokens.finish_reason is not None:
            self.ended[seq_id] = tokens.finish_reason
            self.undelivered.append(seq_id)

    @invariant()
    def all_invariants_hold(self) -> None:
        if hasattr(self, "engine"):
            check(self.engine)

    def teardown(self) -> None:
        """Whoever stopped in the middle comes to an end: nobody is stuck, nothing leaks."""
        if not hasattr(self, "engine"):
            return
        self.check_progress_to_the_end()
        check_quiet(self.engine)
        self.check_replay()

    def check_progress_to_the_end(self) -> None:
        for _ in range(3000):
            if not (self.live_keys or self.dispatched):
                return
            self.check_runnable_progress()
            while self.engine.wants_step():
                self.apply(StepBegan(self.engine.next_step_id))
                check(self.engine)
            if self.dispatched:
                self.complete_step()
            elif not self.undelivered:
                raise AssertionError(f"stuck: {self.engine.statistics()}")
            if self.undelivered:
                self.deliver(len(self.undelivered))
            check(self.engine)
        raise AssertionError(f"no end in sight: {self.engine.statistics()}")

    def check_runnable_progress(self) -> None:
        """Rule 8: with no open step and somebody to run, a step begins that is not empty."""
        queues = self.engine.queues
        if self.engine.open_steps or not (queues.running or queues.waiting):
            return
        before = self.engine.next_step_id
        for _ in range(len(queues.running) + 2):  # an empty step may only take something back
            self.apply(StepBegan(self.engine.next_step_id))
            if self.engine.next_step_id != before:
                return
        raise AssertionError(f"no progress: {self.engine.statistics()}")

    def check_replay(self) -> None:
        """The same events, applied anew, have the same effects."""
        engine = Engine(self.config)
        for happening, effects in self.log:
            assert engine.apply(happening) == effects
        assert engine.state_digest() == self.engine.state_digest()


@pytest.mark.parametrize("num_examples", [500])
def test_every_invariant_survives_any_order_of_events(num_examples: int) -> None:
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
