"""What actors write reaches the terminal by whole lines, and a lost terminal harms nothing."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.runtime.console import MAX_LINE_BYTES, Console, LineSplitter


class LostTerminal(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@settings(derandomize=True, deadline=None)
@given(text=st.text(st.sampled_from("ab \n")), cuts=st.lists(st.integers(0, 40)))
def test_lines_are_the_same_however_the_bytes_come(text: str, cuts: list[int]) -> None:
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = LineSplitter()
    lines = [
        line
        for start, end in zip(bounds, bounds[1:], strict=False)
        for line in splitter.feed(data[start:end])
    ]
    lines += splitter.finish()
    assert lines == text.removesuffix("\n").split("\n") if text else lines == []


def test_an_endless_line_comes_in_pieces() -> None:
    splitter = LineSplitter()
    pieces = splitter.feed(b"x" * (2 * MAX_LINE_BYTES + 10))
    assert [len(piece) for piece in pieces] == [MAX_LINE_BYTES, MAX_LINE_BYTES]
    assert splitter.finish() == ["x" * 10]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert LineSplitter().feed(b"a\xffb\r\n") == ["a\ufffdb"]


def test_lines_of_an_actor_carry_its_role_and_go_to_stderr() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    console.relay("worker", "loading")
    console.complain("no")
    console.say("yes")
    assert err.getvalue() == "worker          | loading\nengine-up: no\n"
    assert out.getvalue() == "yes\n"


def test_a_lost_terminal_is_no_error() -> None:
    console = Console(LostTerminal(), LostTerminal())
    console.say("x")
    console.complain("x")
    console.relay("worker", "x")
