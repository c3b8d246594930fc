"""A closed loop is told from an open one, and its clients wait as long as they did then."""

from capturing import CONFIG
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.requests import AdmitRequest
from tokenreel.messages.sampling import FinishReason, SamplingParams, StoppingParams, TextParams
from tokenreel.tools.replay.recording.values import (
    RecordedRequest,
    RecordedSequence,
    Recording,
)
from tokenreel.tools.replay.what_if.arrivals import Arrivals, closed_loop_of, is_closed
from tokenreel.tools.replay.what_if.clients import clients_of

START_NS = 1_000_000


def recording_of(lives: list[tuple[int, int]]) -> Recording:
    """One request for each (arrival, end), counted from the start."""
    requests = []
    for number, (arrival, end) in enumerate(sorted(lives)):
        admit = AdmitRequest(
            key=RequestKey(1, number),
            prompt_token_ids=[1, 2, 3],
            sampling=SamplingParams(),
            stopping=StoppingParams(1),
            text=TextParams(),
            n=1,
            priority=0,
            cache_root=BlockHash(b""),
            block_hashes=[],
        )
        sequence = RecordedSequence(
            SeqId(number + 1),
            outputs=[5],
            output_ns=[START_NS + end],
            finish_reason=FinishReason.LENGTH,
            num_final_outputs=1,
            finished_ns=START_NS + end,
        )
        requests.append(RecordedRequest(admit, START_NS + arrival, [sequence]))
    end_ns = START_NS + max(end for _, end in lives)
    return Recording("run", CONFIG, START_NS, end_ns, requests, [], 0, 0, 0, None)


def closed(num_clients: int, rounds: int, answer: int, think: int) -> list[tuple[int, int]]:
    """Clients that start one after the other and then wait for each answer."""
    period = answer + think
    return [
        (client * 7 + turn * period, client * 7 + turn * period + answer)
        for client in range(num_clients)
        for turn in range(rounds)
    ]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(1000, 9000), st.integers(0, 90))
def test_clients_that_wait_for_their_answers_are_a_closed_loop(
    num_clients: int, rounds: int, answer: int, think: int
) -> None:
    recording = recording_of(closed(num_clients, rounds, answer, think))
    loop = closed_loop_of(recording, clients_of(recording))
    assert loop is not None and is_closed(recording, loop)
    assert loop.num_clients == num_clients
    assert loop.think_ns == (think,) * (num_clients * (rounds - 1))


def test_clients_that_come_when_they_like_are_none() -> None:
    lives = [(number * 1000, number * 1000 + 1500 + 700 * (number % 3)) for number in range(50)]
    recording = recording_of(lives)
    loop = closed_loop_of(recording, clients_of(recording))
    assert loop is not None and not is_closed(recording, loop)


def test_clients_that_ask_once_are_none() -> None:
    recording = recording_of([(number, 1000 + number) for number in range(5)])
    loop = closed_loop_of(recording, clients_of(recording))
    assert loop is None and not is_closed(recording, loop)


def test_the_first_requests_come_as_recorded_and_each_later_one_after_an_end() -> None:
    recording = recording_of(closed(3, 4, 1000, 50))
    clients = clients_of(recording)
    loop = closed_loop_of(recording, clients)
    arrivals = Arrivals(clients, loop)
    assert arrivals.first == [(0, 0), (1, 7), (2, 14)]
    assert [arrivals.after_end(now) for now in (500, 600)] == [(3, 550), (4, 650)]
    for place in range(5, 12):
        assert arrivals.after_end(1000) == (place, 1050)
    assert arrivals.after_end(2000) is None


def test_in_an_open_loop_all_come_as_recorded() -> None:
    recording = recording_of(closed(3, 2, 1000, 50))
    clients = clients_of(recording)
    arrivals = Arrivals(clients, None)
    assert [at for _, at in arrivals.first] == [0, 7, 14, 1050, 1057, 1064]
    assert arrivals.after_end(1000) is None
