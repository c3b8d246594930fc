"""Why a request took as long as it did: its life, found out by replaying the journal around it."""

import numpy as np

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.outputs import OutputDelivered
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
)
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import RequestName
from tokenreel.tools.replay.why.life import Life, SequenceLife
from tokenreel.tools.replay.why.story import Story
from tokenreel.tools.replay.why.watch import Watch


def life_of(index: Index, name: RequestName) -> Life:
    """Raises UsageError if the journal knows no such request, and ReplayDiverged if the code that
    is installed here decides otherwise than the recorded run did."""
    key, first_seq = _find(index, name)
    walk = index.walk(first_seq)
    teller = _Teller(key, index.journal.segments[-1].last_t_ns)
    watch = Watch()
    while walk.next_seq is not None and not teller.is_over:
        engine = walk.engine
        assert isinstance(engine, Engine)
        watch.attach(engine)
        teller.meet(engine, index.journal.segments[0].header.monotonic_ns)
        event = next(walk, None)
        if event is not None:
            teller.tell(event, engine, watch)
    return teller.end()


class _Teller:
    """Tells the stories of a request's sequences, all at the same time."""

    def __init__(self, key: RequestKey, until_ns: int) -> None:
        self.is_over = False
        self._life = Life(key, until_ns=until_ns)
        self._stories: dict[SeqId, Story] = {}

    def meet(self, engine: Engine, since_ns: int) -> None:
        """A request that was there when the journal began."""
        request = engine.requests.get(self._life.key)
        if request is None or self._stories:
            return
        self._life.arrived_ns = since_ns
        num_prompt_tokens = engine.sequences[request.seq_ids[-1]].num_prompt_tokens
        self._begin(request.seq_ids, num_prompt_tokens, since_ns)

    def tell(self, event: RecordedEvent, engine: Engine, watch: Watch) -> None:
        self._tell_request(event)
        for story in self._stories.values():
            story.tell(event, engine, watch)
        if isinstance(event.event, OutputDelivered):
            for seq_id in event.event.seq_ids:
                if seq_id in self._stories:
                    self._stories[seq_id].deliver(event.t_ns)

    def end(self) -> Life:
        life = self._life
        now_ns = life.finished_ns or life.until_ns
        for story in self._stories.values():
            story.end(now_ns)
        life.until_ns = now_ns
        return life

    def _tell_request(self, event: RecordedEvent) -> None:
        life = self._life
        match event.event:
            case AdmitRequest(key=key) if key == life.key and life.admit is None:
                life.admit, life.arrived_ns = event.event, event.t_ns
            case AbortRequest(key=key) if key == life.key:
                life.aborted_ns = life.aborted_ns or event.t_ns
        for effect in event.effects:
            match effect:
                case RequestAdmitted(key=key) if key == life.key:
                    self._begin(effect.seq_ids, effect.num_prompt_tokens, event.t_ns)
                case RequestRejected(key=key) if key == life.key:
                    life.rejected, life.finished_ns, self.is_over = effect, event.t_ns, True
                case RequestFinished(key=key) if key == life.key:
                    life.finished_ns, self.is_over = event.t_ns, True

    def _begin(self, seq_ids: tuple[SeqId, ...], num_prompt_tokens: int, t_ns: int) -> None:
        for place, seq_id in enumerate(seq_ids):
            life = SequenceLife(seq_id, place, t_ns)
            self._life.sequences.append(life)
            self._stories[seq_id] = Story(life, num_prompt_tokens)


def _find(index: Index, name: RequestName) -> tuple[RequestKey, int]:
    """The request's key, and the seq to replay from."""
    requests = index.requests
    if name.key is not None:
        row = requests.row_of(name.key)
    else:
        row = _row_of_sequence(index, name.seq_id or 0)
    if row is None:
        raise UsageError(f"the journal knows no request {name}; {_known(index)}")
    return requests.key(row), int(requests.admit_seq[row])


def _row_of_sequence(index: Index, seq_id: int) -> int | None:
    first, n = index.requests.first_seq_id, index.requests.n
    rows = np.flatnonzero((first > 0) & (first <= seq_id) & (seq_id < first + n))
    return int(rows[0]) if len(rows) else None


def _known(index: Index) -> str:
    requests = index.requests
    if not len(requests):
        return "it has none at all"
    first, last = RequestName(requests.key(0), None), RequestName(requests.key(-1), None)
    return f"it has {len(requests):,}, from {first} to {last}"
