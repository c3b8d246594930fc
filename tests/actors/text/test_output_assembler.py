"""Whatever way tokens come, their text arrives once, whole and in order."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenreel.actors.text.output_assembler import Outcome, OutputAssembler
from tokenreel.actors.text.sequence_text import SequenceText
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.logprobs import SequenceLogprobs
from tokenreel.messages.outputs import SequenceTokens, StopStringMatched, TextChunk
from tokenreel.messages.requests import RequestAdmitted
from tokenreel.messages.sampling import FinishReason, TextParams

KEY = RequestKey(1, 1)
SEQ = SeqId(5)
STOP, LENGTH, ABORT, ERROR = FinishReason


class Client:
    """Feeds an assembler, and puts the chunks together as a client would."""

    def __init__(self, model: ModelTokenizer, params: TextParams, n: int = 1) -> None:
        self.assembler = OutputAssembler(model)
        self.outcome = Outcome([], [], [])
        self.admit(params, tuple(SeqId(SEQ + index) for index in range(n)))

    def admit(self, params: TextParams, seq_ids: tuple[SeqId, ...]) -> None:
        self.assembler.admit(RequestAdmitted(KEY, seq_ids, 3, params), self.outcome)

    def take(
        self,
        first: int,
        token_ids: list[int],
        reason: FinishReason | None = None,
        *,
        seq_id: SeqId = SEQ,
        logprobs: SequenceLogprobs | None = None,
        error: str = "",
    ) -> None:
        entry = SequenceTokens(seq_id, first, token_ids, reason, 0, error)
        described = {logprobs.seq_id: logprobs} if logprobs else {}
        self.assembler.take([entry], described, self.outcome)

    def text(self, choice: int = 0) -> str:
        text = ""
        for chunk in self.chunks(choice):
            assert chunk.char_offset == len(text)
            text += chunk.text
        return text

    def chunks(self, choice: int = 0) -> list[TextChunk]:
        return [chunk for chunk in self.outcome.chunks if chunk.choice == choice]

    @property
    def last(self) -> TextChunk:
        return self.outcome.chunks[-1]


@pytest.fixture(scope="module")
def model(tokenizers_by_kind: dict[str, Tokenizer]) -> ModelTokenizer:
    return ModelTokenizer(tokenizers_by_kind["byte_level"], eos_token_ids=[2])


def ids(model: ModelTokenizer, text: str) -> list[int]:
    return model.encode(text, add_special_tokens=False, max_tokens=1000)


def letters(model: ModelTokenizer, text: str) -> list[int]:
    """One token per byte."""
    by_bytes = {model.token_text(token)[1]: token for token in reversed(range(model.vocab_size))}
    return [by_bytes[bytes([byte])] for byte in text.encode()]


def batches(token_ids: list[int], cuts: list[int]) -> Iterator[tuple[int, list[int]]]:
    edges = [0, *sorted(cut % (len(token_ids) + 1) for cut in cuts), len(token_ids)]
    for start, end in zip(edges, edges[1:], strict=False):
        yield start, token_ids[start:end]


def test_every_batch_of_tokens_is_one_chunk_even_without_text(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    for index, token_id in enumerate(letters(model, "a😀")):
        client.take(index, [token_id])
    assert [chunk.text for chunk in client.outcome.chunks] == ["a", "", "", "", "😀"]
    assert [chunk.num_tokens for chunk in client.outcome.chunks] == [1, 2, 3, 4, 5]


def test_any_batching_and_any_repetition_gives_the_same_text(model: ModelTokenizer) -> None:
    tokens = st.lists(st.integers(0, model.vocab_size - 1), max_size=30)
    stops = st.lists(st.text("abe \ufffd", min_size=1, max_size=2), max_size=2).map(tuple)

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(
        tokens,
        st.lists(st.integers(0, 30), max_size=6),
        st.lists(st.integers(0, 30), max_size=6),
        stops,
    )
    def check(token_ids: list[int], cuts: list[int], backs: list[int], stop: tuple[str]) -> None:
        params = TextParams(stop=stop)
        whole = SequenceText(model.detokenizer([], skip_special_tokens=True), params)
        expected = whole.push(token_ids) + whole.finish()
        client = Client(model, params)
        for place, (start, batch) in enumerate(batches(token_ids, cuts)):
            client.take(start, batch)
            again = max(0, start - backs[place]) if place < len(backs) else start
            client.take(again, token_ids[again : start + len(batch)])
        client.take(len(token_ids), [], LENGTH)
        assert client.text() == expected
        assert client.last.num_tokens == whole.num_tokens
        assert client.last.stop_reason == whole.matched
        assert client.last.finish_reason == (LENGTH if whole.matched is None else STOP)
        assert client.outcome.delivered == [SEQ]
        statistics = client.assembler.statistics()
        assert statistics.num_sequences == statistics.num_awaiting_finish == 0
        assert statistics.num_gaps == statistics.num_failures == 0

    check()


def test_a_missing_batch_ends_the_sequence_with_an_error(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    client.take(0, ids(model, "the"))
    client.take(9, ids(model, " cat"))
    client.take(10, ids(model, " sat"))
    assert client.text() == "the"
    assert client.last.finish_reason is ERROR
    assert "output tokens 1 to 8 were lost" in client.last.error
    assert client.outcome.delivered == []
    client.take(11, [], ABORT)
    assert client.outcome.delivered == [SEQ]
    assert client.assembler.statistics().num_gaps == 1
    assert client.assembler.statistics().num_awaiting_finish == 0


def test_an_eos_token_is_no_text_and_no_reason(model: ModelTokenizer) -> None:
    client = Client(model, TextParams(skip_special_tokens=False))
    client.take(0, [*ids(model, "the"), 2], STOP)
    assert client.text() == "the"
    assert (client.last.num_tokens, client.last.stop_reason) == (2, None)


def test_a_stop_token_that_a_client_named_is_the_reason(model: ModelTokenizer) -> None:
    token_ids = ids(model, "the cat")
    client = Client(model, TextParams())
    client.take(0, token_ids[:1])
    client.take(1, token_ids[1:2], STOP)
    assert client.text() == "the"
    assert (client.last.num_tokens, client.last.stop_reason) == (2, token_ids[1])


def test_a_stop_token_is_text_if_the_client_wants_it(model: ModelTokenizer) -> None:
    token_ids = ids(model, "the<think>")
    client = Client(model, TextParams(include_stop_str_in_output=True))
    client.take(0, token_ids, STOP)
    assert client.text() == "the<think>"
    assert client.last.stop_reason == token_ids[-1]


def test_text_held_back_leaves_at_the_end(model: ModelTokenizer) -> None:
    client = Client(model, TextParams(stop=("the end",)))
    client.take(0, letters(model, "so the en"))
    assert client.text() == "so "
    client.take(9, [*letters(model, "é")[:1]], LENGTH)
    assert client.text() == "so the en\ufffd"


def test_a_stop_string_ends_the_text_at_once(model: ModelTokenizer) -> None:
    token_ids = letters(model, "one. two. three")
    client = Client(model, TextParams(stop=(". t",)))
    for index, token_id in enumerate(token_ids):
        client.take(index, [token_id])
    assert client.text() == "one"
    assert (client.last.finish_reason, client.last.stop_reason) == (STOP, ". t")
    assert client.last.num_tokens == 6
    assert client.outcome.matches == [StopStringMatched(SEQ, 6)]
    assert client.outcome.delivered == []
    client.take(6, [], STOP)  # the core's answer
    assert client.outcome.delivered == [SEQ]
    assert len(client.chunks()) == 6


def test_a_match_before_the_end_shortens_a_finished_sequence(model: ModelTokenizer) -> None:
    token_ids = letters(model, "a.b")
    client = Client(model, TextParams(stop=(".",)))
    client.take(0, [*token_ids, 2], STOP)
    assert (client.text(), client.last.num_tokens, client.last.stop_reason) == ("a", 2, ".")
    assert client.outcome.matches == [StopStringMatched(SEQ, 2)]
    assert client.outcome.delivered == [SEQ]


def test_a_match_with_the_last_token_needs_no_report(model: ModelTokenizer) -> None:
    client = Client(model, TextParams(stop=("b",)))
    client.take(0, letters(model, "ab"), LENGTH)
    assert (client.text(), client.last.finish_reason, client.last.stop_reason) == ("a", STOP, "b")
    assert client.outcome.matches == []
    assert client.outcome.delivered == [SEQ]


def test_no_stop_string_matches_within_min_tokens(model: ModelTokenizer) -> None:
    client = Client(model, TextParams(stop=("a",), min_tokens=2))
    client.take(0, letters(model, "aaa"))
    assert (client.text(), client.last.num_tokens) == ("aa", 3)


def test_an_abort_and_a_failure_end_the_text(model: ModelTokenizer) -> None:
    for reason, error in ((ABORT, ""), (ERROR, "logits are not finite")):
        client = Client(model, TextParams())
        client.take(0, ids(model, "the"))
        client.take(1, [], reason, error=error)
        assert (client.last.finish_reason, client.last.error) == (reason, error)
        assert client.outcome.delivered == [SEQ]


def test_choices_of_one_request_do_not_mix(model: ModelTokenizer) -> None:
    client = Client(model, TextParams(), n=2)
    first, second = letters(model, "日本")[:3], letters(model, "😀")
    client.take(0, first[:2], seq_id=SEQ)
    client.take(0, second[:2], seq_id=SeqId(SEQ + 1))
    client.take(2, first[2:], LENGTH, seq_id=SEQ)
    client.take(2, second[2:], LENGTH, seq_id=SeqId(SEQ + 1))
    assert (client.text(0), client.text(1)) == ("日", "😀")


def test_log_probabilities_say_which_bytes_a_token_is(model: ModelTokenizer) -> None:
    lead, *rest = letters(model, "é")
    other = letters(model, "x")[0]
    client = Client(model, TextParams())
    logprobs = SequenceLogprobs(SEQ, [-0.5], [[lead, other]], [[-0.5, -1.5]])
    client.take(0, [lead], logprobs=logprobs)
    assert client.last.logprobs is not None
    (described,) = client.last.logprobs
    assert (described.token, described.bytes, described.logprob) == ("\ufffd", b"\xc3", -0.5)
    assert described.top == [("\ufffd", -0.5, b"\xc3"), ("x", -1.5, b"x")]
    client.take(1, rest)
    assert client.last.logprobs is None


def test_log_probabilities_follow_the_tokens_that_count(model: ModelTokenizer) -> None:
    token_ids = letters(model, "ab.c")
    client = Client(model, TextParams(stop=(".",)))
    client.take(0, token_ids[:1])
    sampled = [-1.0, -2.0, -3.0, -4.0]
    logprobs = SequenceLogprobs(SEQ, sampled, [[]] * 4, [[]] * 4)
    client.take(0, token_ids, logprobs=logprobs)
    assert client.last.logprobs is not None
    assert [each.logprob for each in client.last.logprobs] == [-2.0, -3.0]
    assert [each.token for each in client.last.logprobs] == ["b", "."]


def test_log_probabilities_count_the_stop_token(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    logprobs = SequenceLogprobs(SEQ, [-1.0, -2.0], [[], []], [[], []])
    client.take(0, [*letters(model, "a"), 2], STOP, logprobs=logprobs)
    assert client.last.logprobs is not None
    assert [each.token for each in client.last.logprobs] == ["a", "<|im_end|>"]


def test_an_unknown_sequence_is_counted_and_its_end_acknowledged(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    client.take(0, [5], seq_id=SeqId(99))
    assert client.outcome == ([], [], [])
    client.take(1, [], LENGTH, seq_id=SeqId(99))
    assert client.outcome == ([], [], [99])
    assert client.assembler.statistics().num_unknown == 2


def test_a_second_announcement_changes_nothing(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    client.take(0, ids(model, "the"))
    client.admit(TextParams(), (SEQ,))
    client.take(1, ids(model, " cat"), LENGTH)
    assert client.text() == "the cat"


def test_tokens_that_do_not_exist_are_no_text(model: ModelTokenizer) -> None:
    client = Client(model, TextParams())
    client.take(0, [*ids(model, "the"), 1 << 40, -3, model.vocab_size + 7], LENGTH)
    assert (client.text(), client.last.num_tokens) == ("the", 4)


def test_a_failure_ends_its_own_sequence_only(
    model: ModelTokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    client = Client(model, TextParams(), n=2)
    bad: list[int] = ["the"]  # type: ignore[list-item]
    client.take(0, bad)
    client.take(0, ids(model, "the"), LENGTH, seq_id=SeqId(SEQ + 1))
    assert client.chunks(0)[-1].finish_reason is ERROR
    assert "detokenization failed: TypeError" in client.chunks(0)[-1].error
    assert client.text(1) == "the"
    client.take(1, [], ABORT)
    assert client.outcome.delivered == [SEQ + 1, SEQ]
    assert "TypeError" in capfd.readouterr().err


def test_log_probabilities_without_sense_end_their_own_sequence_only(
    model: ModelTokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    client = Client(model, TextParams())
    client.take(0, letters(model, "a"), logprobs=SequenceLogprobs(SEQ, [-1.0], [[5]], [[]]))
    assert (client.text(), client.last.finish_reason) == ("", ERROR)
    assert "ValueError" in capfd.readouterr().err


def test_text_parameters_that_make_no_sense_end_their_request_only(
    model: ModelTokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    client = Client(model, TextParams(stop=("",)))
    assert client.last.finish_reason is ERROR
    assert "a stop string is empty" in client.last.error
    client.take(0, [5])
    client.take(1, [], ABORT)
    assert len(client.outcome.chunks) == 1
    assert client.outcome.delivered == [SEQ]
    assert "ValueError" in capfd.readouterr().err
