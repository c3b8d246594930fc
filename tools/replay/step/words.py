"""The words for what a step did with a sequence, and for why it did nothing."""

from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.ids import SeqId
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import ScheduledSequence, Unscheduled
from tokenreel.tools.replay.reasons import cause, lack_of_blocks
from tokenreel.tools.replay.step.state import StepState
from tokenreel.tools.replay.text_layout import count
from tokenreel.tools.replay.why.watch import PassedOver, Refusal, Why


class StepWords:
    def __init__(self, state: StepState) -> None:
        self._state = state
        self._names = state.names()
        self._shares = {share.seq_id: share for share in state.scheduled.scheduled}
        self._preempted = {each.seq_id: each for each in state.preempted}

    def name(self, seq_id: SeqId) -> str:
        """Of a sequence, as people name it: by its request's key."""
        return self._names.get(seq_id, f"s{seq_id}")

    def part(self, seq_id: SeqId) -> str:
        """What this step did with a sequence, or why nothing; empty if it is over."""
        if seq_id in self._shares:
            return count(self._shares[seq_id].num_tokens, "token")
        if seq_id in self._preempted:
            return f"gave way to {self.name(self._preempted[seq_id].for_seq_id)}"
        found = self._state.passed_over.get(seq_id)
        return "" if found is None else self._why(found)

    def first_passed_over(self) -> str:
        """Whom the record names, and how many stand behind."""
        decided = self._state.decided
        if decided.unscheduled is Unscheduled.NOTHING:
            return "nobody: everyone who could run was scheduled"
        found = self._state.passed_over.get(decided.seq_id)
        reason = cause(decided.unscheduled)
        # Who gives way to nobody may be refused twice; the record names the first time.
        if found is not None and found.why is Why.REFUSED and found.refusal is not None:
            if found.refusal.reason is decided.unscheduled:
                reason = refusal_text(found.refusal)
        behind = sum(1 for each in self._state.passed_over.values() if each.why is Why.BEHIND)
        also = f"; {count(behind, 'sequence')} behind it" if behind else ""
        return f"{self.name(decided.seq_id)}: {reason}{also}"

    def _why(self, found: PassedOver) -> str:
        match found.why:
            case Why.REFUSED if found.refusal is not None:
                return refusal_text(found.refusal)
            case Why.BEHIND if found.refusal is not None:
                return f"is behind {self.name(found.refusal.seq_id)}"
            case Why.SIBLING:
                return "waits for its sibling's prompt"
            case Why.IN_FLIGHT:
                return "has all its tokens in flight"
        return "is behind where the scheduler stopped"


def positions_text(share: ScheduledSequence) -> str:
    last = share.start + share.num_tokens - 1
    return f"{share.start:,}" if share.num_tokens == 1 else f"{share.start:,}-{last:,}"


def outputs_text(sequence: Sequence) -> str:
    return f"{sequence.num_outputs:,}/{sequence.stopping.max_tokens:,}"


def finish_text(sequence: Sequence) -> str:
    reason: FinishReason | None = sequence.finish_reason
    if reason is None:
        return "-"
    return f"{reason.name.lower()} after {count(sequence.num_final_outputs, 'token')}"


def refusal_text(refusal: Refusal) -> str:
    if refusal.reason is not Unscheduled.BLOCKS:
        return cause(refusal.reason)
    needed, reserved, free = refusal.num_needed, refusal.num_reserved, refusal.num_free
    return lack_of_blocks((needed, needed), (reserved, reserved), (free, free))
