"""Why the scheduler passes a sequence over, in words: the same in every verb and on the page."""

from tokenreel.messages.steps import Unscheduled

Bounds = tuple[int, int]
"""The fewest and the most, over several steps."""

_CAUSES = {
    Unscheduled.BLOCKS: "blocks were lacking",
    Unscheduled.TOKEN_BUDGET: "the token budget was used up",
    Unscheduled.MAX_NUM_SEQS: "max_num_seqs were running",
    Unscheduled.OPEN_STEPS: "earlier steps were still open",
}


def cause(reason: Unscheduled) -> str:
    return _CAUSES.get(reason, f"reason {int(reason)}")


def lack_of_blocks(
    needed: Bounds, reserved: Bounds | None = None, free: Bounds | None = None
) -> str:
    """`reserved` are those that stay free for who runs."""
    text = f"needed {_range(needed)} block{'' if needed == (1, 1) else 's'}"
    if reserved is not None and reserved[1]:
        text += f" (+ {_range(reserved)} kept)"
    return text if free is None else f"{text}, {_range(free)} free"


def _range(bounds: Bounds) -> str:
    low, high = bounds
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
