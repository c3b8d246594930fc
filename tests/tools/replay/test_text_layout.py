"""What a journal holds is shown as signs: no terminal obeys it, and a line stays one."""

import io
import sys
from pathlib import Path

import pytest
from conversing import CONFIG, Asked, Conversation, converse

from tokenreel.actors.core.engine import Engine
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.requests import AdmitRequest
from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.writing import Capture, RunWriter, run_meta
from tokenreel.tools.replay.text_layout import labelled

HOSTILE = "\x1b[2J\x1b]0;owned\x07\nforged line\r\u202e\x7f\x9b"
SHOWN = "\\x1b[2J\\x1b]0;owned\\x07"


class HostileEngine(Engine):
    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, AdmitRequest) and len(event.prompt_token_ids) == 7:
            raise LookupError(HOSTILE)
        return super().apply(event)


@pytest.mark.parametrize("arguments", [["show"], ["show", "--effects"], ["why", "s1"]])
def test_what_a_worker_says_is_only_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    asked = Asked(prompt=[1, 2], outputs=[3], fails_at=1, failure=HOSTILE)
    run = converse(tmp_path / "run", [asked])
    verb, *more = arguments

    assert main([verb, str(run), *more]) == EXIT_OK

    _assert_only_signs(capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["show", "stats", "verify"])
def test_what_a_core_says_is_only_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    code = installed_core()._replace(create=HostileEngine, restore=HostileEngine.restore)
    with RunWriter(tmp_path / "run", run_meta(CONFIG)) as writer:
        with pytest.raises(LookupError):
            asked = [Asked(prompt=[1] * 7)]
            Conversation(HostileEngine(CONFIG), asked, Capture(writer)).play()

    main([verb, str(tmp_path / "run")], code)

    _assert_only_signs(capsys.readouterr().out)


def _assert_only_signs(out: str) -> None:
    assert SHOWN in out
    assert [line for line in out.split("\n") if not line.isprintable()] == []


def test_lines_are_wrapped_for_the_terminal_that_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "word " * 60

    def widest() -> int:
        return max(map(len, labelled("label", words)))

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert 80 < widest() <= 100  # a pipe or a file has no width
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert 70 < widest() <= 80
