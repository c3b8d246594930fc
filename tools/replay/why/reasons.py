"""Why a sequence waits, in words: for the table of its latency and for the story of its life."""

from tokenreel.messages.steps import Unscheduled
from tokenreel.tools.replay.why.latency import Row
from tokenreel.tools.replay.why.watch import PassedOver, Why

ARRIVED = "until the next step was composed"

_OWN = {
    Unscheduled.BLOCKS: "its turn, blocks were lacking",
    Unscheduled.TOKEN_BUDGET: "its turn, the token budget was used up",
    Unscheduled.MAX_NUM_SEQS: "its turn, max_num_seqs were running",
    Unscheduled.OPEN_STEPS: "its turn, its own steps were still open",
}
_OTHERS = {
    Unscheduled.BLOCKS: "behind others, who lacked blocks",
    Unscheduled.TOKEN_BUDGET: "behind others, the token budget was used up",
    Unscheduled.MAX_NUM_SEQS: "behind others, max_num_seqs were running",
    Unscheduled.OPEN_STEPS: "behind others, whose own steps were still open",
}


def wait_row(group: str, passed_over: PassedOver) -> Row:
    """The row of the latency table that this wait counts for."""
    refusal = passed_over.refusal
    if passed_over.why is Why.SIBLING:
        return Row(group, "for the prompt that a sibling computes")
    if passed_over.why is Why.PREEMPTED:
        return Row(group, "had just given way")
    if refusal is None:
        return Row(group, "for no reason that was found")
    words = _OWN if passed_over.why is Why.REFUSED else _OTHERS
    return Row(group, words.get(refusal.reason, f"reason {int(refusal.reason)}"))
