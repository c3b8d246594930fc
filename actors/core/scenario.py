"""A run of the core as a value: requests, what they put out, when they are aborted, the limits.

A scenario is played without processes or clocks, against any worker that turns a scheduled step
into a completed one. Once a request is taken out of a captured run its recorded `StepCompleted`
events no longer fit; a scenario still does, so that a run can be shrunk, or tried under other
settings.
"""

from collections import deque
from heapq import heappop, heappush
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
from tokenreel.messages.sampling import (
    FinishReason,
    SamplingParams,
    StoppingParams,
    TextParams,
    derive_seed,
)
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepScheduled,
)

ROOT = BlockHash(b"scenario's root!")
FRONTEND_EPOCH = 1
STOP_TOKEN = 0
"""The one that ends sequences of themselves; no other token of a scenario is equal to it."""

MAX_STEPS_BEGUN = 1000
"""In one turn. A few more than the pipeline takes are empty, as someone gave way."""


class ScenarioRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`arrival` and `abort_turn` count turns. An abort may wait for the first sequence's
    `abort_after`-th output token instead, and then `abort_delay` turns.

    Requests of one `prefix_group` (0: none) share their first `num_shared_tokens` tokens, of the
    output too if there are so many. Both may be tuples: groups within groups, the widest first.

    A sequence puts out what its request, its index and the position say. The `ends_after`-th token
    is a stop token; after `stop_after` tokens a stop string matches, found out `stop_delay` turns
    later; in place of the `fails_at`-th the worker says that it failed. Where the sequences of a
    request differ these are tuples, by index; 0 or None: never.
    """

    num_prompt_tokens: int
    max_tokens: int
    arrival: int = 0
    priority: int = 0
    n: int = 1
    prefix_group: int | tuple[int, ...] = 0
    num_shared_tokens: int | tuple[int, ...] = 0
    abort_turn: int | None = None
    abort_after: int | None = None
    abort_delay: int = 0
    stop_after: int | tuple[int, ...] | None = None
    stop_delay: int = 0
    ends_after: int | tuple[int, ...] | None = None
    fails_at: int | tuple[int, ...] | None = None
    stop_token_ids: tuple[int, ...] = ()

    def prefixes(self) -> list[tuple[int, int]]:
        """Its groups, the widest first, and where the tokens end that it shares with each."""
        groups, ends = _as_tuple(self.prefix_group), _as_tuple(self.num_shared_tokens)
        return [(group, end) for group, end in zip(groups, ends, strict=True) if group]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Requests stand in the order of their arrival, as their keys will. A step completes every
    `turns_per_step` turns: if there are several, things also arrive while it is under way."""

    config: CoreConfig
    requests: tuple[ScenarioRequest, ...]
    max_turns: int = 10_000
    turns_per_step: int = 1


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
    tokens: list[int] = []
    for group, end in [*request.prefixes(), (_own_stream(number), request.num_prompt_tokens)]:
        positions = range(len(tokens), min(end, request.num_prompt_tokens))
        tokens += _tokens(group, positions, vocab_size)
    return tokens


def output_of(scenario: Scenario, number: int, index: int, output_index: int) -> int | None:
    """The token that a worker finds there: STOP_TOKEN where the sequence ends of itself, and
    nowhere else. None: the worker fails."""
    request = scenario.requests[number]
    count = output_index + 1
    if count == at_index(request.fails_at, index):
        return None
    if count == at_index(request.ends_after, index):
        return STOP_TOKEN
    position = request.num_prompt_tokens + output_index
    stream = _own_stream(number) + 1 + index
    if index == 0:
        stream = next((group for group, end in request.prefixes() if position < end), stream)
    return _tokens(stream, range(position, position + 1), scenario.config.vocab_size)[0]


def at_index(value: int | tuple[int, ...] | None, index: int) -> int:
    """What a field that may differ by sequence says of the `index`-th; 0 for nothing."""
    if isinstance(value, tuple):
        return value[index] if index < len(value) else 0
    return value or 0


def admit_of(scenario: Scenario, number: int) -> AdmitRequest:
    """The `AdmitRequest` with which the scenario's `number`-th request reaches the core."""
    request = scenario.requests[number]
    prompt = prompt_of(scenario, number)
    ends_itself = request.ends_after is not None
    stop_token_ids = ((STOP_TOKEN,) if ends_itself else ()) + request.stop_token_ids
    return AdmitRequest(
        key=RequestKey(FRONTEND_EPOCH, number),
        prompt_token_ids=prompt,
        sampling=SamplingParams(seed=number),
        stopping=StoppingParams(request.max_tokens, 0, stop_token_ids),
        text=TextParams(),
        n=request.n,
        priority=request.priority,
        cache_root=ROOT,
        block_hashes=chain(ROOT, prompt, scenario.config.block_size),
    )


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _own_stream(number: int) -> int:
    """Of a request's own prompt tokens; those behind it are of its sequences' output tokens."""
    return (number + 1) << 32


def _tokens(stream: int, positions: range, vocab_size: int) -> list[int]:
    """Never STOP_TOKEN. Two streams agree nowhere for long."""
    mixed = derive_seed(stream, 1)
    span = max(1, vocab_size - 1)
    first = STOP_TOKEN + (vocab_size > 1)
    return [
        first + ((mixed ^ (position * 0x9E3779B97F4A7C15)) >> 24) % span for position in positions
    ]


class Player:
    """Plays one scenario. A turn: arrivals and aborts, as many steps as the pipeline takes, one
    completion if it is due, then whatever the detokenizer has to say."""

    def __init__(self, scenario: Scenario, worker: Worker, observe: Observer | None = None) -> None:
        self.scenario = scenario
        self.engine = Engine(scenario.config)
        self.transcript = Transcript({}, {}, {}, 0, 0)
        self._worker = worker
        self._observe = observe
        self._dispatched: deque[StepScheduled] = deque()
        self._name_of: dict[SeqId, tuple[int, int]] = {}
        self._num_said = 0
        self._later: list[tuple[int, int, CoreEvent | int]] = []
        """A heap of (turn, place among equals, an event or the number of a request that comes)."""
        for number, request in enumerate(scenario.requests):
            self._say_at(request.arrival, number)
            if request.abort_turn is not None:
                self._say_at(request.abort_turn, _abort_of(number))

    def play(self) -> Transcript:
        """Raises Stalled, or whatever the core raises."""
        while not self._is_over():
            if self.transcript.num_turns >= self.scenario.max_turns:
                raise Stalled(f"not over after {self.scenario.max_turns} turns")
            if not (self._later or self._dispatched or self.engine.wants_step()):
                raise Stalled(self._stuck())
            self._turn()
        return self.transcript

    def _is_over(self) -> bool:
        return not (self._later or self.engine.requests or self._dispatched)

    def _stuck(self) -> str:
        first, *others = (key.number for key in self.engine.requests)
        more = f" and {len(others)} more" if others else ""
        return f"nothing more can happen, and not all is done: request {first}{more}"

    def _turn(self) -> None:
        turn = self.transcript.num_turns
        while self._later and self._later[0][0] <= turn:
            _, _, event = heappop(self._later)
            self._apply(admit_of(self.scenario, event) if isinstance(event, int) else event)
        self._begin_steps()
        if self._dispatched and (turn + 1) % self.scenario.turns_per_step == 0:
            self._apply(self._worker.complete(self._dispatched.popleft()))
        self.transcript.num_turns += 1

    def _begin_steps(self) -> None:
        for _ in range(MAX_STEPS_BEGUN):
            if not self.engine.wants_step():
                return
            self._apply(StepBegan(self.engine.next_step_id))
        raise Stalled(f"it wants a step again and again, {MAX_STEPS_BEGUN} times in one turn")

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
        if place[1] == 0 and len(output) == request.abort_after and tokens.token_ids:
            self._say(1 + request.abort_delay, _abort_of(place[0]))
        stop_after = at_index(request.stop_after, place[1])
        if 1 <= stop_after <= len(output) and tokens.finish_reason is not FinishReason.ABORT:
            del output[stop_after:]
            self.transcript.reasons[place] = FinishReason.STOP
            self._say(1 + request.stop_delay, StopStringMatched(tokens.seq_id, stop_after))
            if tokens.finish_reason is not None:
                self._say(1 + request.stop_delay, OutputDelivered((tokens.seq_id,)))
        elif tokens.finish_reason is not None:
            self.transcript.reasons[place] = tokens.finish_reason
            self._say(1, OutputDelivered((tokens.seq_id,)))

    def _say(self, turns: int, event: CoreEvent) -> None:
        self._say_at(self.transcript.num_turns + turns, event)

    def _say_at(self, turn: int, event: CoreEvent | int) -> None:
        heappush(self._later, (turn, self._num_said, event))
        self._num_said += 1


def _abort_of(number: int) -> AbortRequest:
    return AbortRequest(RequestKey(FRONTEND_EPOCH, number))
