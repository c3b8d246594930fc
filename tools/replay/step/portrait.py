"""One request's sequences at one step, as a page for a person."""

from collections.abc import Iterator

from tokenreel.actors.core.sequence import Sequence
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.step.state import StepState
from tokenreel.tools.replay.step.text import headline
from tokenreel.tools.replay.step.words import StepWords, finish_text
from tokenreel.tools.replay.text_layout import count, labelled, ranges


def as_portrait(state: StepState, journal: Journal, sequences: list[Sequence]) -> str:
    lines = list(headline(state, journal))
    for sequence in sequences:
        lines += ["", *_portrait(state, sequence)]
    return "\n".join(lines)


def _portrait(state: StepState, sequence: Sequence) -> Iterator[str]:
    words = StepWords(state)
    yield f"{words.name(sequence.seq_id)} (s{sequence.seq_id}): {_place(state, sequence)}"
    yield from labelled("this step", words.part(sequence.seq_id) or "has no part in it")
    yield from labelled(
        "tokens",
        f"{sequence.num_prompt_tokens:,} of prompt ({sequence.num_cached_tokens:,} from the cache "
        f"when it first ran), {sequence.num_outputs:,} of output, at most "
        f"{sequence.stopping.max_tokens:,}",
    )
    yield from labelled(
        "progress",
        f"{sequence.num_known:,} known, {sequence.num_computed:,} computed, "
        f"{sequence.num_scheduled:,} scheduled",
    )
    yield from labelled(
        "open steps",
        f"{sequence.num_open_steps:,}, which bring {count(sequence.num_open_samples, 'token')}; "
        f"last scheduled in step {sequence.last_step_id:,}",
    )
    yield from labelled("preempted", count(sequence.epoch, "time"))
    if sequence.finish_reason is not None:
        yield from labelled("finish", finish_text(sequence))
    yield from labelled("blocks", ranges(sequence.block_table) or "none")
    holders = state.holders()
    shared = [block for block in sequence.block_table if len(holders[block]) > 1]
    if shared:
        yield from labelled("shared", f"{ranges(shared)} (other sequences hold them too)")
    chain = " ".join(link.hex()[:8] for link in sequence.hashes)
    registered = f"{sequence.num_registered:,} of {len(sequence.hashes):,} known to the cache"
    yield from labelled("hash chain", f"{chain} ({registered})" if chain else "none")


def _place(state: StepState, sequence: Sequence) -> str:
    queue = state.queue(sequence.status)
    place = 1 + [each.seq_id for each in queue].index(sequence.seq_id)
    row = f", row {sequence.row}" if sequence.row >= 0 else ""
    level, arrival, _ = sequence.order
    return (
        f"{sequence.status.name.lower()}, {place:,} of {len(queue):,}{row}, "
        f"level {level:,}, arrival {arrival:,}"
    )
