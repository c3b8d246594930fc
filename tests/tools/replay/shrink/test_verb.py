"""`engine-replay shrink` on the command line: what it writes, what it says, how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from capturing import capture
from planted_bugs import LEAK, ROOT, STALL, STARVATION, PlantedBug, plant

from tokenreel.tools.exit_codes import EXIT_MISSING, EXIT_NO_SYMPTOM, EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main

CAPTURE = """\
import sys
from pathlib import Path
from tokenreel.tools.replay.under_test import use
use(Path(sys.argv[1]))
from capturing import CONFIG, REQUESTS, capture
from msgspec.structs import replace
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest, Stalled
config = replace(CONFIG, num_blocks=40, max_model_len=160, max_num_seqs=4, pipeline_depth=2)
requests = [replace(r, arrival=2 * r.arrival, n=1) for r in REQUESTS]
large = ScenarioRequest(num_prompt_tokens=158, max_tokens=2, arrival=9)
lone = ScenarioRequest(num_prompt_tokens=9, max_tokens=30, arrival=400, abort_after=8)
requests = sorted([*requests, large], key=lambda request: request.arrival) + [lone]
scenario = Scenario(config=config, requests=tuple(requests), turns_per_step=2)
try:
    print(capture(Path(sys.argv[2]), scenario=scenario))
except Stalled:
    (run,) = Path(sys.argv[2]).iterdir()
    print(run)
"""
SIMULATION = str(Path(__file__).resolve().parents[3] / "simulation")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("journals"))


def python(
    *arguments: str, path: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("bug", "symptom", "max_requests"),
    [(STALL, "stall", 1), (LEAK, "leak", 1), (STARVATION, "starves:3", 6)],
    ids=["stall", "leak", "starvation"],
)
def test_a_planted_bug_is_captured_found_shrunk_and_fixed(
    tmp_path: Path, bug: PlantedBug, symptom: str, max_requests: int
) -> None:
    """What the tutorial tells, through the command line alone."""
    core = plant(tmp_path / "buggy" / "tokenreel", bug)
    captured = python("-c", CAPTURE, str(core), str(tmp_path / "journals"), path=SIMULATION)
    assert captured.returncode == 0, captured.stderr
    journal = captured.stdout.strip()
    test = tmp_path / "test_shrunk.py"
    verb = ["-m", "tokenreel.tools.replay", "shrink", journal, "--core", str(core)]
    shrunk = python(*verb, "--symptom", symptom, "--out", str(test), "--json")
    assert shrunk.returncode == EXIT_OK, shrunk.stdout + shrunk.stderr
    report = json.loads(shrunk.stdout)
    assert report["symptom"] == symptom
    assert report["is_minimal"]
    assert report["num_requests_left"] <= max_requests
    assert len(test.read_text().splitlines()) < 40

    run_test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(test)]
    overlay = python(*run_test, path=str(overlay_of(tmp_path, core)), cwd=tmp_path)
    assert overlay.returncode == 1, overlay.stdout + overlay.stderr
    assert "1 failed" in overlay.stdout
    fixed = python(*run_test, cwd=tmp_path)
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr


def test_the_tutorial_shows_these_bugs() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    for bug in (STALL, LEAK, STARVATION):
        removed = "".join(f"-{line}" for line in bug.right.splitlines(keepends=True))
        added = "".join(f"+{line}" for line in bug.wrong.splitlines(keepends=True))
        assert f"+++ b/actors/core/{bug.file}\n" in tutorial
        assert removed + added in tutorial


def overlay_of(directory: Path, core: Path) -> Path:
    """The package as installed, but with this core: as if the mistake were in what is installed."""
    import tokenreel.actors.runtime

    installed = Path(tokenreel.actors.runtime.__file__).parents[1]
    actors = core / "actors"
    for entry in installed.iterdir():
        if entry.name not in ("core", "__pycache__"):
            (actors / entry.name).symlink_to(entry)
    return core.parent


def ask(*arguments: str | Path) -> int:
    return main(["shrink", *map(str, arguments)])


def test_a_run_with_nothing_wrong_is_said_to_be_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test_it.py"
    assert ask(run, "--out", test) == EXIT_NO_SYMPTOM
    assert "not shrunk: the run of 40 requests: nothing wrong shows" in capsys.readouterr().out
    assert ask(run, "--out", test, "--symptom", "exception:KeyError") == EXIT_NO_SYMPTOM
    assert "exception:KeyError does not show" in capsys.readouterr().out
    assert ask(run, "--out", test, "--symptom", "leak", "--json") == EXIT_NO_SYMPTOM
    assert json.loads(capsys.readouterr().out)["symptom"] is None
    assert not test.exists()


def test_a_predicate_of_the_users_own_is_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicate = tmp_path / "mine.py"
    predicate.write_text(
        "def preempts(played):\n"
        "    n = played.transcript.num_preemptions\n"
        "    return n and f'{n} preemptions in {len(played.events)} events'\n"
    )
    test = tmp_path / "test_mine.py"
    assert ask(run, "--symptom", f"predicate:{predicate}:preempts", "--out", test) == EXIT_OK
    said = capsys.readouterr().out
    assert "preemptions in" in said
    assert "shrunk   to 1 request in" in said, said
    names: dict[str, object] = {}
    exec(compile(test.read_text(), str(test), "exec"), names)
    (written,) = (value for name, value in names.items() if name.startswith("test_"))
    with pytest.raises(AssertionError):
        written()  # type: ignore[operator]


def test_a_predicate_that_fails_is_the_users_fault(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicate = tmp_path / "mine.py"
    predicate.write_text("def shows(played):\n    return played.nothing\n")
    for place, complaint in (
        (f"{predicate}", "raised AttributeError"),
        (f"{predicate}", f"({predicate}, line 2)"),
        (f"{predicate}:other", "has no function 'other'"),
        (f"{tmp_path}/none.py", "No such file"),
    ):
        assert ask(run, "--symptom", f"predicate:{place}") == EXIT_USAGE
        assert complaint in capsys.readouterr().err


def test_a_divergence_is_told_by_another_core(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference lets the shortest prompt go first; what is installed does not."""
    reference = plant(tmp_path / "reference", STARVATION)
    test = tmp_path / "test_it.py"
    arguments = (run, "--symptom", "divergence", "--reference", reference, "--out", test)
    assert ask(*arguments) == EXIT_OK
    said = capsys.readouterr().out
    assert "the reference says" in said
    names: dict[str, object] = {}
    exec(compile(test.read_text(), str(test), "exec"), names)
    with pytest.raises(AssertionError):
        names["test_divergence"]()  # type: ignore[operator]


def test_neither_core_need_be_the_installed_one(run: Path, tmp_path: Path) -> None:
    core, test = plant(tmp_path / "core", STARVATION), tmp_path / "test_it.py"
    cores = ("--core", core, "--reference", ROOT)
    assert ask(run, "--symptom", "divergence", *cores, "--out", test) == EXIT_OK
    passed = python("-m", "pytest", "-q", str(test), cwd=tmp_path)
    assert passed.returncode == 0, passed.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--symptom", "nonsense"], "there is none such"),
        (["--symptom", "stall:3"], "there is none such"),
        (["--symptom", "starves:none"], "a number of steps"),
        (["--symptom", "divergence"], "needs --reference"),
        (["--reference", "/"], "no checkout"),
        (["--core", "/"], "no checkout"),
        (["--out", "/nowhere/test_x.py"], "no directory /nowhere"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert ask(run, *arguments) == EXIT_USAGE
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_file_of_somebody_else_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test_mine.py"
    test.write_text("# years of work\n")
    assert ask(run, "--out", test) == EXIT_USAGE
    assert "is there already" in capsys.readouterr().err
    assert test.read_text() == "# years of work\n"


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    assert ask(tmp_path / "nothing") == EXIT_MISSING


def test_a_run_that_cannot_be_played_in_time_is_not_shrunk(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(run, "--seconds", "0.000001") == EXIT_NO_SYMPTOM
    assert "time was up" in capsys.readouterr().out
