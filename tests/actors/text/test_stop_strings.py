"""Stop strings are found as in the whole text, and as little as possible is held back."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.text.sequence_text import SequenceText
from tokenreel.actors.text.stop_strings import StopStringMatcher, compile_stop_strings
from tokenreel.messages.sampling import TextParams

FEW_LETTERS = st.text("ab!", max_size=5)
STOPS = st.lists(st.text("ab!", min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)
FOREVER = settings(derandomize=True, deadline=None, max_examples=400)


class Letters:
    """A detokenizer whose texts are given: token i is `texts[i]`, and `rest` comes at the end."""

    def __init__(self, texts: list[str], rest: str = "") -> None:
        self.texts = texts
        self.rest = rest

    def push(self, token_id: int) -> str:
        return self.texts[token_id]

    def flush(self) -> str:
        return self.rest


def naive(
    texts: list[str], rest: str, stops: tuple[str, ...], include: bool, min_tokens: int
) -> tuple[str, str | None, int]:
    """Text, stop string and number of tokens, by looking at the whole text up to each character."""
    text = ""
    for number, piece in enumerate([*texts, rest], start=1):
        num_tokens = min(number, len(texts))
        for character in piece:
            text += character
            ending = [stop for stop in stops if text.endswith(stop)]
            if ending and num_tokens > min_tokens:
                stop = max(ending, key=len)
                return (text if include else text.removesuffix(stop)), stop, num_tokens
    return text, None, len(texts)


def could_become(text: str, stops: tuple[str, ...]) -> str:
    """The longest end of the text that a stop string begins with, and goes on from."""
    ends = (text[start:] for start in range(len(text) + 1))
    return next(end for end in ends if any(stop.startswith(end) and stop != end for stop in stops))


@FOREVER
@given(
    texts=st.lists(FEW_LETTERS, max_size=8),
    rest=FEW_LETTERS,
    stops=STOPS,
    include=st.booleans(),
    min_tokens=st.integers(0, 4),
)
def test_the_match_is_the_one_that_the_whole_text_has(
    texts: list[str], rest: str, stops: tuple[str, ...], include: bool, min_tokens: int
) -> None:
    expected, stop, num_tokens = naive(texts, rest, stops, include, min_tokens)
    params = TextParams(stop=stops, include_stop_str_in_output=include, min_tokens=min_tokens)
    sequence = SequenceText(Letters(texts, rest), params)
    text = "".join(sequence.push([token]) for token in range(len(texts))) + sequence.finish()
    assert (text, sequence.matched, sequence.num_tokens) == (expected, stop, num_tokens)
    assert sequence.num_chars == len(text)


@FOREVER
@given(texts=st.lists(FEW_LETTERS, max_size=8), stops=STOPS)
def test_tokens_that_come_together_give_what_single_ones_give(
    texts: list[str], stops: tuple[str, ...]
) -> None:
    params = TextParams(stop=stops)
    one_by_one, together = (SequenceText(Letters(texts), params) for _ in range(2))
    text = "".join(one_by_one.push([token]) for token in range(len(texts)))
    assert together.push(list(range(len(texts)))) == text
    assert together.matched == one_by_one.matched
    assert together.num_tokens == one_by_one.num_tokens


@FOREVER
@given(texts=st.lists(FEW_LETTERS, max_size=8), stops=STOPS)
def test_exactly_what_may_become_a_stop_string_is_held_back(
    texts: list[str], stops: tuple[str, ...]
) -> None:
    matcher = StopStringMatcher(compile_stop_strings(stops), includes_match=False)
    seen = left = ""
    for text in texts:
        scan = matcher.push(text)
        seen, left = seen + text, left + scan.text
        if scan.matched is not None:
            return
        assert left + could_become(seen, stops) == seen


@FOREVER
@given(texts=st.lists(FEW_LETTERS, max_size=8), stops=STOPS)
def test_nothing_is_held_back_when_the_stop_string_belongs_to_the_text(
    texts: list[str], stops: tuple[str, ...]
) -> None:
    matcher = StopStringMatcher(compile_stop_strings(stops), includes_match=True)
    for text in texts:
        scan = matcher.push(text)
        if scan.matched is not None:
            return
        assert scan.text == text


def test_text_without_a_first_letter_passes_at_once() -> None:
    matcher = StopStringMatcher(compile_stop_strings(("###",)), includes_match=False)
    assert matcher.push("hello").text == "hello"
    assert matcher.push(" #").text == " "
    assert matcher.push("1").text == "#1"


def test_a_stop_string_across_three_tokens_is_cut_out() -> None:
    sequence = SequenceText(Letters(["one <", "/e", "nd> two"]), TextParams(stop=("</end>",)))
    assert [sequence.push([token]) for token in range(3)] == ["one ", "", ""]
    assert (sequence.matched, sequence.num_tokens) == ("</end>", 3)
    assert sequence.finish() == ""


def test_a_stop_token_counts_and_says_nothing() -> None:
    sequence = SequenceText(Letters(["a"]), TextParams())
    assert sequence.push([0]) == "a"
    sequence.push_silent()
    assert (sequence.num_tokens, sequence.num_chars) == (2, 1)


def test_long_and_many_stop_strings_cost_little_memory() -> None:
    """A client may send 16 strings of 1,024 characters; each waiting sequence keeps its own."""
    strings = tuple(f"{number}" * 1024 for number in range(100, 116))
    tracemalloc.start()
    try:
        kept = compile_stop_strings(strings)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 16
    assert size < 16 * sum(map(len, strings))


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        compile_stop_strings(("a", ""))
