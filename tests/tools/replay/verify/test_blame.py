"""A difference is blamed on what explains it, in the order of what is cheapest to know."""

import json
import platform
import re
from typing import Any

import msgspec
import pytest

from tokenreel.messages.journal import JournalDamaged
from tokenreel.messages.journal_meta import Meta
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.verify.blame import (
    CODE_CHANGE,
    CONFIGURATION,
    DAMAGED_JOURNAL,
    NONDETERMINISM,
    UNKNOWN,
    cause_of,
)
from tokenreel.tools.replay.verify.divergence import Aftermath, Divergence
from tokenreel.tools.replay.verify.report import failure_as_json
from tokenreel.tools.replay.verify.verify import Range, Totals, Verdict

EQUAL: dict[str, Any] = {"outcome": "equal", "divergence": None}


def diverged_at(seq: int) -> dict[str, Any]:
    return {"outcome": "diverged", "divergence": {"seq": seq}}


class Configuration(msgspec.Struct, frozen=True):
    num_blocks: int


def verdict(**of_meta: Any) -> Verdict:
    meta = Meta(
        version="",
        commit="",
        source_hash=b"same",
        python=platform.python_version(),
        logic_version=1,
        configuration={"num_blocks": 1},
        facts={},
        seeds={},
        vocabulary={},
    )
    unused: Any = None
    code = CoreCode(Configuration, unused, unused, (), logic_version=1, source_hash=b"same")
    meta = msgspec.structs.replace(meta, **of_meta)
    totals = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    return Verdict([], None, meta, Configuration(1), code, totals, [], None, Range(0, 1))


@pytest.mark.parametrize(
    ("of_meta", "kind", "detail"),
    [
        ({"logic_version": 7, "source_hash": b"other"}, CODE_CHANGE, "another logic version: 7 th"),
        ({"configuration": {"num_blocks": 1, "swap": 2}}, CONFIGURATION, "fields unknown .*swap"),
        ({"source_hash": b"other"}, CODE_CHANGE, "its source has changed since"),
        ({"configuration": {}, "source_hash": b"other"}, CODE_CHANGE, "new in it: num_blocks"),
        ({}, UNKNOWN, "not the code, which is the same"),
    ],
)
def test_what_is_known_without_another_replay(
    of_meta: dict[str, Any], kind: str, detail: str
) -> None:
    cause = cause_of(verdict(**of_meta), None)
    assert cause.kind == kind
    assert re.search(detail, cause.detail)


def test_replays_that_differ_under_hash_seeds_are_nondeterminism() -> None:
    reports: dict[str, dict[str, Any]] = {
        "1": diverged_at(5),
        "2": diverged_at(9),
    }
    assert cause_of(verdict(), reports.get).kind == NONDETERMINISM
    reports["2"] = EQUAL
    assert cause_of(verdict(), reports.get).kind == NONDETERMINISM
    changed = cause_of(verdict(source_hash=b"other"), reports.get)
    assert changed.kind == NONDETERMINISM and "source has changed since, too" in changed.detail
    reports["2"] = reports["1"]
    agreeing = cause_of(verdict(), reports.get)
    assert agreeing.kind == UNKNOWN and "agree with each other" in agreeing.detail


def test_replays_that_decide_as_recorded_under_other_hash_seeds_are_nondeterminism() -> None:
    cause = cause_of(verdict(source_hash=b"other"), lambda seed: EQUAL)
    assert cause.kind == NONDETERMINISM and "decide as recorded" in cause.detail


def test_another_python_is_named_where_nothing_else_explains_it() -> None:
    cause = cause_of(verdict(python="3.9.1"), lambda seed: diverged_at(5))
    assert cause.kind == UNKNOWN and "recorded under Python 3.9.1" in cause.detail


@pytest.mark.parametrize(
    "report",
    [
        None,
        json.loads(failure_as_json(RuntimeError("out of order"))),
        json.loads(failure_as_json(JournalDamaged("engine-1-0.tkr", 7, "bad"))),
    ],
)
def test_a_replay_without_a_verdict_leaves_the_question_open(report: dict[str, Any] | None) -> None:
    assert "did not finish" in cause_of(verdict(), lambda seed: report).detail
    reports = {"1": report, "2": diverged_at(5)}
    assert cause_of(verdict(), reports.get).kind == UNKNOWN


@pytest.mark.parametrize(
    ("components", "behind", "kind"),
    [
        ((), Aftermath(num_steps=9, num_steps_agreed=9), DAMAGED_JOURNAL),
        ((), Aftermath(num_steps=9, num_steps_agreed=8), UNKNOWN),
        ((), Aftermath(), UNKNOWN),
        (("queues",), Aftermath(num_steps=9, num_steps_agreed=8), DAMAGED_JOURNAL),
        (("queues",), Aftermath(num_steps=1, num_steps_agreed=0), UNKNOWN),
        ((), Aftermath(num_steps=9, num_steps_agreed=9, raised="KeyError"), UNKNOWN),
    ],
)
def test_a_record_that_all_behind_it_contradicts_is_a_damaged_journal(
    components: tuple[str, ...], behind: Aftermath, kind: str
) -> None:
    divergence = Divergence(
        seq=1,
        segment="",
        offset=0,
        step=1,
        last_step_agreed=0,
        input_seq=0,
        input="",
        path="",
        recorded="",
        replayed="",
        components=components,
        aftermath=behind,
    )
    found = verdict()._replace(divergences=[divergence])
    assert cause_of(found, None).kind == kind
    meta = msgspec.structs.replace(found.meta, source_hash=b"other")
    assert cause_of(found._replace(meta=meta), None).kind == CODE_CHANGE
