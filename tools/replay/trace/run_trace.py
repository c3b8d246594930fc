"""Turns a journal into a trace: a track per actor and per request, counters, flows."""

from typing import NamedTuple

from tokenreel.messages.codec import Effect
from tokenreel.messages.ids import RequestKey, SeqId, StepId
from tokenreel.messages.journal import SNAPSHOT
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
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
    Unscheduled,
)
from tokenreel.tools.replay.index.collector import is_decode
from tokenreel.tools.replay.reading.entries import Entry, Mark, is_failure
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.reading.roster import Roster
from tokenreel.tools.replay.reasons import cause
from tokenreel.tools.replay.trace.counters import Counters
from tokenreel.tools.replay.trace.proto import Arguments, TraceWriter, Uuid
from tokenreel.tools.replay.trace.request_track import RequestTracks, SequenceTrack


class _OpenStep(NamedTuple):
    scheduled: StepScheduled
    arguments: Arguments
    composed_ns: int
    slot: Uuid


class JournalTrace:
    """`tell` it every entry in order, then `end` it. Holds what is in flight, no more."""

    def __init__(self, writer: TraceWriter) -> None:
        self.counters = Counters(writer, writer.track("counters", rank=1))
        self._writer = writer
        self._roster = Roster()
        actors = writer.track("actors", rank=0)
        self._frontend = writer.track("frontend: aborts", actors, 0)
        self._input = writer.track("input processor: arrivals", actors, 1)
        self._core = writer.track("engine core", actors, 2)
        self._worker = writer.track("worker", actors, 3)
        self._detokenizer = writer.track("detokenizer: deliveries", actors, 4)
        self._open_group = writer.track("open steps, from composition to completion", actors, 5)
        self._slots: list[Uuid] = []
        """One per step that the pipeline holds: steps of one remainder never overlap."""
        self._requests_group = writer.track("requests", rank=2)
        self._requests: dict[RequestKey, RequestTracks] = {}
        self._open_steps: dict[StepId, _OpenStep] = {}
        self._worker_free_ns = 0
        self._num_flows = 0
        self._last_ns = 0

    def tell(self, entry: Entry) -> None:
        self._last_ns = max(self._last_ns, entry.t_ns)
        self._roster.learn(entry)
        if isinstance(entry, Mark):
            self._tell_mark(entry)
        else:
            self._tell_event(entry)
        self._roster.forget(entry)

    def end(self) -> None:
        """Cuts what goes on."""
        for step in self._open_steps.values():
            self._writer.end(step.slot, self._last_ns, {"goes on": 1})
        for request in self._requests.values():
            self._cut(request, self._last_ns)

    def _tell_mark(self, mark: Mark) -> None:
        if is_failure(mark):
            self._writer.instant(self._core, mark.t_ns, "THE CORE FAILED")
        elif mark.kind == SNAPSHOT:
            self._agree_with_snapshot(mark.t_ns)

    def _agree_with_snapshot(self, t_ns: int) -> None:
        """Requests came and went unseen before the journal began, and in gaps of it."""
        for key in [key for key in self._requests if key not in self._roster.seq_ids]:
            self._cut(self._requests.pop(key), t_ns)
        for key, seq_ids in self._roster.seq_ids.items():
            if key not in self._requests:
                self._admit(key, seq_ids, t_ns, None)

    def _tell_event(self, entry: RecordedEvent) -> None:
        event, t_ns = entry.event, entry.t_ns
        match event:
            case AdmitRequest():
                self._arrive(event, entry.effects, t_ns)
            case AbortRequest(key=key):
                self._writer.instant(self._frontend, t_ns, f"abort {show_key(key)}")
            case StepBegan(step_id=step_id):
                self._begin_step(step_id, entry.effects, t_ns)
            case StepCompleted():
                self._complete_step(event, entry.effects, t_ns)
            case StopStringMatched(seq_id=seq_id):
                name = f"stop string of {self._roster.name(seq_id)}"
                self._writer.instant(self._detokenizer, t_ns, name)
            case OutputDelivered(seq_ids=seq_ids):
                for seq_id in seq_ids:
                    self._deliver(seq_id, t_ns)
        for effect in entry.effects:
            self._tell_effect(effect, t_ns)

    def _tell_effect(self, effect: Effect, t_ns: int) -> None:
        match effect:
            case TokensEmitted(sequences=sequences):
                for tokens in sequences:
                    self._emit(tokens, t_ns)
            case SequenceFinished(seq_id=seq_id):
                if (sequence := self._sequence(seq_id)) is not None:
                    sequence.finish(effect, t_ns)
            case RequestFinished(key=key):
                if (request := self._requests.pop(key, None)) is not None:
                    self._end_flow(request, t_ns, "ended without a token")

    # Requests.

    def _arrive(self, event: AdmitRequest, effects: list[Effect], t_ns: int) -> None:
        name = show_key(event.key)
        arguments: dict[str, int | str] = {
            "prompt tokens": len(event.prompt_token_ids),
            "max_tokens": event.stopping.max_tokens,
            "n": event.n,
            "priority": event.priority,
        }
        for effect in effects:
            if isinstance(effect, RequestAdmitted):
                self._num_flows += 1
                flows = [self._num_flows]
                self._writer.instant(self._input, t_ns, name, arguments, flows)
                self._admit(event.key, effect.seq_ids, t_ns, self._num_flows)
            elif isinstance(effect, RequestRejected):
                arguments["rejected"] = f"{effect.status} {effect.code}"
                self._writer.instant(self._input, t_ns, f"{name} rejected", arguments)

    def _admit(
        self, key: RequestKey, seq_ids: tuple[SeqId, ...], t_ns: int, flow: int | None
    ) -> None:
        group = self._requests_group
        self._requests[key] = RequestTracks(self._writer, group, key, seq_ids, t_ns, flow)

    def _emit(self, tokens: SequenceTokens, t_ns: int) -> None:
        request, sequence = self._request(tokens.seq_id), self._sequence(tokens.seq_id)
        if request is None or sequence is None:
            return
        sequence.emit(tokens, t_ns, request.flow)
        if tokens.token_ids:
            request.flow = None

    def _deliver(self, seq_id: SeqId, t_ns: int) -> None:
        self._writer.instant(self._detokenizer, t_ns, f"delivered {self._roster.name(seq_id)}")
        if (sequence := self._sequence(seq_id)) is not None:
            sequence.deliver(t_ns)

    def _end_flow(self, request: RequestTracks, t_ns: int, name: str) -> None:
        if request.flow is not None:
            next(iter(request.sequences.values())).end_flow(request.flow, t_ns, name)
            request.flow = None

    def _cut(self, request: RequestTracks, t_ns: int) -> None:
        self._end_flow(request, t_ns, "the journal ends")
        for sequence in request.sequences.values():
            sequence.cut(t_ns)

    def _request(self, seq_id: SeqId) -> RequestTracks | None:
        member = self._roster.members.get(seq_id)
        return self._requests.get(member.key) if member is not None else None

    def _sequence(self, seq_id: SeqId) -> SequenceTrack | None:
        request = self._request(seq_id)
        return request.sequences.get(seq_id) if request is not None else None

    # Steps.

    def _begin_step(self, step_id: StepId, effects: list[Effect], t_ns: int) -> None:
        scheduled = decided = None
        for effect in effects:
            match effect:
                case SequencePreempted(seq_id=seq_id, for_seq_id=for_seq_id):
                    for_whom = self._roster.name(for_seq_id)
                    name = f"preempted {self._roster.name(seq_id)} for {for_whom}"
                    self._writer.instant(self._core, t_ns, name)
                    if (sequence := self._sequence(seq_id)) is not None:
                        sequence.preempt(effect, t_ns, for_whom)
                case StepScheduled():
                    scheduled = effect
                case StepDecided():
                    decided = effect
        if scheduled is None or decided is None:
            return
        for share in scheduled.scheduled:
            if (sequence := self._sequence(share.seq_id)) is not None:
                sequence.schedule(t_ns)
        slot = self._slot(step_id)
        arguments = _step_arguments(scheduled, decided, self._roster)
        self._open_steps[step_id] = _OpenStep(scheduled, arguments, t_ns, slot)
        self._writer.begin(slot, t_ns, f"step {step_id}", arguments)
        self.counters.count_step(scheduled, decided, self._roster.block_size, t_ns)

    def _slot(self, step_id: StepId) -> Uuid:
        if not self._slots:
            depth = self._roster.limit("pipeline_depth")
            self._slots = [
                self._writer.track(f"slot {slot}", self._open_group, slot) for slot in range(depth)
            ]
        return self._slots[step_id % len(self._slots)]

    def _complete_step(self, event: StepCompleted, effects: list[Effect], t_ns: int) -> None:
        step = self._open_steps.pop(event.step_id, None)
        if step is None:
            return
        self._writer.end(step.slot, t_ns)
        began_ns, ended_ns = self._on_core_clock(event, step.composed_ns, t_ns)
        first = [
            request.flow
            for effect in effects
            if isinstance(effect, TokensEmitted)
            for tokens in effect.sequences
            if tokens.token_ids and (request := self._request(tokens.seq_id)) is not None
        ]
        flows = [flow for flow in dict.fromkeys(first) if flow is not None]
        name = f"step {event.step_id}"
        self._writer.begin(self._worker, began_ns, name, step.arguments, flows)
        self._writer.end(self._worker, ended_ns)
        for share in step.scheduled.scheduled:
            if (sequence := self._sequence(share.seq_id)) is not None:
                sequence.compute(share, event.step_id, began_ns, ended_ns)

    def _on_core_clock(self, event: StepCompleted, composed_ns: int, t_ns: int) -> tuple[int, int]:
        """When the worker had the step: by its own account as far as that can be, else from when
        it was free for it."""
        earliest = max(composed_ns, self._worker_free_ns)
        began_ns, ended_ns = event.began_ns, event.ended_ns
        if not earliest <= began_ns <= ended_ns <= t_ns:
            began_ns, ended_ns = min(earliest, t_ns), t_ns
        self._worker_free_ns = ended_ns
        return began_ns, ended_ns


def _step_arguments(
    scheduled: StepScheduled, decided: StepDecided, roster: Roster
) -> dict[str, int | str]:
    """What a click on a step shows: its composition, and the state around it."""
    prefill, decode = [], []
    for share in scheduled.scheduled:
        name = roster.name(share.seq_id)
        if is_decode(share):
            decode.append(name)
        else:
            prefill.append(f"{name} [{share.start}, {share.start + share.num_tokens})")
    found: dict[str, int | str] = {
        "tokens": decided.num_batched_tokens,
        "sequences": len(scheduled.scheduled),
        "prefill": ", ".join(prefill),
        "decode": " ".join(decode),
        "entering": len(scheduled.added),
        "cached tokens": sum(len(each.block_ids) for each in scheduled.added) * roster.block_size,
        "new blocks": sum(len(share.new_block_ids) for share in scheduled.scheduled),
        "running": decided.num_running,
        "waiting": decided.num_waiting,
        "available blocks": decided.num_free_blocks,
    }
    if decided.unscheduled is not Unscheduled.NOTHING:
        name = roster.name(decided.seq_id)
        found["passed over first"] = f"{name}: {cause(decided.unscheduled)}"
    return found
