"""Follows one sequence through a replayed journal and writes its life down."""

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.sequence import Status
from tokenreel.messages.ids import SeqId, StepId
from tokenreel.messages.outputs import SequenceFinished, TokensEmitted
from tokenreel.messages.steps import (
    ScheduledSequence,
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepScheduled,
)
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.request_name import show_key
from tokenreel.tools.replay.why.latency import (
    DECODE,
    DECODE_BESIDE_PREFILL,
    PREFILL,
    RECOMPUTE,
    Interval,
    Row,
    Share,
    on_one_clock,
    spend,
)
from tokenreel.tools.replay.why.life import Preempted, SequenceLife, Wait, Work
from tokenreel.tools.replay.why.wait_row import ARRIVED, wait_row
from tokenreel.tools.replay.why.watch import PassedOver, Refusal, Watch, Why

_KINDS = {PREFILL: "prefill", RECOMPUTE: "recompute"}


class Story:
    """Tell it every event in order, each after the engine has taken it; then `end` it."""

    def __init__(self, life: SequenceLife, num_prompt_tokens: int) -> None:
        self.life = life
        self._num_prompt_tokens = num_prompt_tokens
        self._shares: list[Share] = []
        self._open: dict[StepId, tuple[Share, Work]] = {}
        self._waits: list[Interval] = []
        self._waiting: Row | None = Row("queued", ARRIVED)
        self._waiting_since_ns = life.arrived_ns
        self._is_told = False
        """Whether the last of the happenings is this waiting."""
        self._has_started = False
        self._num_ever_scheduled = 0
        """Positions below were computed once already, or are about to be."""

    def tell(self, event: RecordedEvent, engine: Engine, watch: Watch) -> None:
        if isinstance(event.event, StepBegan):
            self._step_began(event, event.event.step_id, engine, watch)
        elif isinstance(event.event, StepCompleted):
            self._step_completed(event.event, event.t_ns)
        self._take_outputs(event)

    def deliver(self, t_ns: int) -> None:
        if self.life.finished_ns and not self.life.delivered_ns:
            self.life.delivered_ns = t_ns

    def end(self, now_ns: int) -> None:
        """What still goes on is told up to `now_ns`."""
        life = self.life
        finished_ns = life.finished_ns or now_ns
        self._stop_waiting(finished_ns)
        for _, work in self._open.values():
            work.to_ns = max(work.to_ns, finished_ns)
        life.has_one_clock = on_one_clock(self._shares, now_ns)
        to_ns = life.delivered_ns or now_ns
        life.spent = spend(life.arrived_ns, finished_ns, to_ns, self._shares, self._waits)

    # Steps.

    def _step_began(
        self, event: RecordedEvent, step_id: StepId, engine: Engine, watch: Watch
    ) -> None:
        for effect in event.effects:
            if isinstance(effect, SequencePreempted) and effect.seq_id == self.life.seq_id:
                self._give_way(effect, step_id, event.t_ns, engine)
            elif isinstance(effect, StepScheduled):
                for share in effect.scheduled:
                    if share.seq_id == self.life.seq_id:
                        self._compute(effect, share, event.t_ns, engine)
                        return
        passed_over = watch.passed_over(self.life.seq_id, step_id)
        if passed_over is not None and passed_over.why is not Why.IN_FLIGHT:
            self._wait(passed_over, step_id, event.t_ns, engine)

    def _compute(
        self, step: StepScheduled, share: ScheduledSequence, t_ns: int, engine: Engine
    ) -> None:
        self._stop_waiting(t_ns)
        self._has_started = True
        if share.start < self._num_ever_scheduled:
            row = RECOMPUTE
        elif share.start < self._num_prompt_tokens:
            row = PREFILL
        else:
            row = DECODE_BESIDE_PREFILL if _has_prefill_of_others(step, share, engine) else DECODE
        self._num_ever_scheduled = max(self._num_ever_scheduled, share.start + share.num_tokens)
        has_entered = any(added.seq_id == share.seq_id for added in step.added)
        work = self._work(_KINDS.get(row, "decode"), step.step_id, share, t_ns, has_entered)
        self._shares.append(Share(step.step_id, row, t_ns))
        self._open[step.step_id] = self._shares[-1], work

    def _work(
        self, kind: str, step_id: StepId, share: ScheduledSequence, t_ns: int, has_entered: bool
    ) -> Work:
        happenings = self.life.happenings
        last = happenings[-1] if happenings else None
        if isinstance(last, Work) and last.kind == kind and not has_entered:
            last.last_step = step_id
            last.num_steps += 1
            last.num_tokens += share.num_tokens
            return last
        work = Work(
            kind, t_ns, t_ns, step_id, step_id, 1, share.num_tokens, share.start, has_entered
        )
        happenings.append(work)
        return work

    def _step_completed(self, event: StepCompleted, t_ns: int) -> None:
        share, work = self._open.pop(event.step_id, (None, None))
        if share is not None and work is not None:
            share.began_ns, share.ended_ns = event.began_ns, event.ended_ns
            share.completed_ns = work.to_ns = t_ns

    # Waiting.

    def _give_way(
        self, effect: SequencePreempted, step_id: StepId, t_ns: int, engine: Engine
    ) -> None:
        self._stop_waiting(t_ns)
        for_whom = name_of(engine, effect.for_seq_id)
        self.life.happenings.append(Preempted(t_ns, step_id, for_whom, effect.num_computed_tokens))

    def _wait(self, passed_over: PassedOver, step_id: StepId, t_ns: int, engine: Engine) -> None:
        self._stop_waiting(t_ns)
        sequence = engine.sequences[self.life.seq_id]
        is_running = sequence.status is Status.RUNNING
        group = "held up" if is_running else "preempted" if self._has_started else "queued"
        self._waiting, self._waiting_since_ns = wait_row(group, passed_over), t_ns
        self._is_told = passed_over.why is not Why.PREEMPTED  # else that tells it
        if self._is_told:
            self._tell_wait(group, passed_over, step_id, t_ns, engine)

    def _tell_wait(
        self, group: str, passed_over: PassedOver, step_id: StepId, t_ns: int, engine: Engine
    ) -> None:
        refusal = passed_over.refusal
        reason = refusal.reason if refusal is not None else None
        happenings = self.life.happenings
        wait = happenings[-1] if happenings else None
        if not isinstance(wait, Wait) or (wait.group, wait.why, wait.reason) != (
            group,
            passed_over.why,
            reason,
        ):
            wait = Wait(group, passed_over.why, reason, t_ns, 0, step_id, step_id, 0)
            happenings.append(wait)
        # A step that came out empty is composed again under the same number.
        if not wait.num_steps or wait.last_step != step_id:
            wait.num_steps += 1
            if passed_over.why is Why.BEHIND and refusal is not None:
                blocker = name_of(engine, refusal.seq_id)
                wait.blockers[blocker] = wait.blockers.get(blocker, 0) + 1
        wait.last_step = step_id
        wait.places = _first_and_last(wait.places, passed_over.place)
        if refusal is not None:
            _widen(wait, refusal)

    def _stop_waiting(self, t_ns: int) -> None:
        if self._waiting is None:
            return
        self._waits.append(Interval(self._waiting_since_ns, t_ns, self._waiting))
        last = self.life.happenings[-1] if self.life.happenings else None
        is_told, self._waiting = self._is_told, None
        if is_told and isinstance(last, Wait):
            last.spent_ns += t_ns - self._waiting_since_ns

    # Output.

    def _take_outputs(self, event: RecordedEvent) -> None:
        life = self.life
        for effect in event.effects:
            if isinstance(effect, TokensEmitted):
                for tokens in effect.sequences:
                    if tokens.seq_id == life.seq_id:
                        if tokens.token_ids:
                            life.first_token_ns = life.first_token_ns or event.t_ns
                            life.last_token_ns = event.t_ns
                            life.num_outputs = tokens.first_output_index + len(tokens.token_ids)
                            life.num_cached_tokens = tokens.num_cached_tokens
                        life.error = tokens.error or life.error
            elif isinstance(effect, SequenceFinished) and effect.seq_id == life.seq_id:
                life.finished_ns = life.finished_ns or event.t_ns
                life.finish_reason, life.num_outputs = effect.reason, effect.num_output_tokens
                self._stop_waiting(event.t_ns)


def name_of(engine: Engine, seq_id: SeqId) -> str:
    """A sequence by its request: `1.57`, or `1.57#2` for one of several."""
    sequence = engine.sequences.get(seq_id)
    if sequence is None:
        return f"s{seq_id}"
    request = engine.requests.get(sequence.key)
    has_siblings = request is not None and len(request.seq_ids) > 1
    return show_key(sequence.key) + (f"#{sequence.order[2]}" if has_siblings else "")


def _has_prefill_of_others(step: StepScheduled, own: ScheduledSequence, engine: Engine) -> bool:
    for share in step.scheduled:
        sequence = engine.sequences.get(share.seq_id)
        if share is not own and sequence is not None and share.start < sequence.num_prompt_tokens:
            return True
    return False


def _widen(wait: Wait, refusal: Refusal) -> None:
    for name, number in (
        ("needed", refusal.num_needed),
        ("reserved", refusal.num_reserved),
        ("free", refusal.num_free),
    ):
        bounds = getattr(wait, name)
        widened = (min(bounds[0], number), max(bounds[1], number)) if bounds else (number, number)
        setattr(wait, name, widened)


def _first_and_last(places: tuple[int, int] | None, place: int) -> tuple[int, int]:
    return (places[0], place) if places else (place, place)
