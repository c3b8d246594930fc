"""The life of one request as a journal recorded it, in few lines. Nothing is re-executed."""

from collections.abc import Iterator

import msgspec

from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.journal import EFFECT, INPUT, Record
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
    ScheduledSequence,
    SequencePreempted,
    StepScheduled,
)
from tokenreel.tools.replay.reading.events import decode_record
from tokenreel.tools.replay.reading.journal import Journal, read_records

MAX_LINES = 400

_BIRTHS = (RequestAdmitted, RequestRejected)
_ALL = (
    *_BIRTHS,
    AdmitRequest,
    AbortRequest,
    StopStringMatched,
    OutputDelivered,
    RequestFinished,
    StepScheduled,
    SequencePreempted,
    TokensEmitted,
    SequenceFinished,
)


class HistoryLine(msgspec.Struct):
    """What happened to a sequence (`seq_id` 0: to the request). A run of steps with one token each
    is one line: from `seq` and `step` to `last_seq` and `last_step`."""

    seq: int
    t_ns: int
    what: str
    detail: str
    seq_id: int = 0
    step: int = 0
    last_seq: int = 0
    last_step: int = 0
    num_tokens: int = 0


class History(msgspec.Struct):
    """`is_whole` is false if the request came in before the journal begins. `num_omitted` lines
    between the first and the last ones are left out."""

    key: RequestKey | None
    seq_ids: tuple[int, ...]
    is_whole: bool
    lines: list[HistoryLine]
    num_omitted: int = 0


def history_of(
    journal: Journal, index: int, until_seq: int, *, key: RequestKey | None, seq_id: int = 0
) -> History | None:
    """Of the request with this key, or this sequence, up to the record `until_seq` in segment
    `index`; None if the journal knows nothing of it. All of that was replayed: it decodes."""
    born, key, seq_ids = _birth(journal, index, until_seq, key, seq_id)
    teller = _Teller(key, seq_ids)
    for number in range(born if born is not None else 0, index + 1):
        for record, message in _messages(journal, number, until_seq):
            teller.hear(record, message)
    if not teller.lines:
        return None
    history = History(key, seq_ids, born is not None, teller.lines)
    if len(teller.lines) > MAX_LINES:
        half = MAX_LINES // 2
        history.lines = teller.lines[:half] + teller.lines[-half:]
        history.num_omitted = len(teller.lines) - 2 * half
    return history


def _birth(
    journal: Journal, index: int, until_seq: int, key: RequestKey | None, seq_id: int
) -> tuple[int | None, RequestKey | None, tuple[int, ...]]:
    """The segment in which the request was admitted or refused, and its names."""
    for number in range(index, -1, -1):
        for _, message in _messages(journal, number, until_seq, _BIRTHS):
            if isinstance(message, RequestAdmitted):
                if message.key == key or seq_id in message.seq_ids:
                    return number, message.key, message.seq_ids
            elif isinstance(message, RequestRejected) and message.key == key:
                return number, key, ()
    return None, key, (seq_id,) if seq_id else ()


def _messages(
    journal: Journal,
    index: int,
    until_seq: int,
    wanted: tuple[type[msgspec.Struct], ...] = _ALL,
) -> Iterator[tuple[Record, CoreEvent | Effect]]:
    tags = {message.__struct_config__.tag for message in wanted}
    segment = journal.segments[index]
    _, name, records = next(read_records(journal._replace(segments=[segment])))
    for record in records:
        if record.seq > until_seq:
            return
        if record.type in tags and record.flags & (INPUT | EFFECT):
            yield record, decode_record(record, name)


class _Teller:
    """Hears every message of the run and writes down what concerns one request."""

    def __init__(self, key: RequestKey | None, seq_ids: tuple[int, ...]) -> None:
        self.lines: list[HistoryLine] = []
        self._key = key
        self._seq_ids = frozenset(seq_ids)
        self._step = 0
        self._decoding: dict[int, HistoryLine] = {}
        """By sequence, the line of its present run of steps with one token each."""

    def hear(self, record: Record, message: CoreEvent | Effect) -> None:
        match message:
            case StepScheduled():
                self._step = message.step_id
                self._hear_step(record, message)
            case SequencePreempted(seq_id=seq_id, for_seq_id=other) if seq_id in self._seq_ids:
                whom = "itself: no room" if other == seq_id else f"sequence {other}"
                detail = f"for {whom}; {message.num_computed_tokens} computed tokens are lost"
                self._add(record, "preempted", detail, seq_id, self._step + 1)
            case TokensEmitted(sequences=sequences):
                for tokens in sequences:
                    if tokens.seq_id in self._seq_ids:
                        self._hear_tokens(record, tokens)
            case SequenceFinished(seq_id=seq_id) if seq_id in self._seq_ids:
                detail = f"{message.reason.name.lower()}, {message.num_output_tokens} output tokens"
                self._add(record, "finished", detail, seq_id)
            case StopStringMatched(seq_id=seq_id) if seq_id in self._seq_ids:
                detail = f"within {message.num_output_tokens} output tokens"
                self._add(record, "stop string", detail, seq_id)
            case OutputDelivered(seq_ids=seq_ids):
                for delivered in sorted(self._seq_ids.intersection(seq_ids)):
                    self._add(record, "delivered", "", delivered)
            case _ if getattr(message, "key", None) == self._key and self._key is not None:
                self._hear_request(record, message)

    def _hear_request(self, record: Record, message: CoreEvent | Effect) -> None:
        match message:
            case AdmitRequest():
                detail = (
                    f"{len(message.prompt_token_ids)} prompt tokens, n={message.n}, "
                    f"max_tokens={message.stopping.max_tokens}, priority={message.priority}"
                )
                self._add(record, "arrived", detail)
            case AbortRequest():
                self._add(record, "abort asked", "")
            case RequestAdmitted():
                noun = "sequence" if len(message.seq_ids) == 1 else "sequences"
                sequences = ", ".join(str(seq_id) for seq_id in message.seq_ids)
                self._add(record, "admitted", f"as {noun} {sequences}")
            case RequestRejected():
                self._add(record, "rejected", f"{message.status} {message.code}")
            case RequestFinished():
                self._add(record, "gone", "all is delivered")

    def _hear_step(self, record: Record, step: StepScheduled) -> None:
        for added in step.added:
            if added.seq_id in self._seq_ids:
                num_outputs = len(added.token_ids) - added.num_prompt_tokens
                what = "resumed" if num_outputs or self._was_preempted(added.seq_id) else "started"
                detail = f"row {added.row}, {len(added.block_ids)} blocks from the prefix cache"
                self._add(record, what, detail, added.seq_id, step.step_id)
        for share in step.scheduled:
            if share.seq_id in self._seq_ids:
                self._hear_share(record, step.step_id, share)

    def _hear_share(self, record: Record, step_id: int, share: ScheduledSequence) -> None:
        running = self._decoding.get(share.seq_id)
        if share.num_tokens == 1 and running is not None:
            running.last_seq, running.last_step = record.seq, step_id
            running.num_tokens += 1
            return
        end = share.start + share.num_tokens
        samples = ", samples" if share.num_logits else ""
        detail = f"positions {share.start} to {end - 1}{samples}"
        line = self._add(record, "scheduled", detail, share.seq_id, step_id)
        line.num_tokens = share.num_tokens
        if share.num_tokens == 1:
            line.detail = f"from position {share.start} on, one token a step"
            self._decoding[share.seq_id] = line

    def _hear_tokens(self, record: Record, tokens: SequenceTokens) -> None:
        if tokens.error:
            self._add(record, "failed", tokens.error, tokens.seq_id)
        elif tokens.first_output_index == 0 and tokens.token_ids:
            self._add(record, "first token", "", tokens.seq_id, continues=True)

    def _was_preempted(self, seq_id: int) -> bool:
        return any(line.what == "preempted" and line.seq_id == seq_id for line in self.lines)

    def _add(
        self,
        record: Record,
        what: str,
        detail: str,
        seq_id: int = 0,
        step: int = 0,
        continues: bool = False,
    ) -> HistoryLine:
        """Anything else than the first token ends a run of steps with one token each."""
        if not continues:
            self._decoding.pop(seq_id, None)
        line = HistoryLine(record.seq, record.t_ns, what, detail, seq_id, step, record.seq, step)
        self.lines.append(line)
        return line
