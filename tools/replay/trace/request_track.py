"""A request's tracks in a trace: the phases of each of its sequences, one after the other."""

from enum import StrEnum

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.outputs import SequenceFinished, SequenceTokens
from tokenreel.messages.steps import ScheduledSequence, SequencePreempted
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.trace.proto import Arguments, TraceWriter, Uuid


class Phase(StrEnum):
    EARLIER = "since before the journal"
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    RECOMPUTE = "recompute"
    DELIVERY = "delivery"
    OVER = "over"


class RequestTracks:
    """A request has one track, and with several sequences one more for each."""

    def __init__(
        self,
        writer: TraceWriter,
        parent: Uuid,
        key: RequestKey,
        seq_ids: tuple[SeqId, ...],
        t_ns: int,
        flow: int | None,
    ) -> None:
        """Without a `flow` it was there before the journal began."""
        self.flow = flow
        """From its arrival to its first token, or to its end; None once it is there."""
        name = show_key(key)
        track = writer.track(name, parent, key.number)
        self.sequences = {
            seq_id: SequenceTrack(
                writer,
                writer.track(f"{name}#{index}", track, index) if len(seq_ids) > 1 else track,
                t_ns,
                Phase.EARLIER if flow is None else Phase.QUEUED,
                [flow] if flow is not None and index == 0 else [],
            )
            for index, seq_id in enumerate(seq_ids)
        }


class SequenceTrack:
    """The phase that a sequence is in is a slice that is open."""

    def __init__(
        self, writer: TraceWriter, track: Uuid, t_ns: int, phase: Phase, flows: list[int]
    ) -> None:
        self.phase = phase
        self._writer = writer
        self._track = track
        self._num_tokens = 0
        writer.begin(track, t_ns, phase.value, flows=flows)

    def schedule(self, t_ns: int) -> None:
        if self.phase is Phase.QUEUED:
            self._enter(Phase.PREFILL, t_ns)
        elif self.phase is Phase.PREEMPTED:
            self._enter(Phase.RECOMPUTE, t_ns)

    def compute(self, share: ScheduledSequence, step_id: int, began_ns: int, ended_ns: int) -> None:
        """A step's part in a phase that is made of chunks."""
        if self.phase in (Phase.PREFILL, Phase.RECOMPUTE):
            end = share.start + share.num_tokens
            arguments = {"step": step_id, "tokens": share.num_tokens}
            self._writer.begin(self._track, began_ns, f"[{share.start}, {end})", arguments)
            self._writer.end(self._track, ended_ns)

    def emit(self, tokens: SequenceTokens, t_ns: int, flow: int | None) -> None:
        """`flow` ends here, if this is its first token."""
        if not tokens.token_ids or self.phase in (Phase.DELIVERY, Phase.OVER):
            return
        self._num_tokens = tokens.first_output_index + len(tokens.token_ids)
        if self.phase in (Phase.EARLIER, Phase.PREFILL, Phase.RECOMPUTE):
            self._enter(Phase.DECODE, t_ns)
        if flow is not None:
            arguments = {"cached tokens": tokens.num_cached_tokens}
            self._writer.instant(self._track, t_ns, "first token", arguments, last_of_flow=flow)

    def preempt(self, effect: SequencePreempted, t_ns: int, for_whom: str) -> None:
        arguments: Arguments = {"for": for_whom, "computed tokens lost": effect.num_computed_tokens}
        self._enter(Phase.PREEMPTED, t_ns, arguments)

    def finish(self, effect: SequenceFinished, t_ns: int) -> None:
        if self.phase not in (Phase.DELIVERY, Phase.OVER):
            arguments: Arguments = {
                "reason": effect.reason.name.lower(),
                "tokens": effect.num_output_tokens,
            }
            self._enter(Phase.DELIVERY, t_ns, arguments)

    def deliver(self, t_ns: int) -> None:
        if self.phase is not Phase.OVER:
            self._writer.end(self._track, t_ns)
            self.phase = Phase.OVER

    def cut(self, t_ns: int) -> None:
        """Nobody knows how it went on."""
        if self.phase is not Phase.OVER:
            self._writer.end(self._track, t_ns, {"goes on": 1})
            self.phase = Phase.OVER

    def end_flow(self, flow: int, t_ns: int, name: str) -> None:
        self._writer.instant(self._track, t_ns, name, last_of_flow=flow)

    def _enter(self, phase: Phase, t_ns: int, arguments: Arguments | None = None) -> None:
        left = {"tokens so far": self._num_tokens} if self.phase is Phase.DECODE else None
        self._writer.end(self._track, t_ns, left)
        self.phase = phase
        self._writer.begin(self._track, t_ns, phase.value, arguments)
