"""Who is who in a run: to which request each sequence belongs, learned while its journal passes."""

import msgspec

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.journal import META, SNAPSHOT, join_snapshot, num_snapshot_parts
from tokenreel.messages.journal_meta import MalformedRecord, Meta, decode_meta
from tokenreel.messages.requests import RequestAdmitted, RequestFinished
from tokenreel.messages.steps import StepScheduled
from tokenreel.tools.replay.reading.entries import Entry, Mark
from tokenreel.tools.replay.reading.request_name import RequestName, show_key


class Member(msgspec.Struct):
    """A sequence: the `index`-th of its request's `n`. `num_starts` counts how often it entered the
    running batch, as far as the journal was read."""

    key: RequestKey
    index: int
    n: int
    num_prompt_tokens: int
    num_starts: int = 0


class Roster:
    """Holds the requests that are in flight, so its size has the engine's own bound."""

    def __init__(self) -> None:
        self.meta: Meta | None = None
        self.members: dict[SeqId, Member] = {}
        self.seq_ids: dict[RequestKey, tuple[SeqId, ...]] = {}
        self._snapshot_parts: list[bytes] = []

    def learn(self, entry: Entry) -> None:
        """To be called before an entry is told. Those whose request it finishes stay till the next
        `forget`."""
        if isinstance(entry, Mark):
            self._learn_from_mark(entry)
            return
        for effect in entry.effects:
            if isinstance(effect, RequestAdmitted):
                self._enter(effect.key, effect.seq_ids, effect.num_prompt_tokens)
            elif isinstance(effect, StepScheduled):
                for added in effect.added:
                    if (member := self.members.get(added.seq_id)) is not None:
                        member.num_starts += 1

    def forget(self, entry: Entry) -> None:
        """To be called after an entry was told: takes those out whose request it finished."""
        if isinstance(entry, Mark):
            return
        for effect in entry.effects:
            if isinstance(effect, RequestFinished):
                for seq_id in self.seq_ids.pop(effect.key, ()):
                    self.members.pop(seq_id, None)

    def name(self, seq_id: SeqId) -> str:
        """`s63` with its request, if that is known: `1.57`, or `1.57#2` for one of several."""
        member = self.members.get(seq_id)
        if member is None:
            return f"s{seq_id}"
        return show_key(member.key) + (f"#{member.index}" if member.n > 1 else "")

    def seq_ids_of(self, name: RequestName) -> tuple[SeqId, ...]:
        """The sequences that it stands for, as far as they are in flight."""
        if name.key is not None:
            return self.seq_ids.get(name.key, ())
        assert name.seq_id is not None
        return (name.seq_id,)

    @property
    def block_size(self) -> int:
        return self.limit("block_size")

    def limit(self, name: str) -> int:
        """A number of the run's configuration; 1 if it is not told."""
        return int(self.meta.configuration.get(name, 1)) if self.meta else 1

    def _enter(self, key: RequestKey, seq_ids: tuple[SeqId, ...], num_prompt_tokens: int) -> None:
        self.seq_ids[key] = seq_ids
        for index, seq_id in enumerate(seq_ids):
            self.members[seq_id] = Member(key, index, len(seq_ids), num_prompt_tokens)

    def _learn_from_mark(self, mark: Mark) -> None:
        if mark.kind == META:
            try:
                self.meta = decode_meta(mark.payload)
            except MalformedRecord:  # its line says so
                self.meta = None
        elif mark.kind == SNAPSHOT:
            self._snapshot_parts.append(mark.payload)
            if len(self._snapshot_parts) >= num_snapshot_parts(mark.payload):
                self._learn_from_snapshot(join_snapshot(self._snapshot_parts))
                self._snapshot_parts = []

    def _learn_from_snapshot(self, snapshot: bytes | None) -> None:
        """Whoever was admitted where this journal cannot tell: before it, or in a gap of it."""
        try:
            known = _decoder.decode(snapshot or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        self.seq_ids = {request.key: request.seq_ids for request in known.requests}
        before, self.members = self.members, {}
        for sequence in known.sequences:
            n = len(self.seq_ids.get(sequence.key, ())) or 1
            self.members[sequence.seq_id] = before.get(sequence.seq_id) or Member(
                sequence.key, sequence.order[2], n, sequence.num_prompt_tokens
            )


class _KnownSequence(msgspec.Struct):
    seq_id: SeqId
    key: RequestKey
    order: tuple[int, int, int]
    num_prompt_tokens: int


class _KnownRequest(msgspec.Struct):
    key: RequestKey
    seq_ids: tuple[SeqId, ...]


class _KnownState(msgspec.Struct):
    """The part of `actors.core.snapshot.Snapshot` that tells who is there."""

    requests: list[_KnownRequest]
    sequences: list[_KnownSequence]


_decoder = msgspec.msgpack.Decoder(_KnownState)
