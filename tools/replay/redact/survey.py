"""A first look through a journal, without re-execution: what must be known before the first word of
it is rewritten. Everything here is secret."""

from collections.abc import Iterable
from typing import NamedTuple

from tokenreel.actors.core.snapshot import Snapshot
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.journal import EFFECT, INPUT, Record
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AbortRequest, AdmitRequest, RequestAdmitted
from tokenreel.messages.steps import StepCompleted
from tokenreel.tools.replay.reading.events import decode_effect, decode_event
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.redact.script import chapters_of, decode_snapshot


class Text(NamedTuple):
    """Everything that one sequence knew in the end."""

    key: RequestKey
    cache_root: BlockHash
    token_ids: list[int]


class Survey:
    """What a journal holds of each kind. `texts` has one list per restart of the core from a
    snapshot: the texts of all sequences from there to the next restart."""

    def __init__(self) -> None:
        self.epochs: set[int] = set()
        self.numbers: set[int] = set()
        self.priorities: set[int] = set()
        self.token_ids: set[int] = set()
        self.texts: list[list[Text]] = []
        self._pending: AdmitRequest | None = None
        self._open: dict[SeqId, Text] = {}

    def take(self, record: Record, segment: str) -> None:
        if record.flags & INPUT:
            self._take_event(decode_event(record, segment))
        elif record.flags & EFFECT and self.texts:
            self._take_effect(decode_effect(record, segment))

    def restart(self, snapshot: Snapshot) -> None:
        """The core goes on, or starts, from this state."""
        self.texts.append([])
        self._open.clear()
        for request in snapshot.requests:
            self._note_key(request.key)
        for key in snapshot.tombstones:
            self._note_key(key)
        for epoch, number in snapshot.last_numbers:
            self._note_key(RequestKey(epoch, number))
        for sequence in snapshot.sequences:
            self.priorities.add(sequence.level)
            self.token_ids.update(sequence.token_ids)
            text = Text(sequence.key, sequence.cache_root, list(sequence.token_ids))
            self._open_text(sequence.seq_id, text)

    def _take_event(self, event: CoreEvent) -> None:
        match event:
            case AdmitRequest():
                self._note_key(event.key)
                self.priorities.add(event.priority)
                self.token_ids.update(event.prompt_token_ids)
                self._pending = event
            case AbortRequest(key=key):
                self._note_key(key)
            case StepCompleted(outputs=outputs):
                for output in outputs:
                    self.token_ids.update(output.token_ids)
            case _:
                pass

    def _take_effect(self, effect: Effect) -> None:
        match effect:
            case RequestAdmitted(seq_ids=seq_ids) if self._pending is not None:
                admit = self._pending
                for seq_id in seq_ids:
                    tokens = list(admit.prompt_token_ids)
                    self._open_text(seq_id, Text(admit.key, admit.cache_root, tokens))
            case TokensEmitted(sequences=sequences):
                for tokens_of_one in sequences:
                    if tokens_of_one.seq_id in self._open:
                        self._open[tokens_of_one.seq_id].token_ids.extend(tokens_of_one.token_ids)
            case _:
                pass

    def _open_text(self, seq_id: SeqId, text: Text) -> None:
        self._open[seq_id] = text
        self.texts[-1].append(text)

    def _note_key(self, key: RequestKey) -> None:
        self.epochs.add(key.frontend_epoch)
        self.numbers.add(key.number)


def survey(journal: Journal) -> Survey:
    found = Survey()
    for chapter in chapters_of(journal):
        if chapter.restarts and chapter.snapshot is not None:
            found.restart(decode_snapshot(chapter.snapshot))
        for record in chapter.records:
            found.take(record, chapter.name)
    return found


def ranks(numbers: Iterable[int]) -> dict[int, int]:
    """Small numbers in the same order and with the same sign; 0 stays 0."""
    distinct = sorted({*numbers, 0})
    zero = distinct.index(0)
    return {number: place - zero for place, number in enumerate(distinct)}
