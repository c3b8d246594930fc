"""What a verb raises becomes an exit code and words a terminal shows, never a traceback."""

from pathlib import Path

import pytest

from tokenreel.tools.command import Command
from tokenreel.tools.exit_codes import (
    EXIT_DAMAGED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_OK,
    EXIT_USAGE,
)

VERB = '''
"""The module of a verb: what it raises is what it is asked to."""
from tokenreel.tools.command import UsageError

def add_arguments(parser):
    parser.description = "First paragraph, " + "long " * 40 + "and over.\\n\\nSecond."
    parser.add_argument("--raise-it", default="None")

def run(options):
    if (error := eval(options.raise_it)) is not None:
        raise error
    print(options.more)
    return 0
'''


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    package = tmp_path / "verbs_for_a_test"
    package.mkdir()
    (package / "try_it.py").write_text(VERB)
    (package / "broken.py").write_text("raise AssertionError('imported without need')")
    monkeypatch.syspath_prepend(tmp_path)
    return Command(
        name="engine-test",
        description="A command.",
        verbs={"broken": "is never asked for", "try-it": "does it work?"},
        package=package.name,
        exit_codes="exit codes: some",
        problems={LookupError: (EXIT_DAMAGED, "damaged: "), ValueError: (EXIT_IO, "")},
    )


def test_the_verb_finds_what_is_handed_to_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["try-it"], more="handed over") == EXIT_OK
    assert capsys.readouterr().out == "handed over\n"


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        ("UsageError('so not')", EXIT_USAGE, "so not"),
        ("LookupError('block 3')", EXIT_DAMAGED, "damaged: block 3"),
        ("KeyError('x')", EXIT_DAMAGED, "damaged: 'x'"),
        ("ValueError('first\\nsecond \\x1b[2J')", EXIT_IO, "first\nsecond \\x1b[2J"),
        ("OSError(28, 'No space', 'out.json')", EXIT_IO, "out.json: No space"),
        ("TypeError('?')", EXIT_FAULT, "a fault of this tool: TypeError: ?"),
    ],
)
def test_what_went_wrong_is_told_in_few_words(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    error: str,
    exit_code: int,
    told: str,
) -> None:
    assert command.run(["try-it", "--raise-it", error]) == exit_code
    captured = capsys.readouterr()
    assert captured.err == f"engine-test: {told}\n" and captured.out == ""


def test_an_interrupted_verb_is_no_fault(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["try-it", "--raise-it", "KeyboardInterrupt()"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [[], ["other"], ["try-it", "--raise", "None"]])
def test_wrong_words_and_abbreviated_flags_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.run(words)
    assert ended.value.code == EXIT_USAGE
    assert capsys.readouterr().err.startswith("usage: engine-test")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_fits_the_terminal_and_keeps_its_paragraphs(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        command.run(["try-it", "--help"])
    told = capsys.readouterr().out
    assert not ended.value.code
    assert max(map(len, told.splitlines())) <= min(columns, 100)
    assert "and over.\n\nSecond." in told and "exit codes: some" in told
