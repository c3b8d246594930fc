"""Requests as the page asks for them: found by name or by what became of them, and one's life."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AdmitRequest
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import SequencePreempted, StepScheduled
from tokenreel.tools.command import UsageError
from tokenreel.tools.replay.index.index import Index
from tokenreel.tools.replay.index.replica import ReplayDiverged
from tokenreel.tools.replay.index.tables import Requests
from tokenreel.tools.replay.reading.request_name import parse_request_name, show_key

MAX_FOUND = 50
MAX_EVENTS = 8000
"""That one life is followed through; beyond, its preemptions are counted but not placed."""
MAX_SPANS = 400
MAX_TEXT_CHARACTERS = 2000
NS = 1e9

Test = Callable[[Requests], npt.NDArray[np.bool_]]
Span = tuple[str, int, int]
"""What a request did (`waiting`, `prefill`, `decode`, `preempted`), first and last step."""


class RequestLives:
    def __init__(self, index: Index, origin_ns: int) -> None:
        """Times are told since `origin_ns`."""
        self._index = index
        self._origin_ns = origin_ns

    def find(self, query: str) -> dict[str, Any]:
        """At most MAX_FOUND requests: the one of this very name, then the most remarkable first;
        and how many there are."""
        requests = self._index.requests
        rows = self._matching(query.strip().lower())
        waits = np.where(requests.first_token_ns > 0, requests.first_token_ns, 0)
        waits = np.where(waits > 0, waits - requests.admit_t_ns, 0)[rows]
        is_other = rows != self._row_of(query.strip())
        rows = rows[np.lexsort((rows, -waits, -requests.num_preemptions[rows], is_other))]
        return {
            "query": query,
            "total": len(rows),
            "requests": [self._summary(int(row)) for row in rows[:MAX_FOUND]],
        }

    def life(self, name: str) -> dict[str, Any] | None:
        """Everything about one request; None if the journal knows none of this name."""
        row = self._row_of(name)
        if row is None:
            return None
        spans, error, note = self._spans(row)
        return self._summary(row) | {
            "spans": spans[:MAX_SPANS],
            "stop": self._stop_strings(row),
            "error": error[:MAX_TEXT_CHARACTERS],
            "note": note,
        }

    def _matching(self, query: str) -> npt.NDArray[np.intp]:
        requests = self._index.requests
        everyone = np.arange(len(requests))
        if not query:
            return everyone
        if query in _WORDS:
            return np.flatnonzero(_WORDS[query](requests))
        row = self._row_of(query)
        if not query[0].isdigit():
            return everyone[[row]] if row is not None else everyone[:0]
        prefix = query if "." in query else f"1.{query}"
        names = [
            f"{epoch}.{number}"
            for epoch, number in zip(
                requests.frontend_epoch.tolist(), requests.number.tolist(), strict=True
            )
        ]
        starting = [place for place, name in enumerate(names) if name.startswith(prefix)]
        found = dict.fromkeys([*([row] if row is not None else []), *starting])
        return np.fromiter(found, np.intp, len(found))

    def _row_of(self, name: str) -> int | None:
        try:
            asked = parse_request_name(name)
        except UsageError:
            return None
        if asked.key is not None:
            return self._index.requests.row_of(asked.key)
        sequences = self._index.sequences
        place = int(np.searchsorted(sequences.seq_id, asked.seq_id or 0))
        if place == len(sequences) or sequences.seq_id[place] != asked.seq_id:
            return None
        row = int(sequences.request[place])
        return row if row >= 0 else None

    def _summary(self, row: int) -> dict[str, Any]:
        requests = self._index.requests
        admitted, first = int(requests.admit_t_ns[row]), int(requests.first_token_ns[row])
        ended = int(requests.finished_ns[row])
        return {
            "id": show_key(requests.key(row)),
            "seqs": list(requests.seq_ids(row)),
            "prompt": int(requests.num_prompt_tokens[row]),
            "outputs": int(requests.num_outputs[row]),
            "cached": int(requests.num_cached_tokens[row]),
            "preemptions": int(requests.num_preemptions[row]),
            "priority": int(requests.priority[row]),
            "reason": self._reason(row),
            "admitted_s": (admitted - self._origin_ns) / NS,
            "ttft_s": (first - admitted) / NS if first and admitted else None,
            "total_s": (ended - admitted) / NS if ended and admitted else None,
        }

    def _reason(self, row: int) -> str | None:
        requests = self._index.requests
        if requests.refused_status[row]:
            return f"refused ({int(requests.refused_status[row])})"
        if not requests.finished_ns[row]:
            return None
        return FinishReason(int(requests.finish_reason[row])).name.lower()

    def _spans(self, row: int) -> tuple[list[Span], str, str]:
        """What it did from which step to which, the error it ended with, and what is left out."""
        requests, steps = self._index.requests, self._index.steps
        if not len(steps) or not requests.first_seq_id[row]:
            return [], "", ""
        came = self._step_from(int(requests.admit_seq[row]))
        end = self._end(row)
        first_ns = int(requests.first_scheduled_ns[row])
        if not first_ns:
            return [("waiting", came, max(came, end))], "", ""
        started = self._step_at(first_ns)
        end = max(started, end)
        prefilled = self._step_done_at(int(requests.first_token_ns[row])) or end
        spans: list[Span] = []
        if started > came:
            spans.append(("waiting", came, started - 1))
        if not requests.num_preemptions[row] and requests.finish_reason[row] != FinishReason.ERROR:
            return [*spans, *_running(started, end, prefilled)], "", ""
        return self._followed(row, spans, started, prefilled, end)

    def _end(self, row: int) -> int:
        """The last step that may have computed it."""
        requests = self._index.requests
        finished_ns = int(requests.finished_ns[row])
        if not finished_ns:
            return int(self._index.steps.step_id[-1])
        # Nobody is scheduled past max_tokens; who ends otherwise may be in a step that is open.
        if requests.finish_reason[row] == FinishReason.LENGTH:
            return self._step_done_at(finished_ns)
        return self._step_at(finished_ns)

    def _followed(
        self, row: int, spans: list[Span], started: int, prefilled: int, end: int
    ) -> tuple[list[Span], str, str]:
        """The life of one that was preempted or failed, from the events themselves."""
        seq_ids = set(self._index.requests.seq_ids(row))
        interruptions: list[tuple[int, int]] = []
        away: dict[int, int] = {}
        error = note = ""
        step = started
        try:
            first = int(self._index.steps.seq[self._index.steps.row_of(started) or 0])
            for number, event in enumerate(self._index.walk(first)):
                if number == MAX_EVENTS:
                    note = f"preemptions after step {step} are not placed"
                    break
                for effect in event.effects:
                    if isinstance(effect, StepScheduled):
                        step = effect.step_id
                        for added in effect.added:
                            if added.seq_id in away:
                                interruptions.append((away.pop(added.seq_id), step - 1))
                    elif isinstance(effect, SequencePreempted) and effect.seq_id in seq_ids:
                        away.setdefault(effect.seq_id, step + 1)
                    elif isinstance(effect, TokensEmitted):
                        told = [e.error for e in effect.sequences if e.seq_id in seq_ids]
                        error = next(filter(None, told), error)
                if step > end:
                    break
        except ReplayDiverged as lost:
            note = str(lost)
        interruptions += [(since, end) for since in away.values()]
        for since, until in sorted(interruptions):
            if since > started:
                spans += _running(started, since - 1, prefilled)
            spans.append(("preempted", since, max(since, until)))
            started = max(started, until + 1)
        if started <= end:
            spans += _running(started, end, prefilled)
        return spans, error, note

    def _stop_strings(self, row: int) -> list[str]:
        """As the client sent them, from the admit itself."""
        seq = int(self._index.requests.admit_seq[row])
        if not seq:
            return []
        try:
            event = next(self._index.walk(seq), None)
        except ReplayDiverged:
            return []
        if event is None or not isinstance(event.event, AdmitRequest):
            return []
        return [text[:MAX_TEXT_CHARACTERS] for text in event.event.text.stop]

    def _step_from(self, seq: int) -> int:
        """The first step composed at or behind this place."""
        steps = self._index.steps
        row = int(np.searchsorted(steps.seq, seq))
        return int(steps.step_id[min(row, len(steps) - 1)])

    def _step_at(self, t_ns: int) -> int:
        """The last step composed at this time."""
        steps = self._index.steps
        row = int(np.searchsorted(steps.t_ns, t_ns, side="right")) - 1
        return int(steps.step_id[max(row, 0)])

    def _step_done_at(self, t_ns: int) -> int:
        """The last step completed at this time; 0 for no time. Steps complete in their order."""
        steps = self._index.steps
        done = steps.completed_t_ns[steps.completed_seq > 0]
        row = int(np.searchsorted(done, t_ns, side="right")) - 1
        return int(steps.step_id[max(row, 0)]) if t_ns else 0


def _running(first: int, last: int, prefilled: int) -> list[Span]:
    """Steps `first` to `last` of somebody who runs; step `prefilled` put out its first token."""
    spans: list[Span] = []
    if first <= prefilled:
        spans.append(("prefill", first, min(last, prefilled)))
    if last > prefilled:
        spans.append(("decode", max(first, prefilled + 1), last))
    return spans


def _ended_with(reason: FinishReason) -> Test:
    return lambda requests: (requests.finish_reason == reason) & (requests.finished_ns > 0)


_WORDS: dict[str, Test] = {
    "preempted": lambda requests: requests.num_preemptions > 0,
    "refused": lambda requests: requests.refused_status > 0,
    "running": lambda requests: (requests.finished_ns == 0) & (requests.first_seq_id > 0),
    **{reason.name.lower(): _ended_with(reason) for reason in FinishReason},
}
"""What may be searched for beside names."""
