"""What the page is told of a journal is what a replay of it finds, in whatever order it asks."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from capturing import CONFIG

from tokenreel.messages.steps import SequencePreempted, StepScheduled
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.view.recorded import NotRecorded, Recorded

States = dict[int, dict[str, Any]]


def told(recorded: Recorded, step: int) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(recorded.step(step))
    return answer


def known(answer: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in state}


def plain(state: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(state))


def test_every_state_is_the_one_of_a_replay_from_the_start(journal: Path, states: States) -> None:
    recorded = Recorded(journal, installed_core())
    assert len(states) > 100
    for step, state in states.items():
        assert known(told(recorded, step), state) == plain(state)


@pytest.mark.parametrize("order", ["backwards", "at random"])
def test_the_order_of_the_questions_changes_no_answer(
    journal: Path, states: States, order: str
) -> None:
    recorded = Recorded(journal, installed_core())
    steps = sorted(states, reverse=True)
    if order == "at random":
        random.Random(5).shuffle(steps)
    for step in steps:
        assert known(told(recorded, step), states[step]) == plain(states[step])


def test_whoever_goes_back_step_by_step_does_not_replay_for_each(
    journal: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(journal, installed_core())
    walks = []
    walk = recorded._index.walk
    monkeypatch.setattr(recorded._index, "walk", lambda seq: walks.append(seq) or walk(seq))
    for step in range(100, 40, -1):
        told(recorded, step)
    assert len(walks) < 10
    for step in range(101, 130):
        told(recorded, step)
    assert len(walks) < 11


def test_a_step_that_is_not_there_is_told_so(recorded: Recorded, states: States) -> None:
    for step in (0, max(states) + 1, 10**18):
        with pytest.raises(NotRecorded, match=f"step {step} is not in the journal"):
            recorded.step(step)


def test_the_run_as_a_whole_is_told(recorded: Recorded, states: States, journal: Path) -> None:
    run = recorded.run()
    assert run["run_id"] == journal.name
    assert run["steps"] == {"first": 1, "last": max(states), "count": len(states)}
    assert run["config"] == msgspec.to_builtins(CONFIG)
    preemptions = sum(len(state["preempted"]) for state in states.values())
    assert run["totals"]["preemptions"] == preemptions > 0
    assert run["totals"]["requests"] == 40
    assert (run["is_live"], run["has_ended"], run["is_same_code"]) == (False, True, True)


def test_jumps_lead_to_the_steps_that_are_marked(recorded: Recorded, states: States) -> None:
    marked = [step for step, state in states.items() if state["preempted"]]
    found, step = [], 0
    while (next_step := recorded.next_step("preemption", step, True)["step"]) is not None:
        found.append(step := next_step)
    assert found == marked
    assert recorded.next_step("preemption", marked[2], False)["step"] == marked[1]
    assert recorded.next_step("preemption", marked[0], False)["step"] is None
    assert recorded.next_step("divergence", 0, True)["step"] is None


def test_a_cache_miss_is_a_step_in_which_somebody_computes_what_could_have_been_cached(
    recorded: Recorded, journal: Path
) -> None:
    missed = []
    for event in recorded_events(open_journal(journal)):
        for effect in event.effects:
            if isinstance(effect, StepScheduled) and any(
                len(a.block_ids) < (len(a.token_ids) - 1) // CONFIG.block_size for a in effect.added
            ):
                missed.append(effect.step_id)
    found, step = [], 0
    while (next_step := recorded.next_step("miss", step, True)["step"]) is not None:
        found.append(step := next_step)
    assert found == missed and missed


def test_where_the_code_decides_otherwise_both_are_told(
    journal: Path, other_code: CoreCode, states: States
) -> None:
    recorded = Recorded(journal, other_code)
    assert recorded.run()["totals"]["divergences"] == 1
    step = recorded.next_step("divergence", 0, True)["step"]
    assert step == 60
    answer = told(recorded, step)
    assert "recorded" in answer["differs"][0] and "now" in answer["differs"][0]
    assert answer["running"]["count"] == states[step]["running"]["count"]
    assert known(told(recorded, step - 1), states[step - 1]) == plain(states[step - 1])


def test_behind_a_divergence_the_record_alone_is_shown_up_to_the_next_snapshot(
    journal: Path, other_code: CoreCode, states: States
) -> None:
    recorded = Recorded(journal, other_code)
    lost = told(recorded, 61)
    assert lost["pool"] is None and lost["running"]["first"] == []
    assert lost["budget"] == states[61]["budget"]
    assert lost["running"]["count"] == states[61]["running"]["count"]
    assert "recorded" in lost["differs"][0]
    last = max(states)  # in a later segment, which starts from a snapshot
    assert known(told(recorded, last), states[last]) == plain(states[last])


def test_what_is_written_meanwhile_is_taken_up(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / journal.name
    copy.mkdir()
    segments = sorted(journal.glob("*.tkr"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    assert len(segments) > 3
    for segment in segments[:2]:
        (copy / segment.name).write_bytes(segment.read_bytes())
    recorded = Recorded(copy, installed_core())
    before = recorded.run()["steps"]
    shown = recorded.step(before["last"])
    for segment in segments[2:]:
        (copy / segment.name).write_bytes(segment.read_bytes())
    assert recorded.look_again() >= 1.0
    after = recorded.run()["steps"]
    assert after["first"] == before["first"] and after["last"] > before["last"]
    assert told(recorded, before["last"])["running"] == msgspec.json.decode(shown)["running"]
    assert told(recorded, after["last"])["step"] == after["last"]


def preempted_steps(journal: Path, seq_id: int) -> list[tuple[int, int]]:
    """From which step to which a sequence was away, read off the records."""
    away, found, step = None, [], 0
    for event in recorded_events(open_journal(journal)):
        for effect in event.effects:
            if isinstance(effect, SequencePreempted) and effect.seq_id == seq_id:
                away = step + 1
            elif isinstance(effect, StepScheduled):
                step = effect.step_id
                if away is not None and any(a.seq_id == seq_id for a in effect.added):
                    found.append((away, step - 1))
                    away = None
    return found


def test_a_life_has_its_preemptions_where_they_were(recorded: Recorded, journal: Path) -> None:
    preempted = recorded.find_requests("preempted")["requests"]
    alone = [request for request in preempted if len(request["seqs"]) == 1]
    assert alone
    for request in alone:
        spans = recorded.request(request["id"])["spans"]
        away = [(first, last) for kind, first, last in spans if kind == "preempted"]
        resumed = preempted_steps(journal, request["seqs"][0])
        assert away[: len(resumed)] == resumed


def test_a_life_has_no_hole_and_no_overlap(recorded: Recorded) -> None:
    for request in recorded.find_requests("")["requests"]:
        spans = recorded.request(request["id"])["spans"]
        if len(request["seqs"]) != 1:
            continue
        for (_, _, last), (_, first, _) in zip(spans, spans[1:], strict=False):
            assert first == last + 1, spans


def test_who_runs_at_a_step_is_in_prefill_or_decode_there(
    recorded: Recorded, states: States
) -> None:
    lives = {r["id"]: recorded.request(r["id"]) for r in recorded.find_requests("")["requests"]}
    num_checked = 0
    for step, state in states.items():
        for sequence in state["running"]["first"]:
            life = lives[sequence["request"]]
            if len(life["seqs"]) == 1 and sequence["chunk"]:
                (kind,) = [kind for kind, first, last in life["spans"] if first <= step <= last]
                assert kind in ("prefill", "decode"), (step, life)
                if not life["preemptions"]:
                    is_prefill = sequence["scheduled"] <= sequence["prompt"]
                    assert kind == ("prefill" if is_prefill else "decode"), (step, life)
                num_checked += 1
    assert num_checked > 200


def test_who_is_over_was_last_computed_where_its_life_ends(
    recorded: Recorded, states: States
) -> None:
    last_step: dict[str, int] = {}
    for step, state in states.items():
        for sequence in state["running"]["first"]:
            if sequence["chunk"]:
                last_step[sequence["request"]] = step
    lives = [recorded.request(r["id"]) for r in recorded.find_requests("length")["requests"]]
    assert len(lives) > 10
    for life in lives:
        assert life["spans"][-1][2] == last_step[life["id"]], life


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("1.7", ["1.7"]),
        ("s2", ["1.0"]),
        ("1.39", ["1.39"]),
        ("s1", ["1.0"]),
        ("nothing like it", []),
        ("9.9", []),
    ],
)
def test_requests_are_found_by_their_names(recorded: Recorded, query: str, ids: list[str]) -> None:
    assert [request["id"] for request in recorded.find_requests(query)["requests"]] == ids


def test_the_one_of_the_very_name_comes_first(recorded: Recorded) -> None:
    for name in ("1.1", "1.2", "1.3"):
        found = recorded.find_requests(name)["requests"]
        assert found[0]["id"] == name and len(found) > 9
        assert all(request["id"].startswith(name) for request in found)


def test_requests_are_found_by_what_became_of_them(recorded: Recorded) -> None:
    aborted = recorded.find_requests("abort")
    assert aborted["total"] == len(aborted["requests"]) > 0
    assert {request["reason"] for request in aborted["requests"]} == {"abort"}
    everyone = recorded.find_requests("")["requests"]
    assert [r["preemptions"] for r in everyone] == sorted(
        (r["preemptions"] for r in everyone), reverse=True
    )


def test_an_unknown_request_is_told_so(recorded: Recorded) -> None:
    for name in ("1.999", "s999999", "<script>", "", "1." + "9" * 90):
        with pytest.raises(NotRecorded, match="no such request"):
            recorded.request(name)
