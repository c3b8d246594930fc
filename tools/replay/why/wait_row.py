"""For which row of the table of its latency a sequence waits."""

from tokenreel.tools.replay.reasons import cause
from tokenreel.tools.replay.why.latency import Row
from tokenreel.tools.replay.why.watch import PassedOver, Why

ARRIVED = "until the next step was composed"


def wait_row(group: str, passed_over: PassedOver) -> Row:
    refusal = passed_over.refusal
    if passed_over.why is Why.SIBLING:
        return Row(group, "for the prompt that a sibling computes")
    if passed_over.why is Why.PREEMPTED:
        return Row(group, "had just given way")
    if refusal is None:
        return Row(group, "for no reason that was found")
    whose = "its turn" if passed_over.why is Why.REFUSED else "behind others"
    return Row(group, f"{whose}, {cause(refusal.reason)}")
