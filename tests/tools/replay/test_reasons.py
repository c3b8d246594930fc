"""Whoever is passed over is told why in the same words, whichever verb is asked."""

import pytest

from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.replay.reasons import Bounds, cause, lack_of_blocks


def test_every_reason_that_the_scheduler_knows_has_words_of_its_own() -> None:
    reasons = set(Unscheduled) - {Unscheduled.NOTHING}
    words = {cause(reason) for reason in reasons}
    assert len(words) == len(reasons)
    assert not [text for text in words if text.startswith("reason")]


@pytest.mark.parametrize(
    ("needed", "reserved", "free", "told"),
    [
        ((1, 1), None, None, "needed 1 block"),
        ((6, 6), (17, 17), (15, 16), "needed 6 blocks (+ 17 kept), 15-16 free"),
        ((1, 11), (0, 3), (0, 0), "needed 1-11 blocks (+ 0-3 kept), 0 free"),
        ((1200, 1200), (0, 0), (1000, 1000), "needed 1,200 blocks, 1,000 free"),
    ],
)
def test_a_lack_of_blocks_is_told_in_figures(
    needed: Bounds, reserved: Bounds | None, free: Bounds | None, told: str
) -> None:
    assert lack_of_blocks(needed, reserved, free) == told
