"""Spans replayed beside each other say what one replay in a row says, whatever there is to say."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from capturing import capture
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import drifting_at, lying_at, misremembering_before, raising_at, unable_to_restore

from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.journal import (
    EFFECT,
    INPUT,
    LAST_OF_WRITE,
    META,
    RUN_ENDED,
    SNAPSHOT,
    JournalDamaged,
    Record,
    join_snapshot,
)
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.reading.journal import Journal, open_journal, read_records
from tokenreel.tools.replay.verify.spans import Span, split
from tokenreel.tools.replay.verify.verify import Range, Verdict, verify


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return open_journal(capture(tmp_path_factory.mktemp("journals"), events_per_segment=25))


def told(verdict: Verdict) -> dict[str, Any]:
    """All of a verdict but how long it took."""
    totals = verdict.totals._replace(duration_ns=0)
    return {
        "divergences": msgspec.to_builtins(verdict.divergences),
        "damage": msgspec.to_builtins(verdict.damage),
        "skipped": msgspec.to_builtins(verdict.skipped),
        "reproduced": msgspec.to_builtins(verdict.reproduced),
        "totals": totals._asdict(),
        "meta": verdict.meta,
    }


def asked(journal: Journal, code: CoreCode, jobs: int, **options: Any) -> Any:
    try:
        return told(verify(journal, code, jobs=jobs, **options))
    except JournalDamaged as damage:
        return str(damage)


def test_a_journal_is_split_at_its_segments_into_spans_that_keep_every_job_busy(
    journal: Journal,
) -> None:
    num_segments = len(journal.segments)
    assert num_segments > 12
    assert split(journal, 0, num_segments, 1) == [Span(0, num_segments)]
    for jobs in (2, 3, 50):
        spans = split(journal, 2, num_segments, jobs)
        assert spans[0].first == 2 and spans[-1].end == num_segments
        assert all(one.end == other.first for one, other in zip(spans, spans[1:], strict=False))
        assert len(spans) >= min(jobs, num_segments - 2)


def test_an_equal_run_is_equal_with_any_number_of_jobs(journal: Journal) -> None:
    alone = asked(journal, installed_core(), 1)
    assert alone["divergences"] == []
    assert asked(journal, installed_core(), 2) == alone
    assert asked(journal, installed_core(), 7) == alone


kinds = st.sampled_from([lying_at, drifting_at, raising_at])


@settings(derandomize=True, deadline=None, max_examples=12)
@given(kinds, st.sets(st.integers(1, 110), min_size=1, max_size=4), st.sampled_from([1, 2, 3, 50]))
def test_every_divergence_is_found_and_explained_alike(
    journal: Journal, kind: Any, steps: set[int], max_divergences: int
) -> None:
    code = kind(*steps)
    alone = asked(journal, code, 1, max_divergences=max_divergences)
    assert asked(journal, code, 3, max_divergences=max_divergences) == alone
    assert [divergence["step"] for divergence in alone["divergences"][:1]] == [min(steps)]


def test_one_divergence_per_segment_is_found_and_no_more_than_asked_for(journal: Journal) -> None:
    code = lying_at(10, 11, 40, 90)
    found = verify(journal, code, max_divergences=50).divergences
    assert {divergence.step for divergence in found} >= {10, 40, 90}
    assert len({divergence.segment for divergence in found}) == len(found)
    for limit in (1, 2):
        assert verify(journal, code, max_divergences=limit).divergences == found[:limit]
        assert verify(journal, code, max_divergences=limit, jobs=2).divergences == found[:limit]


def next_step_at(journal: Journal, index: int) -> int:
    """As the snapshot says with which segment `index` starts."""
    _, _, records = next(read_records(journal._replace(segments=[journal.segments[index]])))
    snapshot = join_snapshot([record.payload for record in records if record.type == SNAPSHOT])
    assert snapshot is not None
    step_id: int = msgspec.msgpack.decode(snapshot)["next_step_id"]
    return step_id


def test_a_state_that_only_the_next_snapshot_tells_from_the_recorded_one_is_found_alike(
    journal: Journal,
) -> None:
    for index in (4, 5, 8):
        code = misremembering_before(next_step_at(journal, index))
        alone = asked(journal, code, 1, max_divergences=3)
        assert asked(journal, code, 3, max_divergences=3) == alone
        found = alone["divergences"][0]
        assert found["path"] == "snapshot['num_ignored']"
        assert found["segment"] == journal.segments[index].name


def test_a_snapshot_that_this_code_cannot_start_from_is_met_as_one_replay_would(
    journal: Journal,
) -> None:
    """In a row it is only compared; after a divergence it is passed over, and said."""
    refused = {next_step_at(journal, index) for index in (5, 6)}
    able = unable_to_restore(installed_core(), refused.__contains__)
    assert asked(journal, able, 3) == asked(journal, installed_core(), 1)
    lying = unable_to_restore(lying_at(next_step_at(journal, 5) - 1), refused.__contains__)
    alone = asked(journal, lying, 1, max_divergences=9)
    assert [skipped["segment"] for skipped in alone["skipped"]] == [
        journal.segments[5].name,
        journal.segments[6].name,
    ]
    assert len(alone["divergences"]) == 1
    assert asked(journal, lying, 3, max_divergences=9) == alone
    alone_from_there = asked(journal, able, 1, within=Range(5, 9))
    assert "cannot start from this (ValueError: a field" in alone_from_there
    assert asked(journal, able, 3, within=Range(5, 9)) == alone_from_there


@pytest.fixture(scope="module")
def nonsense(journal: Journal, tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """The same run, but in segment 6 an event of it is no message, though sealed as one."""
    directory = tmp_path_factory.mktemp("nonsense")
    recorder = Recorder.create(directory, next(_records(journal, 0)).payload, sync="none")
    for index in range(len(journal.segments)):
        parts = []
        for number, record in enumerate(_records(journal, index)):
            payload = b"\xc1" if (index, number) == (6, 40) else record.payload
            if record.type == SNAPSHOT:
                parts.append(record.payload)
            elif parts:
                snapshot = join_snapshot(parts)
                assert snapshot is not None
                recorder.rotate(snapshot)
                parts = []
            if record.type not in (META, SNAPSHOT, RUN_ENDED):
                flags = record.flags & (INPUT | EFFECT)
                recorder.append(record.type, flags, payload, record.t_ns)
            if record.flags & LAST_OF_WRITE:
                recorder.commit()
    recorder.close()
    return open_journal(recorder.run_dir)


def _records(journal: Journal, index: int) -> Iterator[Record]:
    return next(read_records(journal._replace(segments=[journal.segments[index]])))[2]


def test_damage_is_met_alike_also_behind_divergences(nonsense: Journal) -> None:
    alone = asked(nonsense, installed_core(), 1)
    assert "engine-1-6.tkr, offset" in alone and "no message of this code" in alone
    assert asked(nonsense, installed_core(), 3) == alone
    first = asked(nonsense, lying_at(10), 1)
    assert first["divergences"] and first["damage"] is None
    assert asked(nonsense, lying_at(10), 3) == first
    both = asked(nonsense, lying_at(10), 1, max_divergences=9)
    assert both["divergences"] == first["divergences"]
    assert both["damage"]["segment"] == "engine-1-6.tkr"
    assert asked(nonsense, lying_at(10), 3, max_divergences=9) == both


def test_a_process_that_dies_is_done_without(journal: Journal) -> None:
    """Its span is replayed by whoever waits for it."""
    parent = os.getpid()
    fragile = installed_core()

    def restore(config: Any, snapshot: bytes) -> Any:
        if os.getpid() != parent:
            os._exit(1)
        return fragile.restore(config, snapshot)

    alone = asked(journal, fragile, 1)
    assert asked(journal, fragile._replace(restore=restore), 3) == alone


def test_the_progress_of_all_processes_is_told(journal: Journal) -> None:
    told_bytes: list[int] = []
    for jobs in (1, 3):
        told_bytes.clear()
        verify(journal, installed_core(), jobs=jobs, tick=told_bytes.append)
        num_bytes = sum(segment.committed_length for segment in journal.segments)
        assert 0.8 * num_bytes < sum(told_bytes) <= num_bytes
