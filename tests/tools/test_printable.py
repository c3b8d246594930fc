"""A terminal is sent signs only."""

import pytest

from tokenreel.tools.printable import printable, printable_lines


@pytest.mark.parametrize("line", ["", "plain", "größer als 5 µs … ✕", "  indented\u2026"])
def test_signs_stay_what_they_are(line: str) -> None:
    assert printable(line) == line


def test_whatever_is_no_sign_is_escaped() -> None:
    assert printable("a\nb\t\x1b\x9b\u202e") == "a\\nb\\t\\x1b\\x9b\\u202e"


def test_lines_of_a_text_stay_apart() -> None:
    assert printable_lines("a\x1b\n\nb\t") == "a\\x1b\n\nb\\t"
