"""A run of the real core in simulated time: recorded clients, a worker whose steps take as long as
they were fitted to take.

The shell's part is played as `actors.engine_core` does: everything that has arrived is applied
before a step begins, and a step begins whenever the core wants one. The worker executes steps in
order. Nothing here reads a clock: the same clients, configuration and times give the same run.
"""

import heapq
from collections.abc import Callable
from typing import Protocol

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import MAX_STEPS_BEGUN
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
    StopStringMatched,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    RequestAdmitted,
    RequestRejected,
)
from tokenreel.messages.steps import (
    SampledTokens,
    SequenceFailure,
    StepBegan,
    StepCompleted,
    StepScheduled,
)
from tokenreel.tools.replay.recording.builder import RecordingBuilder
from tokenreel.tools.replay.recording.values import Recording, StepWork, work_of
from tokenreel.tools.replay.what_if.arrivals import Arrivals, ClosedLoop
from tokenreel.tools.replay.what_if.clients import Answer, ClientRequest, Clients, admit_of
from tokenreel.tools.replay.what_if.fit import Latencies

Observer = Callable[[int, Engine, CoreEvent, list[Effect]], None]
"""Sees every event with its time (ns), and what followed from it."""


class Durations(Protocol):
    def duration_ns(self, work: StepWork) -> int: ...


class SimulationFailed(Exception):
    """The core raised, or nobody will ever do anything again while requests are left."""


def simulate(
    clients: Clients,
    config: CoreConfig,
    durations: Durations,
    latencies: Latencies,
    loop: ClosedLoop | None = None,
    observe: Observer | None = None,
) -> Recording:
    """The run that this would be. Its requests are named by their places in `clients`
    (`place_of`). Raises SimulationFailed."""
    simulation = _Simulation(clients, config, durations, latencies, loop, observe)
    return simulation.run()


def place_of(key: RequestKey) -> int:
    return key.frontend_epoch


class _Choice(msgspec.Struct):
    """A sequence in the simulation: whose it is, and what it has put out."""

    place: int
    answer: Answer
    num_prompt_tokens: int
    num_outputs: int = 0
    matched_ns: int = 0
    is_over: bool = False

    @property
    def is_enough(self) -> bool:
        """Whether a client that gives up here would do so now."""
        return self.is_over or self.num_outputs >= self.answer.num_when_aborted


class _Simulation:
    def __init__(
        self,
        clients: Clients,
        config: CoreConfig,
        durations: Durations,
        latencies: Latencies,
        loop: ClosedLoop | None,
        observe: Observer | None,
    ) -> None:
        self._clients = clients
        self._requests = clients.requests
        self._engine = Engine(config)
        self._durations = durations
        self._latencies = latencies
        self._arrivals = Arrivals(clients, loop)
        self._observe = observe
        self._builder = RecordingBuilder()
        self._inbox: list[tuple[int, int, CoreEvent]] = []
        """A heap by the time of arrival; what arrives at the same time, in the order of sending."""
        self._num_sent = 0
        self._worker_free_ns = 0
        self._has_worked = False
        self._choices: dict[SeqId, _Choice] = {}
        self._choices_of: dict[int, list[_Choice]] = {}
        self._giving_up: set[int] = set()

    def run(self) -> Recording:
        for place, at_ns in self._arrivals.first:
            self._arrive(place, at_ns)
        now_ns = 0
        while self._inbox:
            now_ns = self._turn(max(now_ns, self._inbox[0][0]))
        if self._engine.requests:
            raise SimulationFailed(
                f"after {now_ns / 1e9:.3f} s nothing happens any more, and "
                f"{len(self._engine.requests)} requests are not answered"
            )
        return self._builder.build("simulated", self._engine.config, 0, now_ns)

    # The shell.

    def _turn(self, now_ns: int) -> int:
        """Everything that has arrived by now, then as many steps as the core wants."""
        while self._inbox and self._inbox[0][0] <= now_ns:
            self._apply(now_ns, heapq.heappop(self._inbox)[2])
        for _ in range(MAX_STEPS_BEGUN):
            if not self._engine.wants_step():
                return now_ns
            now_ns += self._latencies.turn_ns
            self._apply(now_ns, StepBegan(self._engine.next_step_id))
        raise SimulationFailed(
            f"after {now_ns / 1e9:.3f} s the core wants a step again and again, "
            f"{MAX_STEPS_BEGUN} times"
        )

    def _apply(self, now_ns: int, event: CoreEvent) -> None:
        self._builder.take_event(now_ns, event)
        try:
            effects = self._engine.apply(event)
        except Exception as error:
            raise SimulationFailed(
                f"after {now_ns / 1e9:.3f} s the core raised {type(error).__name__}: {error}"
            ) from error
        if self._observe is not None:
            self._observe(now_ns, self._engine, event, effects)
        for effect in effects:
            self._builder.take_effect(now_ns, effect)
            self._take(now_ns, effect)

    def _take(self, now_ns: int, effect: Effect) -> None:
        match effect:
            case StepScheduled():
                self._execute(now_ns, effect)
            case TokensEmitted():
                self._detokenize(now_ns, effect)
            case SequenceFinished(seq_id=seq_id):
                self._end_sequence(now_ns, self._choices[seq_id])
            case RequestAdmitted():
                self._admitted(now_ns, effect)
            case RequestRejected():
                self._end_request(now_ns)
            case _:
                pass

    def _send(self, at_ns: int, event: CoreEvent) -> None:
        self._num_sent += 1
        heapq.heappush(self._inbox, (at_ns, self._num_sent, event))

    # The clients.

    def _arrive(self, place: int, at_ns: int) -> None:
        """Every request has a frontend of its own, so that they may come in any order."""
        admit = admit_of(self._clients, place, self._engine.config.block_size)
        self._send(at_ns, msgspec.structs.replace(admit, key=RequestKey(place, 0)))

    def _admitted(self, now_ns: int, effect: RequestAdmitted) -> None:
        place = place_of(effect.key)
        request = self._requests[place]
        choices = [_Choice(place, answer, effect.num_prompt_tokens) for answer in request.answers]
        self._choices.update(zip(effect.seq_ids, choices, strict=True))
        self._choices_of[place] = choices
        self._consider_giving_up(now_ns, place)

    def _consider_giving_up(self, now_ns: int, place: int) -> None:
        delay_ns = self._requests[place].abort_delay_ns
        if delay_ns is None or place in self._giving_up:
            return
        if all(choice.is_enough for choice in self._choices_of[place]):
            self._giving_up.add(place)
            self._send(now_ns + delay_ns, AbortRequest(RequestKey(place, 0)))

    def _end_sequence(self, now_ns: int, choice: _Choice) -> None:
        if choice.is_over:
            return  # a stop string that was found late
        choice.is_over = True
        if all(other.is_over for other in self._choices_of[choice.place]):
            self._end_request(now_ns)

    def _end_request(self, now_ns: int) -> None:
        following = self._arrivals.after_end(now_ns)
        if following is not None:
            self._arrive(*following)

    # The worker.

    def _execute(self, now_ns: int, step: StepScheduled) -> None:
        latencies = self._latencies
        began_ns = max(
            now_ns + latencies.dispatch_ns,
            self._worker_free_ns + latencies.turnover_ns if self._has_worked else 0,
        )
        ended_ns = began_ns + self._durations.duration_ns(work_of(step))
        self._worker_free_ns, self._has_worked = ended_ns, True
        completed = StepCompleted(step.step_id, [], began_ns, ended_ns, [])
        for share in step.scheduled:
            if share.num_logits:
                choice = self._choices[share.seq_id]
                index = share.start + share.num_tokens - choice.num_prompt_tokens
                self._sample(completed, share.seq_id, index)
        self._send(ended_ns + latencies.return_ns, completed)

    def _sample(self, completed: StepCompleted, seq_id: SeqId, index: int) -> None:
        choice = self._choices[seq_id]
        answer = choice.answer
        if index < len(answer.outputs):
            token = answer.outputs[index]
        elif answer.error:
            completed.failures.append(SequenceFailure(seq_id, answer.error))
            return
        else:
            token = _stand_in(self._requests[choice.place])
        completed.outputs.append(SampledTokens(seq_id, [token]))

    # The detokenizer.

    def _detokenize(self, now_ns: int, effect: TokensEmitted) -> None:
        ended: list[SeqId] = []
        delivered_ns = now_ns + self._latencies.delivery_ns
        for tokens in effect.sequences:
            choice = self._choices[tokens.seq_id]
            num_before = choice.num_outputs
            choice.num_outputs += len(tokens.token_ids)
            match = choice.answer.stop_match
            if match is not None and num_before < match.num_output_tokens <= choice.num_outputs:
                choice.matched_ns = now_ns + match.delay_ns
                matched = StopStringMatched(tokens.seq_id, match.num_output_tokens)
                self._send(choice.matched_ns, matched)
            if tokens.finish_reason is not None:
                ended.append(tokens.seq_id)
                delivered_ns = max(delivered_ns, choice.matched_ns)
            elif self._requests[choice.place].abort_delay_ns is not None:
                self._consider_giving_up(now_ns, choice.place)
        if ended:
            self._send(delivered_ns, OutputDelivered(tuple(ended)))


def _stand_in(request: ClientRequest) -> int:
    """A token for where the record tells none, behind a stop string or an abort: one that does
    not end the sequence."""
    stop_token_ids = request.admit.stopping.stop_token_ids
    return next(token for token in range(len(stop_token_ids) + 1) if token not in stop_token_ids)
