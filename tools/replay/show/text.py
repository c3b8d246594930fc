"""What one entry of a journal says, in a few words: its type, whom it concerns, what happened."""

from collections.abc import Iterable

from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import SeqId
from tokenreel.messages.journal import CORE_FAILED, META, RUN_ENDED, SNAPSHOT
from tokenreel.messages.journal_meta import MalformedRecord, decode_core_failed, decode_meta
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
    SequenceTokens,
    StopStringMatched,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.messages.steps import (
    AddedSequence,
    ScheduledSequence,
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.replay.reading.entries import Entry, Mark
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.reasons import cause, lack_of_blocks
from tokenreel.tools.replay.text_layout import count, ranges, some

MAX_TOLD_APART = 2
"""Of so many sequences in a step each has its own words; more are counted."""

TYPES: dict[str, str] = {
    "AdmitRequest": "admit",
    "AbortRequest": "abort",
    "StepBegan": "step",
    "StepCompleted": "done",
    "StopStringMatched": "stop",
    "OutputDelivered": "deliver",
    "RequestAdmitted": "admitted",
    "RequestRejected": "rejected",
    "RequestFinished": "finished",
    "StepScheduled": "schedule",
    "StepDecided": "decide",
    "SequencePreempted": "preempt",
    "TokensEmitted": "tokens",
    "SequenceFinished": "end",
}
"""By the name of a message, the short one of the type column."""
MARK_TYPES: dict[int, str] = {
    META: "segment",
    SNAPSHOT: "snapshot",
    CORE_FAILED: "failed",
    RUN_ENDED: "run-end",
}


def type_of(message: CoreEvent | Effect | Mark) -> str:
    if isinstance(message, Mark):
        return MARK_TYPES.get(message.kind, f"type {message.kind}")
    return TYPES[type(message).__name__]


def who(entry: Entry, roster: Roster) -> str:
    """Request or sequence, or how many."""
    if isinstance(entry, Mark):
        return ""
    event = entry.event
    if isinstance(event, AdmitRequest | AbortRequest):
        return show_key(event.key)
    seq_ids = concerned(entry.event, entry.effects)
    if len(seq_ids) == 1:
        return roster.name(seq_ids[0])
    return f"{len(seq_ids)} seqs" if seq_ids else ""


def concerned(event: CoreEvent, effects: Iterable[Effect]) -> list[SeqId]:
    """The sequences that an event is about: those in the step, or those that are named."""
    match event:
        case StopStringMatched(seq_id=seq_id):
            return [seq_id]
        case OutputDelivered(seq_ids=seq_ids):
            return list(seq_ids)
        case StepCompleted(outputs=outputs, failures=failures):
            return [one.seq_id for one in outputs] + [one.seq_id for one in failures]
    scheduled: list[SeqId] = []
    for effect in effects:
        if isinstance(effect, StepScheduled):
            scheduled += [share.seq_id for share in effect.scheduled]
    return scheduled


def what(entry: Entry, roster: Roster) -> str:
    """The event with its effects folded into it."""
    if isinstance(entry, Mark):
        return _mark_text(entry)
    match entry.event:
        case AdmitRequest() as event:
            parts = [_admit_text(event)]
        case AbortRequest():
            parts = [] if entry.effects else ["nothing of it is here to end"]
        case StepBegan():
            return _step_text(entry.effects, roster)
        case StepCompleted() as event:
            parts = [_completed_text(event)]
        case StopStringMatched(num_output_tokens=num_outputs):
            parts = [f"a stop string after {count(num_outputs, 'token')}"]
            parts += [] if entry.effects else ["too late to change anything"]
        case OutputDelivered():
            parts = ["the last text has left"]
    return "; ".join(parts + [text for e in entry.effects if (text := _folded(e, entry, roster))])


def effect_text(effect: Effect, roster: Roster) -> str:
    """An effect in words of its own."""
    match effect:
        case RequestAdmitted(key=key, seq_ids=seq_ids):
            ids = " ".join(f"s{seq_id}" for seq_id in seq_ids)
            return f"{show_key(key)} as {ids}"
        case RequestRejected(key=key, status=status, code=code, message=message):
            return f"{show_key(key)}: {status} {code}: {message}"
        case RequestFinished(key=key):
            return show_key(key)
        case StepScheduled():
            return _scheduled_text(effect, roster, len(effect.scheduled))
        case StepDecided():
            digest = " ".join(f"{value:016x}" for value in effect.digest)
            return f"{_decided_text(effect, roster)}; digest {digest}"
        case SequencePreempted():
            return "".join(_preempted_texts([effect], roster))
        case TokensEmitted(sequences=sequences):
            return ", ".join(_tokens_text(tokens, roster) for tokens in sequences)
        case SequenceFinished(seq_id=seq_id):
            return f"{roster.name(seq_id)} {_end_text(effect)}"


def _folded(effect: Effect, entry: "Entry", roster: Roster) -> str:
    """What an effect adds to the line of its event; empty if nothing."""
    match effect:
        case RequestAdmitted(seq_ids=seq_ids):
            return "as " + " ".join(f"s{seq_id}" for seq_id in seq_ids)
        case RequestRejected(status=status, code=code, message=message):
            return f"REJECTED {status} {code}: {message}"
        case RequestFinished(key=key):
            return f"{show_key(key)} is finished"
        case TokensEmitted(sequences=sequences) if len(sequences) <= MAX_TOLD_APART:
            tokens = [_tokens_text(one, roster) for one in sequences if one.token_ids or one.error]
            return ", ".join(tokens)
        case TokensEmitted(sequences=sequences):
            first = [roster.name(one.seq_id) for one in sequences if not one.first_output_index]
            return f"first of {some(first, MAX_TOLD_APART)}" if first else ""
        case SequenceFinished(seq_id=seq_id):
            return f"{roster.name(seq_id)} {_end_text(effect)}"
    return ""


def _mark_text(mark: Mark) -> str:
    try:
        if mark.kind == META:
            meta = decode_meta(mark.payload)
            limits = meta.configuration
            return (
                f"{mark.segment}: tokenreel {meta.version}, {limits.get('num_blocks', 0):,} blocks "
                f"of {limits.get('block_size')}, {limits.get('scheduling_policy')}, "
                f"max_num_seqs {limits.get('max_num_seqs')}, "
                f"max_num_batched_tokens {limits.get('max_num_batched_tokens')}"
            )
        if mark.kind == CORE_FAILED:
            failure = decode_core_failed(mark.payload)
            return f"THE CORE FAILED at the event before: {failure.type_name}: {failure.message}"
    except MalformedRecord as error:
        return str(error)
    if mark.kind == SNAPSHOT:
        return f"the core's whole state, {count(len(mark.payload), 'byte')}"
    return "the run ended tidily" if mark.kind == RUN_ENDED else count(len(mark.payload), "byte")


def _admit_text(event: AdmitRequest) -> str:
    parts = [f"prompt {len(event.prompt_token_ids):,}, at most {event.stopping.max_tokens:,} out"]
    if event.n > 1:
        parts.append(f"n {event.n}")
    if event.priority:
        parts.append(f"priority {event.priority}")
    if event.text.stop:
        parts.append(count(len(event.text.stop), "stop string"))
    return ", ".join(parts)


def _step_text(effects: list[Effect], roster: Roster) -> str:
    """Of a step that is narrowed to one request, what is left of it."""
    preempted = [effect for effect in effects if isinstance(effect, SequencePreempted)]
    parts = [
        *(_scheduled_text(e, roster, MAX_TOLD_APART) for e in effects if type(e) is StepScheduled),
        *_preempted_texts(preempted, roster),
        *(_decided_text(e, roster) for e in effects if type(e) is StepDecided),
    ]
    return "; ".join(parts) or "nothing could be scheduled"


def _scheduled_text(step: StepScheduled, roster: Roster, max_told_apart: int) -> str:
    added = {one.seq_id: one for one in step.added}
    if len(step.scheduled) <= max_told_apart:
        return ", ".join(
            _share_text(share, added.get(share.seq_id), roster, len(step.scheduled) > 1)
            for share in step.scheduled
        )
    decodes = [share for share in step.scheduled if not _is_prefill(share, roster)]
    num_prefill_tokens = sum(s.num_tokens for s in step.scheduled if _is_prefill(s, roster))
    parts = [f"{len(decodes)} decode"] if decodes else []
    if len(decodes) < len(step.scheduled):
        parts.append(f"{len(step.scheduled) - len(decodes)} prefill ({num_prefill_tokens:,})")
    cached = sum(len(one.block_ids) for one in step.added) * roster.block_size
    if cached:
        parts.append(f"{cached:,} cached")
    return ", ".join(parts)


def _share_text(
    share: ScheduledSequence, added: AddedSequence | None, roster: Roster, is_named: bool
) -> str:
    text = f"{roster.name(share.seq_id)} " if is_named else ""
    if _is_prefill(share, roster):
        member = roster.members.get(share.seq_id)
        again = " again" if member is not None and member.num_starts > 1 else ""
        of = f" of {member.num_prompt_tokens:,}" if member is not None else ""
        text += f"prefill{again} [{share.start:,}, {share.start + share.num_tokens:,}){of}"
    elif share.num_tokens > 1:
        text += f"recompute [{share.start:,}, {share.start + share.num_tokens:,})"
    else:
        text += f"decode at {share.start:,}"
    if added is not None and added.block_ids:
        text += f", {len(added.block_ids) * roster.block_size:,} cached"
    if share.new_block_ids:
        new = share.new_block_ids
        text += f", +{count(len(new), 'block')} ({ranges(new)})"
    return text


def _is_prefill(share: ScheduledSequence, roster: Roster) -> bool:
    member = roster.members.get(share.seq_id)
    return share.start < member.num_prompt_tokens if member is not None else share.num_tokens > 1


def _decided_text(step: StepDecided, roster: Roster) -> str:
    state = f"{step.num_running} run {step.num_waiting} wait {step.num_free_blocks:,} free"
    if step.unscheduled is Unscheduled.NOTHING:
        return state
    is_for_blocks = step.unscheduled is Unscheduled.BLOCKS
    needed = step.num_blocks_needed
    why = lack_of_blocks((needed, needed)) if is_for_blocks else cause(step.unscheduled)
    return f"{state}; {roster.name(step.seq_id)} waits: {why}"


def _preempted_texts(effects: list[SequencePreempted], roster: Roster) -> list[str]:
    """Who lost what, one text per sequence for which it happened."""
    by_beneficiary: dict[SeqId, list[SequencePreempted]] = {}
    for effect in effects:
        by_beneficiary.setdefault(effect.for_seq_id, []).append(effect)
    texts = []
    for seq_id, group in by_beneficiary.items():
        num_tokens = sum(effect.num_computed_tokens for effect in group)
        names = some([roster.name(effect.seq_id) for effect in group], MAX_TOLD_APART)
        text = f"preempts {names} ({count(num_tokens, 'token')})"
        # Who is last itself gives way to nobody in particular.
        texts.append(text if group[0].seq_id == seq_id else f"{text} for {roster.name(seq_id)}")
    return texts


def _completed_text(event: StepCompleted) -> str:
    num_tokens = sum(len(output.token_ids) for output in event.outputs)
    text = f"{count(num_tokens, 'token')} in {(event.ended_ns - event.began_ns) / 1e6:,.3f} ms"
    return text + (f", {len(event.failures)} FAILED" if event.failures else "")


def _tokens_text(tokens: SequenceTokens, roster: Roster) -> str:
    name = roster.name(tokens.seq_id)
    if tokens.error:
        return f"{name} ERROR: {tokens.error}"
    ids = " ".join(str(token) for token in tokens.token_ids)
    end = f" {tokens.finish_reason.name.lower()}" if tokens.finish_reason is not None else ""
    return f"{name} #{tokens.first_output_index}{f' = {ids}' if ids else ''}{end}"


def _end_text(effect: SequenceFinished) -> str:
    return f"ends: {effect.reason.name.lower()} after {effect.num_output_tokens:,}"
