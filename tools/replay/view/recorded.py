"""One journal as the page asks it. For one thread; a journal that grows is looked at again."""

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tokenreel.messages.journal import META
from tokenreel.messages.journal_meta import Meta, decode_meta
from tokenreel.messages.steps import StepScheduled
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.index.index import Index, open_index
from tokenreel.tools.replay.reading.events import RecordedEvent
from tokenreel.tools.replay.reading.journal import read_records
from tokenreel.tools.replay.view.divergences import (
    apply_again,
    divergences_of,
    divergent_steps,
)
from tokenreel.tools.replay.view.request_lives import RequestLives
from tokenreel.tools.replay.view.step_cache import Lost, StepCache
from tokenreel.tools.replay.view.step_state import step_state
from tokenreel.tools.replay.view.timeline import bins_of, next_where

KINDS = ("preemption", "miss", "divergence")
"""Of steps to jump to."""
NS = 1e9
MIN_REST_S = 1.0
REST_SHARE = 9
"""After a look at a journal that grows comes a rest of so many times its length."""


class NotRecorded(Exception):
    """The journal holds nothing of this; one line."""


class Recorded:
    def __init__(self, path: Path, code: CoreCode, progress: bool = False) -> None:
        """Opens the index of the journal at `path`; makes it if need be. Raises as that does."""
        self._path = path
        self._code = code
        index = open_index(path, progress, code)
        self._meta = _meta_of(index)
        self._origin_ns = _origin_of(index)
        self._cache = StepCache(index, _render)
        self._take(index)

    @property
    def run_id(self) -> str:
        return self._index.journal.run_id

    @property
    def is_live(self) -> bool:
        return self._index.journal.is_live

    def look_again(self) -> float:
        """Takes up what was written since; returns the seconds to rest before the next look."""
        began = time.monotonic()
        index = open_index(self._path, progress=False, code=self._code)
        self._cache.renew(index)
        self._take(index)
        return max(MIN_REST_S, REST_SHARE * (time.monotonic() - began))

    def run(self) -> dict[str, Any]:
        journal, steps, requests = self._index.journal, self._index.steps, self._index.requests
        return {
            "run_id": journal.run_id,
            "name": self._path.name,
            "is_live": journal.is_live,
            "has_ended": journal.has_ended,
            "notes": self._index.notes,
            "version": self._meta.version,
            "is_same_code": self._meta.source_hash == self._code.source_hash,
            "began_ns": str(journal.segments[0].header.wall_ns),
            "span_s": journal.span_ns / NS,
            "config": self._meta.configuration,
            "facts": {k: v for k, v in self._meta.facts.items() if isinstance(v, str)},
            "steps": {
                "first": int(steps.step_id[0]) if len(steps) else 0,
                "last": int(steps.step_id[-1]) if len(steps) else 0,
                "count": len(steps),
            },
            "totals": {
                "requests": len(requests),
                "preemptions": int(np.sum(steps.num_preempted)),
                "misses": int(np.count_nonzero(steps.num_missed_blocks)),
                "divergences": len(self._divergent),
            },
        }

    def bins(self, first: int, last: int, num_bins: int) -> dict[str, Any]:
        """Of the part of steps `first` to `last` that the journal can hold."""
        steps = self._index.steps
        last = min(last, int(steps.step_id[-1]) if len(steps) else 0)
        return bins_of(steps, min(first, last), last, num_bins, self._divergent, self._origin_ns)

    def step(self, step_id: int) -> bytes:
        """JSON: the state at a step, and what its record says. Raises NotRecorded."""
        steps = self._index.steps
        row = steps.row_of(step_id)
        if row is None:
            raise NotRecorded(f"step {step_id} is not in the journal")
        began, ended = int(steps.began_ns[row]), int(steps.ended_ns[row])
        is_last = row + 1 == len(steps)
        record = {
            "seq": int(steps.seq[row]),
            "t_s": (int(steps.t_ns[row]) - self._origin_ns) / NS,
            "duration_s": (ended - began) / NS if steps.completed_seq[row] else None,
            "next_in_s": None if is_last else int(steps.t_ns[row + 1] - steps.t_ns[row]) / NS,
            "hit_tokens": int(steps.num_cached_tokens[row]),
            "missed_blocks": int(steps.num_missed_blocks[row]),
        }
        state = self._divergent_state(step_id) or self._state(row)
        return msgspec.json.encode(record)[:-1] + b"," + state[1:]

    def find_requests(self, query: str) -> dict[str, Any]:
        return self._lives.find(query)

    def request(self, name: str) -> dict[str, Any]:
        """Raises NotRecorded."""
        life = self._lives.life(name)
        if life is None:
            raise NotRecorded("no such request in the journal")
        return life

    def next_step(self, kind: str, step_id: int, forward: bool) -> dict[str, Any]:
        steps = self._index.steps
        marked = {
            "preemption": lambda: steps.num_preempted > 0,
            "miss": lambda: steps.num_missed_blocks > 0,
            "divergence": lambda: np.isin(steps.step_id, self._divergent),
        }[kind]()
        return {"kind": kind, "step": next_where(steps, marked, step_id, forward)}

    def _take(self, index: Index) -> None:
        self._index = index
        self._divergent = divergent_steps(index)
        self._lives = RequestLives(index, self._origin_ns)

    def _state(self, row: int) -> bytes:
        try:
            return self._cache.state(row)
        except Lost:
            return self._recorded_only(row)

    def _divergent_state(self, step_id: int) -> bytes | None:
        """The state as the code that is asked has it, where it leaves the recorded run."""
        places = np.flatnonzero(self._divergent == step_id)
        if not len(places):
            return None
        found = apply_again(self._index, divergences_of(self._index)[int(places[0])])
        is_step = any(isinstance(effect, StepScheduled) for effect in found.effects)
        if found.engine is None or not is_step:
            row = self._index.steps.row_of(step_id)
            assert row is not None
            return self._recorded_only(row, found.differences)
        return _encoded(step_state(found.engine, found.effects), found.differences)

    def _recorded_only(self, row: int, differences: list[str] | None = None) -> bytes:
        """What the record itself says of a step that cannot be replayed."""
        steps = self._index.steps
        lost = ["from there on only what was recorded is shown, to the next recorded snapshot"]
        decode, total = int(steps.num_decode_tokens[row]), int(steps.num_tokens[row])
        limit = self._meta.configuration["max_num_batched_tokens"]
        nobody: dict[str, Any] = {"count": 0, "first": []}
        state = {
            "step": int(steps.step_id[row]),
            "budget": {"prefill": total - decode, "decode": decode, "limit": limit},
            "running": nobody | {"count": int(steps.num_running[row])},
            "waiting": nobody | {"count": int(steps.num_waiting[row])},
            "blocked": nobody,
            "finished": nobody,
            "preempted": [],
            "passed_over": None,
            "open_steps": [],
            "pool": None,
            "digest": [],
        }
        return _encoded(state, differences or lost)


def _render(engine: Any, event: RecordedEvent) -> bytes:
    return _encoded(step_state(engine, event.effects), [])


def _encoded(state: dict[str, Any], differences: list[str]) -> bytes:
    return msgspec.json.encode(state | {"differs": differences})


def _meta_of(index: Index) -> Meta:
    for _, _, records in read_records(index.journal):
        for record in records:
            if record.type == META:
                return decode_meta(record.payload)
    raise NotRecorded("the journal holds no META record")


def _origin_of(index: Index) -> int:
    """The instant since which times are told: the start of the journal. Where another clock wrote
    its header, as in a made one, the first step."""
    began = index.journal.segments[0].header.monotonic_ns
    return min(began, int(index.steps.t_ns[0])) if len(index.steps) else began
