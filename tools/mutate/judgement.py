"""What became of one mutant: where the oracle and `verify` saw it first, and whether they agree."""

from typing import Any

import msgspec

from tokenreel.tools.mutate.mutation import Mutation


class Sight(msgspec.Struct, frozen=True):
    """In one journal: the first record that shows the mutant, to the oracle and to `verify`."""

    journal: str
    seq: int
    step: int
    what: str
    verify_seq: int
    verify_step: int
    verify_what: str


class Judgement(msgspec.Struct, frozen=True):
    """`seen` are the journals that tell the mutant apart, in their order, `missed` those of them
    where `verify` does not stop at exactly the record that the oracle names. In the journals of
    `hidden` only such state differs as no step's digest covers, and no decision followed from it.
    `hangs` are those in which the mutant never answers an input. `trouble` is what kept the trial
    from its end."""

    mutation: Mutation
    num_journals: int
    seen: list[Sight]
    missed: list[Sight]
    hidden: list[str]
    hangs: list[str]
    trouble: str

    @property
    def is_wrong(self) -> bool:
        return bool(self.missed or self.trouble)

    @property
    def is_told_apart(self) -> bool:
        return bool(self.seen or self.hangs)

    @property
    def verdict(self) -> str:
        if self.is_wrong:
            return "WRONG"
        if self.seen:
            return "exact"
        if self.hangs:
            return "hangs"
        return "hidden" if self.hidden else "alike"


def judge(mutation: Mutation, told: list[dict[str, Any]], trouble: str) -> Judgement:
    """`told` is what the trial printed."""
    seen: list[Sight] = []
    missed: list[Sight] = []
    hidden: list[str] = []
    hangs: list[str] = []
    for each in told:
        name, oracle, verify = each["journal"], each["oracle"], each["verify"]
        if each["hangs"] is not None:
            hangs.append(name)
            if verify is None or verify["what"] != "hangs":
                missed.append(_sight(name, {"seq": each["hangs"], "what": "hangs"}, verify))
            continue
        if oracle is not None or verify is not None:
            sight = _sight(name, oracle, verify)
            seen.append(sight)
            if (sight.seq, sight.step) != (sight.verify_seq, sight.verify_step):
                missed.append(sight)
        elif each["hidden"] is not None:
            hidden.append(name)
    return Judgement(mutation, len(told), seen, missed, hidden, hangs, trouble)


def _sight(journal: str, oracle: dict[str, Any] | None, verify: dict[str, Any] | None) -> Sight:
    nothing: dict[str, Any] = {"seq": 0, "step": 0, "what": "nothing"}
    one, other = {**nothing, **(oracle or {})}, {**nothing, **(verify or {})}
    return Sight(
        journal, one["seq"], one["step"], one["what"], other["seq"], other["step"], other["what"]
    )
