"""A difference is blamed on what explains it, in the order of what is cheapest to know."""

import re
from typing import Any

import msgspec
import pytest

from tokenreel.messages.journal_meta import Meta
from tokenreel.tools.replay.blame import blame
from tokenreel.tools.replay.core_code import CoreCode
from tokenreel.tools.replay.verify import Totals, Verdict


class Configuration(msgspec.Struct, frozen=True):
    num_blocks: int


def verdict(**of_meta: Any) -> Verdict:
    meta = Meta(
        version="",
        commit="",
        source_hash=b"same",
        python="",
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
    return Verdict([], None, meta, Configuration(1), code, totals, [], None)


@pytest.mark.parametrize(
    ("of_meta", "expected"),
    [
        ({"logic_version": 7, "source_hash": b"other"}, "another logic version: 7 then, 1 now"),
        ({"configuration": {"num_blocks": 1, "swap": 2}}, "the configuration: .* unknown .*swap"),
        ({"source_hash": b"other"}, "the code: its source has changed since"),
        ({}, "not the code: the journal, or nondeterminism"),
    ],
)
def test_what_is_known_without_another_replay(of_meta: dict[str, Any], expected: str) -> None:
    assert re.match(expected, blame(verdict(**of_meta), None))


def test_replays_that_differ_under_hash_seeds_are_nondeterminism() -> None:
    reports: dict[str, dict[str, Any]] = {
        "1": {"divergence": {"seq": 5}},
        "2": {"divergence": {"seq": 9}},
    }
    assert blame(verdict(), reports.get).startswith("nondeterminism")
    reports["2"] = {"divergence": None}
    assert blame(verdict(), reports.get).startswith("nondeterminism")
    reports["2"] = reports["1"]
    assert blame(verdict(), reports.get).startswith("the journal")


def test_a_replay_without_a_verdict_leaves_the_question_open() -> None:
    assert "did not finish" in blame(verdict(), lambda seed: None)
