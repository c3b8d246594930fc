"""Stand-ins show where two texts are equal, and nothing else of them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.tools.replay.redact.tokens import RUN_TOKENS, StandIns, free_id

KEY = b"k" * 32
TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=2, max_size=6)


def common_prefix(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def stand_ins_of(
    texts: list[list[int]], domain: bytes = b"", vocab_size: int = 8
) -> list[list[int]]:
    stand_ins = StandIns(KEY, vocab_size, stop_id=vocab_size - 1)
    return [stand_ins.text(stand_ins.start(domain), text)[0] for text in texts]


@settings(derandomize=True, deadline=None)
@given(TEXTS)
def test_any_two_texts_share_as_long_a_prefix_as_before(texts: list[list[int]]) -> None:
    rewritten = stand_ins_of(texts)

    for one, new_one in zip(texts, rewritten, strict=True):
        assert len(one) == len(new_one)
        for other, new_other in zip(texts, rewritten, strict=True):
            assert common_prefix(one, other) == common_prefix(new_one, new_other)


@pytest.mark.parametrize("vocab_size", [2, 3, 5, 100, 1000])
def test_at_each_place_it_is_a_permutation_that_leaves_one_id_free(vocab_size: int) -> None:
    for stop_id in (0, vocab_size - 1):
        stand_ins = StandIns(KEY, vocab_size, stop_id)
        state = stand_ins.start(b"somewhere")
        used = [token_id for token_id in range(vocab_size) if token_id != stop_id]
        images = [stand_ins.token(state, token_id)[0] for token_id in used]
        assert sorted(images) == used
        assert stand_ins.token(state, stop_id)[0] in used


def test_a_text_means_nothing_in_another_domain() -> None:
    text = list(range(40))
    (one,) = stand_ins_of([text], b"salt one", 50_000)
    (other,) = stand_ins_of([text], b"salt two", 50_000)

    assert all(a != b for a, b in zip(one, other, strict=True))


def test_another_key_gives_other_stand_ins() -> None:
    text = list(range(40))
    texts = [
        stand_ins.text(stand_ins.start(b""), text)[0]
        for stand_ins in (StandIns(KEY, 50_000, 0), StandIns(b"l" * 32, 50_000, 0))
    ]
    assert all(a != b for a, b in zip(*texts, strict=True))


def test_how_often_a_token_occurs_shows_nowhere() -> None:
    (stand_ins,) = stand_ins_of([[3] * 4000], vocab_size=100)

    counts = Counter(stand_ins)
    assert len(counts) == 99
    assert max(counts.values()) < 4 * 4000 / 99


def test_a_prompt_at_once_and_its_tokens_one_by_one_come_to_the_same() -> None:
    stand_ins = StandIns(KEY, 1000, 999)
    text = [number * 7 % 999 for number in range(2 * RUN_TOKENS + 5)]
    state = stand_ins.start(b"")
    at_once = stand_ins.text(state, text)

    one_by_one = []
    for token_id in text:
        stand_in, state = stand_ins.token(state, token_id)
        one_by_one.append(stand_in)

    assert at_once == (one_by_one, state)


def test_what_is_outside_the_vocabulary_stays_outside() -> None:
    stand_ins = StandIns(KEY, 10, 9)
    tokens, _ = stand_ins.text(stand_ins.start(b""), [-7, 3, 10, 2**40])

    assert tokens[0] == -1 and 0 <= tokens[1] < 9 and tokens[2:] == [10, 10]
    assert [stand_ins.filler(token_id) for token_id in (-7, 3, 2**40)] == [-1, 0, 10]


def test_the_free_id_is_one_that_no_text_uses() -> None:
    assert free_id(KEY, 5, {0, 1, 3, 4}) == 2
    assert 0 <= free_id(KEY, 3, {0, 1, 2}) < 3
