"""The detokenizer's frames: text to the frontend, stops and deliveries to the core, in order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenreel.actors.detokenizer import DetokenizerActor
from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.lifecycle import ActorReady, EngineFacts
from tokenreel.messages.logprobs import SequenceLogprobs, encode_logprobs
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceTokens,
    StopStringMatched,
    TextChunk,
    TextEmitted,
    TokensEmitted,
)
from tokenreel.messages.requests import RequestAdmitted
from tokenreel.messages.sampling import FinishReason, TextParams

ROLE = DetokenizerActor.ROLE
MakeModelDir = Callable[..., Path]
Connect = Callable[..., Any]
KEY = RequestKey(1, 1)
A, B = SeqId(1), SeqId(2)


def tokens(
    seq_id: SeqId, first: int, token_ids: list[int], reason: FinishReason | None = None
) -> TokensEmitted:
    return TokensEmitted([SequenceTokens(seq_id, first, token_ids, reason, 4)])


class Stage:
    """A started detokenizer between a core and a frontend."""

    def __init__(self, peers: Any) -> None:
        self.peers = peers
        peers.actor.start()
        self._tokenizer = ModelTokenizer.load(Path(peers.actor.runtime.options.model))

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, max_tokens=99)

    def chunks(self) -> list[TextChunk]:
        message = self.peers.receive("frontend")
        assert isinstance(message, TextEmitted)
        return message.chunks


@pytest.fixture
def stage(connect: Connect, make_model_dir: MakeModelDir) -> Stage:
    options = EngineOptions(model=str(make_model_dir()), served_model_name="m")
    return Stage(connect(DetokenizerActor, ROLE, options))


def test_it_is_ready_when_its_tokenizer_is_loaded(stage: Stage) -> None:
    assert isinstance(stage.peers.receive("supervisor"), ActorReady)


def test_tokens_become_text_and_the_end_is_reported(stage: Stage) -> None:
    the, cat = stage.ids("the"), stage.ids(" cat")
    stage.peers.send("engine_core", RequestAdmitted(KEY, (A,), 3, TextParams()))
    stage.peers.send("engine_core", tokens(A, 0, the))
    stage.peers.send("engine_core", tokens(A, len(the), cat, FinishReason.LENGTH))
    (first,) = stage.chunks()
    (last,) = stage.chunks()
    assert first == TextChunk(KEY, 0, 0, "the", len(the), num_cached_tokens=4)
    assert (last.char_offset, last.text, last.finish_reason) == (3, " cat", FinishReason.LENGTH)
    assert stage.peers.receive("engine_core") == OutputDelivered((A,))
    statistics = stage.peers.actor.statistics().output
    assert (statistics.num_sequences, statistics.num_awaiting_finish) == (0, 0)
    assert (statistics.num_tokens, statistics.num_chars) == (len(the + cat), 7)


def test_a_stop_string_is_reported_before_the_delivery(stage: Stage) -> None:
    token_ids = stage.ids("one two three")
    params = TextParams(stop=("two",))
    stage.peers.send("engine_core", RequestAdmitted(KEY, (A,), 3, params))
    stage.peers.send("engine_core", tokens(A, 0, token_ids))
    (chunk,) = stage.chunks()
    assert (chunk.text, chunk.finish_reason, chunk.stop_reason) == (
        "one ",
        FinishReason.STOP,
        "two",
    )
    matched = stage.peers.receive("engine_core")
    assert matched == StopStringMatched(A, chunk.num_tokens)
    late = tokens(A, len(token_ids), token_ids)
    answer = tokens(A, chunk.num_tokens, [], FinishReason.STOP)
    stage.peers.send("engine_core", late, answer)
    assert stage.peers.receive("engine_core") == OutputDelivered((A,))


def test_frames_that_come_together_leave_together(stage: Stage) -> None:
    the = stage.ids("the")
    stage.peers.send(
        "engine_core",
        RequestAdmitted(KEY, (A, B), 3, TextParams()),
        tokens(A, 0, the, FinishReason.LENGTH),
        tokens(B, 0, the),
        tokens(B, len(the), the, FinishReason.LENGTH),
    )
    chunks: list[TextChunk] = []
    while len(chunks) < 3:
        chunks += stage.chunks()
    assert [(chunk.choice, chunk.text) for chunk in chunks] == [(0, "the"), (1, "the"), (1, "the")]
    delivered: list[SeqId] = []
    while len(delivered) < 2:
        message = stage.peers.receive("engine_core")
        assert isinstance(message, OutputDelivered)
        delivered += message.seq_ids
    assert delivered == [A, B]


def test_log_probabilities_come_with_their_step(stage: Stage) -> None:
    (token_id,) = stage.ids("a")
    attachment = encode_logprobs([SequenceLogprobs(A, [-0.25], [[token_id]], [[-0.25]])])
    stage.peers.send("engine_core", RequestAdmitted(KEY, (A,), 3, TextParams()))
    stage.peers.send("engine_core", tokens(A, 0, [token_id]), attachment=attachment)
    (chunk,) = stage.chunks()
    assert chunk.logprobs is not None
    assert [(each.token, each.logprob) for each in chunk.logprobs] == [("a", -0.25)]


def test_log_probabilities_that_cannot_be_read_are_counted(stage: Stage) -> None:
    stage.peers.send("engine_core", RequestAdmitted(KEY, (A,), 3, TextParams()))
    stage.peers.send("engine_core", tokens(A, 0, stage.ids("a")), attachment=b"\xc1 garbage")
    (chunk,) = stage.chunks()
    assert (chunk.text, chunk.logprobs) == ("a", None)
    assert stage.peers.actor.statistics().num_dropped_attachments == 1


def test_garbage_and_strangers_are_counted_and_dropped(stage: Stage) -> None:
    stage.peers.send("engine_core", b"\xff garbage", b"")
    stage.peers.send("worker", RequestAdmitted(KEY, (A,), 3, TextParams()))
    stage.peers.send("engine_core", OutputDelivered((A,)))
    statistics = stage.peers.actor.statistics()
    assert (statistics.num_frames, statistics.num_dropped_frames) == (4, 4)
    assert statistics.output.num_sequences == 0


def test_the_engine_s_limits_are_no_strangers(stage: Stage) -> None:
    stage.peers.send("engine_core", EngineFacts(100, 4, 8, 10, 16, 50, b"m" * 16))
    statistics = stage.peers.actor.statistics()
    assert (statistics.num_frames, statistics.num_dropped_frames) == (1, 0)


def test_a_missing_tokenizer_keeps_it_from_starting(connect: Connect, tmp_path: Path) -> None:
    options = EngineOptions(model=str(tmp_path), served_model_name="m")
    peers = connect(DetokenizerActor, ROLE, options)
    with pytest.raises(StartError, match=r"has no tokenizer\.json"):
        peers.actor.start()
