"""A captured run as a Scenario: what was asked, what came out, and when, counted in steps.

Token ids are made up: equal prefixes stay equal, and stop tokens stay stop tokens.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tokenreel.actors.core.config import CoreConfig, blocks_for
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest, at_index
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.sampling import FinishReason
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.recording.recording import lift
from tokenreel.tools.replay.recording.values import RecordedRequest, RecordedSequence, Recording
from tokenreel.tools.replay.shrink.prefix_tree import Prefix, shared_prefixes
from tokenreel.tools.replay.shrink.turns import TURNS_PER_STEP, TurnClock

REFUSALS_KEPT = ("queue_full", "context_length_exceeded", "empty_prompt", "aborted")
"""Requests that the core refused for other reasons are left out: a scenario cannot ask so."""
SLACK_TURNS = 64


class Lifted(NamedTuple):
    """`keys` are those that the scenario's requests had in the record."""

    scenario: Scenario
    recording: Recording
    keys: list[RequestKey]


def scenario_of(journal: Journal) -> Lifted:
    """Raises JournalDamaged."""
    recording, clock = lift(journal), TurnClock(journal)
    kept = [request for request in recording.requests if _can_be_asked(request)]
    prefixes = _prefixes(kept, recording.config)
    requests = tuple(
        _request_of(request, shared, clock) for request, shared in zip(kept, prefixes, strict=True)
    )
    scenario = Scenario(config=recording.config, requests=requests, turns_per_step=TURNS_PER_STEP)
    return Lifted(scenario, recording, [request.admit.key for request in kept])


def max_turns_of(scenario: Scenario) -> int:
    """More than any run takes in which nobody is served twice before everybody was served once:
    all requests one after the other, each of them computed twice over."""
    budget = scenario.config.max_num_batched_tokens
    num_steps = 0
    last_turn = 0
    for request in scenario.requests:
        num_tokens = max(_num_outputs(request, index) for index in range(max(1, request.n)))
        num_steps += request.n * (blocks_for(request.num_prompt_tokens, budget) + num_tokens)
        last_turn = max(last_turn, request.arrival, request.abort_turn or 0)
    return last_turn + scenario.turns_per_step * (SLACK_TURNS + 2 * num_steps)


def _num_outputs(request: ScenarioRequest, index: int) -> int:
    return at_index(request.ends_after, index) or request.max_tokens


def _can_be_asked(request: RecordedRequest) -> bool:
    return request.rejected is None or request.rejected.code in REFUSALS_KEPT


def _prefixes(requests: list[RecordedRequest], config: CoreConfig) -> list[tuple[Prefix, ...]]:
    """What a request puts out may be the beginning of a later one's prompt, as in a chat."""
    if not config.enable_prefix_caching:
        return [()] * len(requests)
    texts: list[tuple[bytes, list[int]]] = []
    for request in requests:
        outputs = request.sequences[0].outputs if request.sequences else []
        texts.append((request.admit.cache_root, [*request.admit.prompt_token_ids, *outputs]))
    return shared_prefixes(texts, config.block_size)


def _request_of(
    request: RecordedRequest, prefixes: tuple[Prefix, ...], clock: TurnClock
) -> ScenarioRequest:
    admit, sequences = request.admit, request.sequences
    abort_turn, abort_after, abort_delay = _abort_of(request, clock)
    return ScenarioRequest(
        num_prompt_tokens=len(admit.prompt_token_ids),
        max_tokens=admit.stopping.max_tokens,
        arrival=clock.turn_at(request.arrival_ns),
        priority=admit.priority,
        n=admit.n,
        prefix_group=_one_or_all(prefix.group for prefix in prefixes) or 0,
        num_shared_tokens=_one_or_all(prefix.length for prefix in prefixes) or 0,
        abort_turn=abort_turn,
        abort_after=abort_after,
        abort_delay=abort_delay,
        stop_after=_by_index(
            0 if s.stop_match is None else s.stop_match.num_output_tokens for s in sequences
        ),
        stop_delay=_stop_delay(sequences, clock),
        ends_after=_by_index(_ends_after(request, s) for s in sequences),
        fails_at=_by_index(
            len(s.outputs) + 1 if s.finish_reason is FinishReason.ERROR else 0 for s in sequences
        ),
    )


def _abort_of(request: RecordedRequest, clock: TurnClock) -> tuple[int | None, int | None, int]:
    """`abort_turn`, or `abort_after` and `abort_delay`: by its output if it had any."""
    abort = request.abort
    if abort is None:
        return None, None, 0
    num_outputs = abort.num_outputs[0] if abort.num_outputs else 0
    sequence = request.sequences[0] if request.sequences else None
    if sequence is None or not num_outputs or num_outputs <= sequence.num_inherited:
        return clock.turn_at(abort.at_ns), None, 0
    put_out_ns = sequence.output_ns[num_outputs - 1]
    return None, num_outputs, _delay(clock, put_out_ns, abort.at_ns - put_out_ns)


def _stop_delay(sequences: list[RecordedSequence], clock: TurnClock) -> int:
    """Of the first stop string that matched in the request."""
    matches = [(sequence, sequence.stop_match) for sequence in sequences if sequence.stop_match]
    if not matches:
        return 0
    sequence, match = matches[0]
    return _delay(clock, sequence.output_ns[match.num_output_tokens - 1], match.delay_ns)


def _delay(clock: TurnClock, put_out_ns: int, delay_ns: int) -> int:
    """Turns from the one after a token came out to what followed from it."""
    return max(0, clock.turn_at(put_out_ns + delay_ns) - clock.turn_after(put_out_ns))


def _ends_after(request: RecordedRequest, sequence: RecordedSequence) -> int:
    """The length of an output whose last token is a stop token; 0 if it is none."""
    stop_token_ids = request.admit.stopping.stop_token_ids
    ended = sequence.finish_reason is FinishReason.STOP and bool(sequence.outputs)
    return len(sequence.outputs) if ended and sequence.outputs[-1] in stop_token_ids else 0


def _by_index(values: Iterable[int]) -> int | tuple[int, ...] | None:
    """None if nothing is to be said of any sequence, one number if the same of all."""
    found = tuple(values)
    if not any(found):
        return None
    return found[0] if len(set(found)) == 1 else found


def _one_or_all(values: Iterable[int]) -> int | tuple[int, ...] | None:
    found = tuple(values)
    return (found[0] if len(found) == 1 else found) if found else None
