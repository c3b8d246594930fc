"""What ddmin leaves still shows, and without any one of its items it does not."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.tools.replay.shrink.delta_debugging import ddmin

SETTINGS = settings(derandomize=True, deadline=None)


def needs(*groups: set[int]) -> Callable[[list[int]], bool]:
    """Shows if all of at least one group are there."""
    return lambda items: any(group <= set(items) for group in groups)


@SETTINGS
@given(st.integers(1, 60), st.lists(st.sets(st.integers(0, 59), min_size=1), min_size=1))
def test_it_is_1_minimal_and_keeps_the_order(num_items: int, groups: list[set[int]]) -> None:
    items = list(range(num_items))
    shows = needs(*groups, set(items))
    kept = ddmin(items, shows)
    assert shows(kept)
    assert kept == sorted(kept)
    if len(kept) > 1:
        assert not any(shows(kept[:place] + kept[place + 1 :]) for place in range(len(kept)))


def test_what_lies_together_is_found_in_a_few_tries() -> None:
    tried: list[list[int]] = []

    def shows(items: list[int]) -> bool:
        tried.append(items)
        return {700, 701} <= set(items)

    assert ddmin(range(1000), shows) == [700, 701]
    assert len(tried) < 50
