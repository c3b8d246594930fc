"""A run of the core as a value: requests, what they put out, when they are aborted, the limits.

A scenario is played without processes or clocks, against any worker that turns a scheduled step
into a completed one. Once a request is taken out of a captured run its recorded `StepCompleted`
events no longer fit; a scenario still does, so that a run can be shrunk, or tried under other
settings.
"""

from collections import deque
from typing import Protocol

import msgspec

from tokenreel.actors.core.block_pool import InvariantViolated
from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
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
    RequestRejected,
)
from tokenreel.messages.sampling import FinishReason, SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepScheduled,
)

ROOT = BlockHash(b"scenario's root!")
FRONTEND_EPOCH = 1


class ScenarioRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`arrival` and `abort_turn` count turns. Requests of one `prefix_group` (0: none) share their
    first `num_shared_tokens` prompt tokens. `stop_after` is the number of output tokens after which
    a stop string matches, found out `stop_delay` turns later."""

    num_prompt_tokens: int
    max_tokens: int
    arrival: int = 0
    priority: int = 0
    n: int = 1
    prefix_group: int = 0
    num_shared_tokens: int = 0
    abort_turn: int | None = None
    stop_after: int | None = None
    stop_delay: int = 0
    stop_token_ids: tuple[int, ...] = ()


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Requests stand in the order of their arrival, as their keys will."""

    config: CoreConfig
    requests: tuple[ScenarioRequest, ...]
    max_turns: int = 10_000


class Worker(Protocol):
    def complete(self, step: StepScheduled) -> StepCompleted: ...


class Observer(Protocol):
    def __call__(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None: ...


class Stalled(AssertionError):
    """The run did not come to its end within the scenario's bound on turns."""


class Transcript(msgspec.Struct):
    """What the clients of a played scenario got, by (request, index of its sequence)."""

    outputs: dict[tuple[int, int], list[int]]
    reasons: dict[tuple[int, int], FinishReason]
    rejected: dict[int, str]
    num_turns: int
    num_preemptions: int


def prompt_of(scenario: Scenario, number: int) -> list[int]:
    """Token ids that nothing but the prefix group shares, as far as the vocabulary allows."""
    request, vocab_size = scenario.requests[number], scenario.config.vocab_size
    shared = request.num_shared_tokens if request.prefix_group else 0
    return [
        ((request.prefix_group if position < shared else 1009 * (number + 1)) + 31 * position)
        % vocab_size
        for position in range(request.num_prompt_tokens)
    ]


def admit_of(scenario: Scenario, number: int) -> AdmitRequest:
    """The `AdmitRequest` with which the scenario's `number`-th request reaches the core."""
    request = scenario.requests[number]
    prompt = prompt_of(scenario, number)
    return AdmitRequest(
        key=RequestKey(FRONTEND_EPOCH, number),
        prompt_token_ids=prompt,
        sampling=SamplingParams(seed=number),
        stopping=StoppingParams(request.max_tokens, 0, request.stop_token_ids),
        text=TextParams(),
        n=request.n,
        priority=request.priority,
        cache_root=ROOT,
        block_hashes=chain(ROOT, prompt, scenario.config.block_size),
    )


class Player:
    """Plays one scenario. A turn: arrivals and aborts, as many steps as the pipeline takes, one
    completion, then whatever the detokenizer has to say."""

    def __init__(self, scenario: Scenario, worker: Worker, observe: Observer | None = None) -> None:
        self.scenario = scenario
        self.engine = Engine(scenario.config)
        self.transcript = Transcript({}, {}, {}, 0, 0)
        self._worker = worker
        self._observe = observe
        self._dispatched: deque[StepScheduled] = deque()
        self._name_of: dict[SeqId, tuple[int, int]] = {}
        self._later = _arrivals(scenario)

    def play(self) -> Transcript:
        """Raises Stalled, or whatever the core raises."""
        while not self._is_over():
            if self.transcript.num_turns >= self.scenario.max_turns:
                raise Stalled(f"not over after {self.scenario.max_turns} turns")
            self._turn()
        return self.transcript

    def _is_over(self) -> bool:
        return not (self._later or self.engine.requests or self._dispatched)

    def _turn(self) -> None:
        turn = self.transcript.num_turns
        due = [event for when, event in self._later if when <= turn]
        self._later = [(when, event) for when, event in self._later if when > turn]
        for event in due:
            self._apply(event)
        while self.engine.wants_step():
            self._apply(StepBegan(self.engine.next_step_id))
        if self._dispatched:
            self._apply(self._worker.complete(self._dispatched.popleft()))
        self.transcript.num_turns += 1

    def _apply(self, event: CoreEvent) -> None:
        effects = self.engine.apply(event)
        if self._observe is not None:
            self._observe(self.engine, event, effects)
        for effect in effects:
            self._take(effect)

    def _take(self, effect: Effect) -> None:
        match effect:
            case RequestAdmitted(key=key, seq_ids=seq_ids):
                for index, seq_id in enumerate(seq_ids):
                    self._name_of[seq_id] = (key.number, index)
                    self.transcript.outputs[key.number, index] = []
            case RequestRejected(key=key, code=code):
                self.transcript.rejected[key.number] = code
            case SequencePreempted():
                self.transcript.num_preemptions += 1
            case StepScheduled():
                self._dispatched.append(effect)
            case TokensEmitted(sequences=sequences):
                for tokens in sequences:
                    self._detokenize(tokens)
            case _:
                pass

    def _detokenize(self, tokens: SequenceTokens) -> None:
        """Does the detokenizer's part: stops at stop strings, and says when all is delivered."""
        place = self._name_of[tokens.seq_id]
        output = self.transcript.outputs[place]
        if place in self.transcript.reasons:
            if tokens.finish_reason is not None:  # the core has caught up with a stop string
                self._say(1, OutputDelivered((tokens.seq_id,)))
            return
        if tokens.first_output_index != len(output):
            raise InvariantViolated(f"{place}: a gap, or tokens repeated, at {len(output)}")
        output.extend(tokens.token_ids)
        request = self.scenario.requests[place[0]]
        matched = request.stop_after is not None and len(output) >= request.stop_after
        if matched and tokens.finish_reason is not FinishReason.ABORT:
            assert request.stop_after is not None
            del output[request.stop_after :]
            self.transcript.reasons[place] = FinishReason.STOP
            match_event = StopStringMatched(tokens.seq_id, request.stop_after)
            self._say(1 + request.stop_delay, match_event)
            if tokens.finish_reason is not None:
                self._say(1 + request.stop_delay, OutputDelivered((tokens.seq_id,)))
        elif tokens.finish_reason is not None:
            self.transcript.reasons[place] = tokens.finish_reason
            self._say(1, OutputDelivered((tokens.seq_id,)))

    def _say(self, turns: int, event: CoreEvent) -> None:
        self._later.append((self.transcript.num_turns + turns, event))


def _arrivals(scenario: Scenario) -> list[tuple[int, CoreEvent]]:
    """Admits and aborts with their turns; an abort may come before its admit."""
    events: list[tuple[int, CoreEvent]] = []
    for number, request in enumerate(scenario.requests):
        events.append((request.arrival, admit_of(scenario, number)))
        if request.abort_turn is not None:
            abort = AbortRequest(RequestKey(FRONTEND_EPOCH, number))
            events.append((request.abort_turn, abort))
    return events
