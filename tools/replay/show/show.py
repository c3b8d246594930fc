"""How the entries of a journal are shown: aligned lines for people, JSON lines for programs."""

from typing import Any

import msgspec

from tokenreel.messages.ids import RequestKey
from tokenreel.messages.journal import CORE_FAILED, META
from tokenreel.messages.journal_meta import MalformedRecord, decode_core_failed, decode_meta
from tokenreel.tools.replay.reading.entries import Entry, Mark
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.show.filters import step_of
from tokenreel.tools.replay.show.text import effect_text, type_of, what, who

_LINE = "{seq:>9} {time:>12} {step:>7}  {type:<9} {who:<10} {what}"
HEADING = _LINE.format(seq="seq", time="time/s", step="step", type="type", who="who", what="what")
LEGEND = """\
time      seconds since the run began, on the core's clock
who       a request as frontend epoch.number; 1.57#2 is its third sequence; "3 seqs" are several
admit     a request reached the core: prompt and max_tokens, and as which sequences it came in
abort     its client is gone
step      a step was composed: who decodes, who computes how many prompt tokens, how many tokens
          came from the cache; who was preempted for whom, losing how many computed tokens; then
          running, waiting, blocks free or evictable; then who was passed over first, and why (who
          waits starts only if one free block is left for each sequence that runs)
done      a step's results came back: its time on the worker, first tokens, ends
stop      the detokenizer found a stop string
deliver   the last text has left for the frontend
segment, snapshot, failed, run-end: the journal's own marks"""
EFFECTS_LEGEND = """\
+ effect  what followed from the event above: admitted, rejected, finished (a request), schedule,
          decide (a step), preempt, tokens, end (a sequence)"""

_encode = msgspec.json.Encoder().encode


def lines(entry: Entry, roster: Roster, start_ns: int, *, with_effects: bool) -> list[str]:
    """The entry's line, and those of its effects if they are wanted."""
    step = step_of(entry)
    found = [
        _LINE.format(
            seq=entry.seq,
            time=f"{(entry.t_ns - start_ns) / 1e9:.6f}",
            step="" if step is None else step,
            type=type_of(entry.event if isinstance(entry, RecordedEvent) else entry),
            who=who(entry, roster),
            what=what(entry, roster),
        ).rstrip()
    ]
    if with_effects and isinstance(entry, RecordedEvent):
        found += [
            _LINE.format(
                seq="", time="", step="+", type=type_of(e), who="", what=effect_text(e, roster)
            )
            for e in entry.effects
        ]
    return found


def as_json(entry: Entry, start_ns: int) -> str:
    """One object: where the entry stands, and every field of the event and of its effects."""
    found: dict[str, Any] = {
        "seq": entry.seq,
        "t_ns": entry.t_ns,
        "since_start_ns": entry.t_ns - start_ns,
        "segment": entry.segment,
        "offset": entry.offset,
        "step": step_of(entry),
    }
    if isinstance(entry, RecordedEvent):
        found["event"] = _plain(entry.event)
        found["effects"] = [_plain(effect) for effect in entry.effects]
    else:
        found["mark"] = _plain_mark(entry)
    return _encode(found).decode()


def _plain_mark(mark: Mark) -> dict[str, Any]:
    found: dict[str, Any] = {"type": type_of(mark), "num_bytes": len(mark.payload)}
    try:
        if mark.kind == META:
            meta = _plain(decode_meta(mark.payload))
            del meta["vocabulary"]
            found["meta"] = meta
        elif mark.kind == CORE_FAILED:
            found["failure"] = _plain(decode_core_failed(mark.payload))
    except MalformedRecord as error:
        found["error"] = str(error)
    return found


def _plain(value: Any) -> Any:
    """Structs by the names of their fields, keys as people write them, bytes in hexadecimal."""
    if isinstance(value, msgspec.Struct):
        fields = {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        is_message = isinstance(value.__struct_config__.tag, int)
        return {"type": type(value).__name__} | fields if is_message else fields
    if isinstance(value, RequestKey):
        return show_key(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return value
