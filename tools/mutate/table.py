"""The judgements as people and programs read them."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

import msgspec

from tokenreel.tools.mutate.judgement import Judgement

WHAT_WIDTH = 44


def as_text(judgements: Sequence[Judgement], journals: Sequence[str], duration_s: float) -> str:
    lines = [
        f"{len(judgements)} mutants, {len(journals)} journals, {duration_s:.0f} s",
        "seq and step: the first record that shows the mutant, in the first journal that does",
        "",
    ]
    for file, group in groupby(judgements, lambda judgement: judgement.mutation.file):
        lines += [f"{file}", _HEADING]
        lines += [_row(judgement) for judgement in group]
        lines.append("")
    lines += _unseen(judgements) + _hanging(judgements) + _wrong(judgements)
    seen = sum(bool(judgement.seen) for judgement in judgements)
    exact = sum(bool(judgement.seen and not judgement.is_wrong) for judgement in judgements)
    lines.append(f"{exact} of the {seen} mutants that a journal shows are reported exactly there")
    return "\n".join(lines)


def as_json(judgements: Sequence[Judgement], journals: Sequence[str], duration_s: float) -> str:
    table = {
        "journals": list(journals),
        "duration_s": round(duration_s, 1),
        "mutants": [
            {
                "name": judgement.mutation.name,
                "file": judgement.mutation.file,
                "mistake": judgement.mutation.mistake,
                "equivalent": judgement.mutation.equivalent,
                "verdict": judgement.verdict,
                "seen": judgement.seen,
                "missed": judgement.missed,
                "hidden": judgement.hidden,
                "hangs": judgement.hangs,
                "trouble": judgement.trouble,
            }
            for judgement in judgements
        ],
    }
    return msgspec.json.encode(table).decode()


_HEADING = (
    f"  {'mutant':34} {'seen in':>7} {'step':>5} {'oracle':>7} {'verify':>7}  {'':6} what differs"
)


def _row(judgement: Judgement) -> str:
    name, of = judgement.mutation.name, f"{len(judgement.seen)}/{judgement.num_journals}"
    first = next(iter(judgement.missed or judgement.seen), None)
    if first is None:
        return f"  {name:34} {of:>7} {'':5} {'':7} {'':7}  {judgement.verdict:6}"
    what = first.what if len(first.what) <= WHAT_WIDTH else f"{first.what[: WHAT_WIDTH - 3]}..."
    return (
        f"  {name:34} {of:>7} {first.step:5} {first.seq:7,} {first.verify_seq:7,}  "
        f"{judgement.verdict:6} {what}"
    )


def _unseen(judgements: Sequence[Judgement]) -> list[str]:
    unseen = [each for each in judgements if not (each.is_told_apart or each.is_wrong)]
    if not unseen:
        return []
    lines = [f"the journals cannot tell these {len(unseen)} from the original:"]
    for judgement in unseen:
        mutation = judgement.mutation
        why = mutation.equivalent or "none of these journals reaches it"
        text = f"{mutation.name}: {mutation.mistake}. Why it does not show: {why}"
        lines.append(fill(text, 98, initial_indent="  ", subsequent_indent="      "))
    return [*lines, ""]


def _hanging(judgements: Sequence[Judgement]) -> list[str]:
    hanging = [each for each in judgements if each.hangs]
    if not hanging:
        return []
    lines = ["these never answer an input, and verify waits with them:"]
    lines += [f"  {each.mutation.name}: in {', '.join(each.hangs)}" for each in hanging]
    return [*lines, ""]


def _wrong(judgements: Sequence[Judgement]) -> list[str]:
    lines: list[str] = []
    for judgement in judgements:
        if judgement.trouble:
            lines.append(f"WRONG  {judgement.mutation.name}: {judgement.trouble}")
        for sight in judgement.missed:
            lines.append(
                f"WRONG  {judgement.mutation.name}, {sight.journal}: seq {sight.seq}, step "
                f"{sight.step} ({sight.what}), but verify: seq {sight.verify_seq}, step "
                f"{sight.verify_step} ({sight.verify_what})"
            )
    return [*lines, ""] if lines else []
