"""The mutations still fit the core, and `verify` stops at each mutant exactly where it shows."""

import json
import subprocess
from pathlib import Path

import pytest

from tokenreel.tools.mutate import cli, laboratory
from tokenreel.tools.mutate.capture import capture
from tokenreel.tools.mutate.catalogue import MUTATIONS
from tokenreel.tools.mutate.judgement import Judgement, judge
from tokenreel.tools.mutate.laboratory import PACKAGE, try_all
from tokenreel.tools.mutate.mutation import CORE, Mutation, NoLongerApplies, mutated
from tokenreel.tools.mutate.scenarios import SCENARIOS
from tokenreel.tools.mutate.table import as_text

JOURNALS = ("mixed-depth-2", "gives-way-to-nobody")
MUTANTS = (
    "running-in-reverse",
    "skipped-fence",
    "evicts-most-recent",
    "blocks-rounded-down",
    "forgets-half",
    "length-one-late",
    "settled-too-soon",
    "grows-early",
)
"""A decision, a leak, an order, a count, an exception, an end, a snapshot, and nothing at all."""


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=list(MUTATIONS))
def test_every_mutation_still_applies_and_compiles(mutation: Mutation) -> None:
    source = (PACKAGE / CORE / mutation.file).read_text()
    compile(mutated(mutation, source), mutation.file, "exec")


def test_there_are_mutations_of_every_part_of_the_core() -> None:
    assert len(MUTATIONS) >= 50
    parts = {"scheduler", "kv_manager", "block_pool", "prefix_cache", "queues", "intake"}
    parts |= {"stopping", "engine", "sequence", "policy", "config"}
    assert {mutation.file.removesuffix(".py") for mutation in MUTATIONS.values()} == parts


def test_a_mutation_whose_text_is_gone_or_stands_twice_is_refused() -> None:
    mutation = Mutation("name", "file.py", "a < b", "a <= b", "mistake")
    assert mutated(mutation, "if a < b:") == "if a <= b:"
    for text in ("if a > b:", "a < b; a < b"):
        with pytest.raises(NoLongerApplies, match="not once"):
            mutated(mutation, text)


@pytest.fixture(scope="module")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judgement]:
    directory = tmp_path_factory.mktemp("mutants")
    journals = [capture(name, directory) for name in JOURNALS]
    mutations = [MUTATIONS[name] for name in MUTANTS]
    made = try_all(mutations, journals, directory, 2)
    assert list((directory / "mutants").iterdir()) == [], "no mutant is left lying about"
    return {judgement.mutation.name: judgement for judgement in made}


def test_verify_stops_at_exactly_the_first_record_that_shows_a_mutant(
    judgements: dict[str, Judgement],
) -> None:
    assert list(judgements) == list(MUTANTS)
    for judgement in judgements.values():
        assert judgement.verdict != "WRONG", as_text([judgement], JOURNALS, 0)
    seen = [name for name, judgement in judgements.items() if judgement.seen]
    assert seen == [name for name in MUTANTS if name != "grows-early"]


def test_what_is_compared_at_a_snapshot_alone_is_found_there(
    judgements: dict[str, Judgement],
) -> None:
    (sight,) = judgements["settled-too-soon"].seen
    assert (sight.journal, sight.what) == ("gives-way-to-nobody", "snapshot: settled")
    assert sight.verify_what.startswith("snapshot")


def test_a_mutant_that_no_journal_shows_is_listed_with_the_reason(
    judgements: dict[str, Judgement],
) -> None:
    text = as_text([judgements["grows-early"]], JOURNALS, 0)
    assert "cannot tell these 1 from the original" in text
    assert MUTATIONS["grows-early"].equivalent in " ".join(text.split())


def test_a_mutant_that_never_answers_is_stopped_and_named(tmp_path: Path) -> None:
    line = "    if num_outputs >="
    mutation = Mutation("spins", "stopping.py", line, f"    while True:\n        pass\n{line}", "-")
    journal = capture("juniors-with-a-prefix", tmp_path)
    (judgement,) = try_all([mutation], [journal], tmp_path, 1, max_cpu_s=0.3)
    assert (judgement.verdict, judgement.hangs) == ("hangs", ["juniors-with-a-prefix"])


def test_a_trial_that_breaks_is_no_verdict(tmp_path: Path) -> None:
    mutation = Mutation("broken", "stopping.py", "def finish_reason(", "def end_reason(", "-")
    journal = capture("juniors-with-a-prefix", tmp_path)
    (judgement,) = try_all([mutation], [journal], tmp_path, 1)
    assert judgement.is_wrong and "finish_reason" in judgement.trouble


def test_a_verify_that_stops_late_or_not_at_all_is_a_wrong_verdict() -> None:
    mutation = MUTATIONS["skipped-fence"]
    oracle = {"seq": 7, "step": 2, "what": "state: cache"}
    entry = {"journal": "j", "oracle": oracle, "hidden": None, "hangs": None}
    late = {"seq": 9, "step": 2, "what": "digest"}
    for verify, wrong in (({**oracle}, False), (late, True), (None, True)):
        judgement = judge(mutation, [{**entry, "verify": verify}], "")
        assert judgement.is_wrong is wrong
    surplus = judge(mutation, [{**entry, "oracle": None, "verify": late}], "")
    assert surplus.is_wrong, "verify may not see what is not there"


def test_every_scenario_of_the_tool_can_be_captured_twice_alike(tmp_path: Path) -> None:
    for name in ("stops", "strangers"):
        runs = [capture(name, _made(tmp_path / again)) for again in ("once", "twice")]
        assert _bytes_of(runs[0]) == _bytes_of(runs[1])
    assert set(JOURNALS) < set(SCENARIOS)


def test_the_command_tells_programs_and_refuses_names_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = str(capture("juniors-with-a-prefix", tmp_path))
    assert cli.main([journal, "--only", "length-one-late", "--json"]) == cli.EXIT_OK
    told = json.loads(capsys.readouterr().out)
    (mutant,) = told["mutants"]
    assert (mutant["name"], mutant["verdict"]) == ("length-one-late", "exact")
    assert mutant["seen"][0]["seq"] == mutant["seen"][0]["verify_seq"] > 0
    assert cli.main(["--only", "no-such-thing"]) == cli.EXIT_USAGE
    assert cli.main([str(tmp_path / "nowhere"), "--only", "length-one-late"]) == cli.EXIT_USAGE
    assert "no-such-thing" in capsys.readouterr().err


def test_a_wrong_verdict_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "Boom: it broke")

    journal = str(capture("juniors-with-a-prefix", tmp_path))
    monkeypatch.setattr(laboratory.subprocess, "run", fail)
    assert cli.main([journal, "--only", "length-one-late"]) == cli.EXIT_WRONG
    assert "WRONG  length-one-late: Boom: it broke" in capsys.readouterr().out


def _bytes_of(run_dir: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run_dir.glob("*.tkr"))]


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
