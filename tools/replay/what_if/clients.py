"""What the clients of a recording do, told so that another engine can be asked the same.

A request comes with all that is known of its answers: the tokens, where a stop string matched,
where the client gave up. What the record does not tell is told here, too:

  inherited      a sequence that ran before the record: a request of its own, whose prompt is all
                 that was known at the start
  cut off        in flight at the end: given up there, after as many tokens
  refused, or    left out: what they would have put out is not known
  aborted before their admit

The first two are load, and count in no figure.
"""

from collections.abc import Iterator

import msgspec

from tokenreel.messages.block_hash import chain
from tokenreel.messages.requests import AdmitRequest
from tokenreel.messages.sampling import FinishReason
from tokenreel.tools.replay.recording.values import (
    RecordedRequest,
    RecordedSequence,
    Recording,
    StopMatch,
)


class Answer(msgspec.Struct, frozen=True):
    """What one sequence puts out. With `error`, it fails where `outputs` end. `num_when_aborted` is
    the output after which its client may give up."""

    outputs: list[int]
    error: str = ""
    stop_match: StopMatch | None = None
    num_when_aborted: int = 0


class ClientRequest(msgspec.Struct, frozen=True):
    """`arrival_ns` counts from the start of the recording. `abort_delay_ns` is the time from the
    last of the outputs that its client waits for (from the arrival, if there is none) to the abort;
    None: it does not give up. `source` is the place of the recorded request in its recording."""

    admit: AdmitRequest
    arrival_ns: int
    answers: list[Answer]
    abort_delay_ns: int | None
    source: int
    counts: bool


class Clients(msgspec.Struct, frozen=True):
    """`requests` in the order of their arrival; `block_size` is that of their hashes."""

    requests: list[ClientRequest]
    block_size: int
    num_inherited: int
    num_cut_off: int
    num_left_out: int


def clients_of(recording: Recording) -> Clients:
    requests: list[ClientRequest] = []
    num_inherited = num_cut_off = num_left_out = 0
    for source, request in enumerate(recording.requests):
        if request.rejected is not None or not request.sequences:
            num_left_out += 1
        elif request.is_inherited:
            num_inherited += 1
            requests.extend(_inherited(recording, request, source))
        else:
            num_cut_off += not request.is_complete
            requests.append(_asked_again(recording, request, source))
    return Clients(requests, recording.config.block_size, num_inherited, num_cut_off, num_left_out)


def admit_of(clients: Clients, place: int, block_size: int) -> AdmitRequest:
    """The request at `place`, with its prompt's chain over blocks of `block_size` tokens."""
    admit = clients.requests[place].admit
    if not admit.cache_root or (admit.block_hashes and block_size == clients.block_size):
        return admit
    links = chain(admit.cache_root, admit.prompt_token_ids, block_size)
    return msgspec.structs.replace(admit, block_hashes=links)


def _asked_again(recording: Recording, request: RecordedRequest, source: int) -> ClientRequest:
    sequences = request.sequences
    abort = request.abort if request.abort and request.abort.ended_something else None
    waited_for = abort.num_outputs if abort else tuple(len(s.outputs) for s in sequences)
    if abort is not None:
        delay_ns = abort.at_ns - _last_before(request, abort.num_outputs)
    else:  # only of interest if it was cut off
        delay_ns = 0 if any(waited_for) else recording.end_ns - request.arrival_ns
    gives_up = abort is not None or not request.is_complete
    return ClientRequest(
        admit=request.admit,
        arrival_ns=request.arrival_ns - recording.start_ns,
        answers=[
            Answer(sequence.outputs, _error(sequence), sequence.stop_match, number)
            for sequence, number in zip(sequences, waited_for, strict=True)
        ],
        abort_delay_ns=delay_ns if gives_up else None,
        source=source,
        counts=request.is_complete and not any(s.num_inherited for s in sequences),
    )


def _last_before(request: RecordedRequest, num_outputs: tuple[int, ...]) -> int:
    """When the last token was put out that the client waited for before it gave up."""
    times = [
        sequence.output_ns[number - 1]
        for sequence, number in zip(request.sequences, num_outputs, strict=True)
        if number
    ]
    return max(times, default=request.arrival_ns)


def _inherited(
    recording: Recording, request: RecordedRequest, source: int
) -> Iterator[ClientRequest]:
    """One request for each sequence that went on after the snapshot. Where it did not end by
    itself, its client gives up behind the last output."""
    for sequence in request.sequences:
        if sequence.finished_ns == request.arrival_ns:
            continue  # it had ended, and waited for its delivery alone
        known, rest = sequence.num_inherited, sequence.outputs[sequence.num_inherited :]
        end_ns = sequence.finished_ns or recording.end_ns
        delay_ns = 0 if rest else end_ns - request.arrival_ns
        yield ClientRequest(
            admit=_resumed(request.admit, sequence.outputs[:known]),
            arrival_ns=request.arrival_ns - recording.start_ns,
            answers=[Answer(rest, _error(sequence), None, len(rest))],
            abort_delay_ns=None if _ends_by_itself(sequence) else delay_ns,
            source=source,
            counts=False,
        )


def _resumed(admit: AdmitRequest, outputs: list[int]) -> AdmitRequest:
    """One sequence that goes on behind `outputs`. Its prompt's blocks are not hashed."""
    stopping = msgspec.structs.replace(
        admit.stopping,
        max_tokens=max(1, admit.stopping.max_tokens - len(outputs)),
        min_tokens=max(0, admit.stopping.min_tokens - len(outputs)),
    )
    return msgspec.structs.replace(
        admit,
        prompt_token_ids=[*admit.prompt_token_ids, *outputs],
        stopping=stopping,
        n=1,
        block_hashes=[],
    )


def _ends_by_itself(sequence: RecordedSequence) -> bool:
    """By a stop token, its length or a failure: by what it puts out, and nobody's word."""
    if sequence.finish_reason is FinishReason.STOP:
        return sequence.stop_match is None
    return sequence.finish_reason in (FinishReason.LENGTH, FinishReason.ERROR)


def _error(sequence: RecordedSequence) -> str:
    return sequence.error if sequence.finish_reason is FinishReason.ERROR else ""
